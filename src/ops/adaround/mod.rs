//! Learned rounding of weights (AdaRound, Nagel et al. 2020, arXiv 2004.10568), with a learned step (Genie, Jeon et al.
//! 2023): every weight chooses between the two values of its range next to it.
//!
//! With the codes `base` that rounding down gives, per row (output channel) a step and a zero point, and
//! `h(v) = clamp(1.2 sigmoid(v) - 0.1, 0, 1)`:
//! ```text
//! y = (clamp(base + h(v), low, high) + zero) * step
//! ```
//! Gradients `dy/dv = step h'(v)` where the code can move (`low <= base < high`), else 0, and `dy/dstep = code + zero`
//! summed over a row; `base` and `zero` are constants. [`rounding_penalty`] drives `h` to 0 or 1. Exact derivatives: nothing
//! is rounded until [`Rounding::codes`] does.

mod cases;
mod cpu;

pub use cases::cases;

use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::ops::row_loss;
use crate::quant::{Affine, Axis};
use crate::tensor::{DType, Tensor};

const OP: &str = "adaround";
/// Elements of one partial sum of the penalty, mirrored in `kernels/adaround.cu`.
const CHUNK: usize = 4096;

/// Kernel parameters, mirrored in `kernels/adaround.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: i32,
    length: i32,
    low: f32,
    high: f32,
}

/// Where the rounding of a weight starts: constants, and the choice that reproduces the weight.
pub struct Rounding {
    /// Codes of rounding down, not clamped, shape of the weight; integers as F32.
    pub base: Tensor,
    /// `[k]`; codes stand for `(code + zero) * step`.
    pub zero: Tensor,
    /// `[k]`.
    pub step: Tensor,
    /// Shape of the weight: `h(start)` is the fraction that was cut off.
    pub start: Tensor,
    bits: u8,
}

impl Rounding {
    /// Of `w[k ...]` (F32) under the ranges `lo[k]`, `hi[k]` of [`Affine`]. Host arithmetic. Errors on bits outside `2..=8`
    /// and on ranges of another length.
    pub fn new(w: &Tensor, lo: &Tensor, hi: &Tensor, bits: u8) -> Result<Self> {
        let device = w.device();
        let [rows, length] = Axis::Outer.rows(&w.shape());
        crate::ensure_op!((2..=8).contains(&bits), OP, "bits must be in 2..=8, got {bits}");
        let fits = lo.len() == rows && hi.len() == rows && length > 0;
        crate::ensure_op!(fits, OP, "{} with ranges of {} and {} elements", w.shape(), lo.len(), hi.len());
        let (w_host, lo, hi) = (w.to_vec::<f32>()?, lo.to_vec::<f32>()?, hi.to_vec::<f32>()?);
        let (mut base, mut start) = (Vec::with_capacity(w.len()), Vec::with_capacity(w.len()));
        let (mut zero, mut step) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for (row, w) in w_host.chunks_exact(length).enumerate() {
            let a = Affine::new(lo[row], hi[row], bits);
            (zero.push(a.zero), step.push(1.0 / a.scale));
            for w in w {
                let level = a.scale * w - a.zero;
                base.push(level.floor());
                let sigmoid = (level - level.floor() + 0.1) / 1.2;
                start.push((sigmoid / (1.0 - sigmoid)).ln());
            }
        }
        let tensor = |shape: &[usize], v: &[f32]| Tensor::from_slice(&device, shape, v);
        Ok(Self {
            base: tensor(&w.shape(), &base)?,
            zero: tensor(&[rows], &zero)?,
            step: tensor(&[rows], &step)?,
            start: tensor(&w.shape(), &start)?,
            bits,
        })
    }

    /// The weight as it is while rounding is learned: [`adaround`] with these constants.
    pub fn soft(&self, tape: &mut Tape, v: &Var, step: &Var) -> Result<Var> {
        adaround(tape, &self.base, v, step, &self.zero, self.bits)
    }

    /// Hard rounding: the codes that `v` chose (`h >= 1/2` is up), the ranges `lo[k]`, `hi[k]` of `step[k]`, and the values of
    /// the codes under those. The ranges' own zero point is the one here, so quantizing the values gives the codes again.
    /// Host arithmetic. Errors on a step that is not positive.
    pub fn harden(&self, v: &Tensor, step: &Tensor) -> Result<Hardened> {
        let device = v.device();
        let [rows, length] = Axis::Outer.rows(&v.shape());
        let (half, steps) = (f32::from(1u8 << (self.bits - 1)), ((1u32 << self.bits) - 1) as f32);
        let (base, v_host) = (self.base.to_vec::<f32>()?, v.to_vec::<f32>()?);
        let (zero, step) = (self.zero.to_vec::<f32>()?, step.to_vec::<f32>()?);
        let (mut codes, mut values) = (Vec::with_capacity(v.len()), Vec::with_capacity(v.len()));
        let (mut lo, mut hi) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        for row in 0..rows {
            crate::ensure_op!(step[row] > 0.0 && step[row].is_finite(), OP, "the step of row {row} is {}", step[row]);
            let low = (zero[row] - half) * step[row];
            (lo.push(low), hi.push(low + steps * step[row]));
            let a = Affine::new(lo[row], hi[row], self.bits);
            crate::ensure_op!(a.zero == zero[row], OP, "the range of row {row} lost its zero point");
            for i in row * length..(row + 1) * length {
                let code = a.clamp(base[i] + if v_host[i] >= 0.0 { 1.0 } else { 0.0 });
                codes.push(code as i8);
                values.push(a.value(code));
            }
        }
        Ok(Hardened {
            codes: Tensor::from_slice(&device, v.shape(), &codes)?,
            values: Tensor::from_slice(&device, v.shape(), &values)?,
            lo: Tensor::from_slice(&device, [rows], &lo)?,
            hi: Tensor::from_slice(&device, [rows], &hi)?,
        })
    }
}

/// What [`Rounding::harden`] decides.
pub struct Hardened {
    /// I8, shape of the weight.
    pub codes: Tensor,
    /// F32, shape of the weight.
    pub values: Tensor,
    pub lo: Tensor,
    pub hi: Tensor,
}

/// `[k ...]`: softly rounded values, see the module. `base` and `v` of one shape, `step` and `zero` `[k]`; F32 (F64 on the
/// CPU). Gradients to `v` and `step`. Errors on other shapes or bits outside `2..=8`.
pub fn adaround(tape: &mut Tape, base: &Tensor, v: &Var, step: &Var, zero: &Tensor, bits: u8) -> Result<Var> {
    crate::ensure_op!((2..=8).contains(&bits), OP, "bits must be in 2..=8, got {bits}");
    let [rows, length] = Axis::Outer.rows(&v.shape());
    row_loss::check_like(OP, "base", base, &v.value)?;
    row_loss::check_like(OP, "zero", zero, &step.value)?;
    crate::ensure_op!(
        step.value.len() == rows && step.dtype() == v.dtype() && (1..=1 << 30).contains(&v.value.len()),
        OP,
        "{} {:?} needs {rows} steps of its dtype, got {} {:?}",
        v.shape(),
        v.dtype(),
        step.shape(),
        step.dtype()
    );
    let half = f32::from(1u8 << (bits - 1));
    let p = Params { rows: rows as i32, length: length as i32, low: -half, high: half - 1.0 };
    let wanted = tape.wants(&[v, step]);
    let mut y = Tensor::empty_like(&v.value, v.shape())?;
    let room = || if wanted { Tensor::empty_like(&v.value, v.shape()).map(Some) } else { Ok(None) };
    // `code + zero`, and h'(v) where the code can move.
    let (mut level, mut slope) = (room()?, room()?);
    if let Some(gpu) = v.value.gpu() {
        Launch::over("adaround_fwd_f32", v.value.len(), 256)
            .ptr(base.address())
            .ptr(v.value.address())
            .ptr(step.value.address())
            .ptr(zero.address())
            .ptr(y.address())
            .ptr(row_loss::address(&level))
            .ptr(row_loss::address(&slope))
            .val(p)
            .run(gpu)?;
    } else {
        crate::for_real!(OP, v.dtype(), T => {
            let saved = level.as_mut().zip(slope.as_mut()).map(|(l, s)| [l.host_mut::<T>(), s.host_mut::<T>()]);
            cpu::forward::<T>(base.host(), v.value.host(), [step.value.host(), zero.host()], y.host_mut(), saved, p);
            Ok(())
        })?;
    }
    let Some((level, slope)) = level.zip(slope) else { return Ok(Var::constant(y)) };
    let op = AdaRoundOp { level, slope, step: step.value.clone(), p };
    Ok(tape.record_one(op, &[v, step], y))
}

struct AdaRoundOp {
    level: Tensor,
    slope: Tensor,
    step: Tensor,
    p: Params,
}

impl Op for AdaRoundOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut dv = Tensor::empty_like(&dy, dy.shape())?;
        let mut dstep = Tensor::empty_like(&dy, self.step.shape())?;
        if let Some(gpu) = dy.gpu() {
            Launch::new("adaround_bwd_f32")
                .grid([self.p.rows.clamp(1, 65_535) as u32, 1, 1])
                .block([256, 1, 1])
                .ptr(self.level.address())
                .ptr(self.slope.address())
                .ptr(self.step.address())
                .ptr(dy.address())
                .ptr(dv.address())
                .ptr(dstep.address())
                .val(self.p)
                .run(gpu)?;
        } else {
            crate::for_real!(OP, dy.dtype(), T => {
                let saved = [self.level.host(), self.slope.host()];
                cpu::backward::<T>(saved, self.step.host(), dy.host(), dv.host_mut(), dstep.host_mut(), self.p);
                Ok(())
            })?;
        }
        cx.give(0, dv)?;
        cx.give(1, dstep)
    }
}

/// The exponent of [`rounding_penalty`]: a number, or one that a GPU reads when the kernel runs, so that a recorded launch
/// takes that of the day.
#[derive(Clone, Debug)]
pub enum Beta {
    Now(f32),
    /// F32 `[1]`. Whoever writes it sees to it that it lies in `1..=100`.
    Stored(Tensor),
}

impl From<f32> for Beta {
    fn from(beta: f32) -> Self {
        Self::Now(beta)
    }
}

/// `sum(1 - |2 h(v) - 1|^beta)`, a scalar `[1]`: 0 when every choice is made. `beta` falls from 20 (only nearly made
/// choices are pushed) to 2. `v` F32 (F64 on the CPU), any shape. Errors on an empty tensor, `beta` outside `1..=100`, or one
/// that is stored on the CPU.
pub fn rounding_penalty(tape: &mut Tape, v: &Var, beta: impl Into<Beta>) -> Result<Var> {
    let n = v.value.len();
    crate::ensure_op!((1..=1 << 30).contains(&n), OP, "cannot take the penalty of {}", v.shape());
    let (stored, beta) = match beta.into() {
        Beta::Now(beta) => {
            crate::ensure_op!((1.0..=100.0).contains(&beta), OP, "beta must be in 1..=100, got {beta}");
            (0, beta)
        }
        Beta::Stored(t) => {
            let good = t.dtype() == DType::F32 && t.len() == 1 && t.gpu().is_some() && t.device() == v.value.device();
            crate::ensure_op!(good, OP, "a stored beta is F32 [1] on the GPU of the choices, got {t:?}");
            (t.address(), 0.0)
        }
    };
    let mut slopes = row_loss::slopes(tape, &[v])?;
    let mut loss = Tensor::empty_like(&v.value, [1])?;
    if let Some(gpu) = v.value.gpu() {
        let sums = Tensor::empty(tape.device(), [n.div_ceil(CHUNK)], DType::F64)?;
        Launch::new("adaround_penalty_f32")
            .grid([sums.len() as u32, 1, 1])
            .block([256, 1, 1])
            .ptr(v.value.address())
            .ptr(sums.address())
            .ptr(row_loss::address(&slopes[0]))
            .ptr(stored)
            .val(n as i32)
            .val(beta)
            .run(gpu)?;
        row_loss::sum_on_gpu(&sums, &loss)?;
    } else {
        crate::for_real!(OP, v.dtype(), T => {
            let slope = slopes[0].as_mut().map(|s| s.host_mut::<T>());
            loss.host_mut::<T>()[0] = cpu::penalty::<T>(v.value.host(), slope, beta.into());
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &[v], slopes, loss))
}

#[cfg(test)]
mod tests;
