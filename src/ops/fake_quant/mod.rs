//! Fake quantization: `x` rounded to the values that `bits`-bit codes of a range `[lo, hi]` stand for.
//!
//! The quantizer is [`crate::quant::Affine`] (GDFQ's form): `s = n / max(hi - lo, 1e-8)`, `z = round(s lo) + 2^(bits-1)`,
//! `q = clamp(round(s x - z))`, `y = (q + z) / s`. Rounding has no useful derivative; three straight-through rules take
//! its place, see [`Ste`].

mod cases;
mod cpu;
mod gpu;

pub use crate::quant::Axis;
pub use cases::cases;
pub(in crate::ops) use cases::values as values_of_codes;

use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::quant::Affine;
use crate::tensor::{DType, Tensor};

/// The gradient of rounding and clamping. With `L` the loss and `y` the output:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ste {
    /// `dL/dx = dL/dy` everywhere, also outside the range; none to the range (GDFQ and its line).
    Identity,
    /// `dL/dx = dL/dy` where the code needed no clamping, else 0; none to the range.
    Clipped,
    /// As `Clipped` for `x`, and the range is learned (Esser et al. 2020, LSQ, carried over to `lo` and `hi`). With
    /// rounding taken as identity in `y = (q + z) / s` and `r = 1 / (hi - lo)`:
    /// ```text
    /// code not clamped   dy/dhi = (y - x) r     dy/dlo = -(y - x) r
    /// code clamped       dy/dhi = (y - lo) r    dy/dlo = 1 - (y - lo) r
    /// ```
    /// (`r = 0` for a range narrower than 1e-8), summed over the elements of a range and multiplied by LSQ's gradient
    /// scale `1 / sqrt(elements * (2^(bits-1) - 1))`.
    Lsq,
    /// As `Lsq`, without the gradient scale.
    LsqUnscaled,
}

/// How to quantize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeQuantSpec {
    /// `2..=8`.
    pub bits: u8,
    /// What shares a range.
    pub axis: Axis,
    /// The gradient rule.
    pub ste: Ste,
}

const OP: &str = "fake_quant";

/// `[rows, length]`, after all checks that the op and the codes share.
fn check(x: &Tensor, lo: &Tensor, hi: &Tensor, bits: u8, axis: Axis) -> Result<[usize; 2]> {
    crate::ensure_op!((2..=8).contains(&bits), OP, "bits must be in 2..=8, got {bits}");
    let [rows, length] = axis.rows(&x.shape());
    crate::ensure_op!(x.len() <= 1 << 30, OP, "{} has more than 2^30 elements", x.shape());
    crate::ensure_op!(
        lo.len() == rows && hi.len() == rows && lo.dtype() == x.dtype() && hi.dtype() == x.dtype(),
        OP,
        "x {:?} {} with {axis:?} ranges needs lo and hi of {rows} elements and its dtype, got {:?} {} and {:?} {}",
        x.dtype(),
        x.shape(),
        lo.dtype(),
        lo.shape(),
        hi.dtype(),
        hi.shape()
    );
    Ok([rows, length])
}

/// A quantized tensor: I8 codes of the range `[lo, hi]` with `bits` bits. `lo` and `hi` have one value, or one per
/// outermost index ([`Axis::Outer`]).
#[derive(Clone, Debug)]
pub struct Codes {
    pub values: Tensor,
    pub lo: Tensor,
    pub hi: Tensor,
    pub bits: u8,
}

/// Rounds `x` (F32, any shape) to the `spec.bits`-bit codes of `[lo, hi]`, which have shape `[1]` ([`Axis::Tensor`]) or
/// `[k]`, `k` the outermost dimension of `x` ([`Axis::Outer`]). NaN stays NaN. Saves nothing (`Identity`), a byte per
/// element (`Clipped`), or `x` (`Lsq`). Errors on bits outside `2..=8` and on ranges of another length.
pub fn fake_quant(tape: &mut Tape, x: &Var, lo: &Var, hi: &Var, spec: FakeQuantSpec) -> Result<Var> {
    quantize(tape, x, lo, hi, spec, None)
}

/// [`fake_quant`] and the codes of its values, in one pass. A NaN has code 0.
pub fn fake_quant_coded(tape: &mut Tape, x: &Var, lo: &Var, hi: &Var, spec: FakeQuantSpec) -> Result<(Var, Codes)> {
    let mut values = Tensor::empty(tape.device(), x.shape(), DType::I8)?;
    let y = quantize(tape, x, lo, hi, spec, Some(&mut values))?;
    Ok((y, Codes { values, lo: lo.value.clone(), hi: hi.value.clone(), bits: spec.bits }))
}

fn quantize(
    tape: &mut Tape,
    x: &Var,
    lo: &Var,
    hi: &Var,
    spec: FakeQuantSpec,
    mut codes: Option<&mut Tensor>,
) -> Result<Var> {
    let [rows, length] = check(&x.value, &lo.value, &hi.value, spec.bits, spec.axis)?;
    let layout = Layout { rows, length, bits: spec.bits };
    let learned = matches!(spec.ste, Ste::Lsq | Ste::LsqUnscaled);
    let inputs: &[&Var] = if learned { &[x, lo, hi] } else { &[x] };
    let mut y = Tensor::empty_like(&x.value, x.shape())?;
    let mut mask = match spec.ste {
        Ste::Clipped if tape.wants(inputs) => Some(Tensor::empty(tape.device(), x.shape(), DType::U8)?),
        _ => None,
    };
    if x.value.gpu().is_some() {
        gpu::forward(&x.value, &lo.value, &hi.value, &mut y, [mask.as_ref(), codes.as_deref()], layout)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let mask = mask.as_mut().map(|m| m.host_mut::<u8>());
            let codes = codes.as_mut().map(|c| c.host_mut::<i8>());
            cpu::forward::<T>(x.value.host(), [lo.value.host(), hi.value.host()], y.host_mut(), mask, codes, layout);
            Ok(())
        })?;
    }
    let saved = match spec.ste {
        Ste::Identity => Saved::Nothing,
        Ste::Clipped => match mask {
            Some(mask) => Saved::Mask(mask),
            None => return Ok(Var::constant(y)),
        },
        Ste::Lsq | Ste::LsqUnscaled => Saved::Learned {
            x: x.value.clone(),
            lo: lo.value.clone(),
            hi: hi.value.clone(),
            layout,
            factor: if spec.ste == Ste::Lsq { gradient_scale(length, spec.bits) } else { 1.0 },
        },
    };
    Ok(tape.record_one(FakeQuantOp { saved }, inputs, y))
}

/// LSQ's gradient scale of a range that `length` elements share.
fn gradient_scale(length: usize, bits: u8) -> f64 {
    1.0 / (length as f64 * f64::from((1u32 << (bits - 1)) - 1)).sqrt()
}

/// The codes of `x` under [`fake_quant`], I8, in `-2^(bits-1)..2^(bits-1)`: equal integers on all devices.
/// Shapes and errors as there; a NaN has code 0.
pub fn fake_quant_codes(x: &Tensor, lo: &Tensor, hi: &Tensor, bits: u8, axis: Axis) -> Result<Tensor> {
    let [rows, length] = check(x, lo, hi, bits, axis)?;
    let layout = Layout { rows, length, bits };
    let mut codes = Tensor::empty(&x.device(), x.shape(), DType::I8)?;
    if x.gpu().is_some() {
        gpu::codes(x, lo, hi, &codes, layout)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            cpu::codes::<T>(x.host(), lo.host(), hi.host(), codes.host_mut(), layout);
            Ok(())
        })?;
    }
    Ok(codes)
}

/// The values of `codes`, whose range is one for all of them ([`Axis::Tensor`]): the dtype of the range, on its device.
pub fn values_of(codes: &Codes) -> Result<Tensor> {
    crate::ensure_op!(
        codes.values.dtype() == DType::I8 && codes.lo.len() == 1 && codes.hi.len() == 1,
        OP,
        "codes {:?} with ranges {} and {}; expected I8 with one range",
        codes.values,
        codes.lo.shape(),
        codes.hi.shape()
    );
    let mut y = Tensor::empty_like(&codes.lo, codes.values.shape())?;
    if y.gpu().is_some() {
        gpu::values(codes, &y)?;
    } else {
        crate::for_real!(OP, y.dtype(), T => {
            let a = Affine::<T>::new(codes.lo.host::<T>()[0], codes.hi.host::<T>()[0], codes.bits);
            cpu::values(codes.values.host(), a, y.host_mut());
            Ok(())
        })?;
    }
    Ok(y)
}

/// [`values_of`] on the tape: the gradient of the values is that of `x`, which is `codes` or stands for them.
pub fn dequantize(tape: &mut Tape, x: &Var, codes: &Codes) -> Result<Var> {
    let y = values_of(codes)?;
    Ok(tape.record_one(FakeQuantOp { saved: Saved::Nothing }, &[x], y))
}

/// Gradients of `x`, `lo` and `hi` under the learned rule for one range; `x` went through ReLU if `relu`, then its gradient is
/// that of ReLU's input.
pub(in crate::ops) fn learned_gradients(
    x: &Tensor,
    [lo, hi]: [&Tensor; 2],
    dy: &Tensor,
    bits: u8,
    ste: Ste,
    relu: bool,
) -> Result<[Tensor; 3]> {
    let layout = Layout { rows: 1, length: x.len(), bits };
    let factor = if ste == Ste::Lsq { gradient_scale(x.len(), bits) } else { 1.0 };
    let mut dx = Tensor::empty_like(dy, dy.shape())?;
    let [dlo, dhi] = learned(x, [lo, hi], dy, Some(&mut dx), layout, factor, relu)?;
    Ok([dx, dlo, dhi])
}

fn learned(
    x: &Tensor,
    [lo, hi]: [&Tensor; 2],
    dy: &Tensor,
    dx: Option<&mut Tensor>,
    layout: Layout,
    factor: f64,
    relu: bool,
) -> Result<[Tensor; 2]> {
    let mut dlo = Tensor::empty_like(lo, lo.shape())?;
    let mut dhi = Tensor::empty_like(hi, hi.shape())?;
    if dy.gpu().is_some() {
        gpu::learned(x, [lo, hi], dy, dx.as_deref(), [&dlo, &dhi], layout, factor, relu)?;
    } else {
        crate::for_real!(OP, dy.dtype(), T => {
            let dx = dx.map(|d| d.host_mut::<T>());
            let ranges = [lo.host(), hi.host()];
            let out = [dlo.host_mut(), dhi.host_mut()];
            cpu::learned::<T>(x.host(), ranges, dy.host(), dx, out, layout, factor, relu);
            Ok(())
        })?;
    }
    Ok([dlo, dhi])
}

/// Contiguous rows, one range each.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    length: usize,
    bits: u8,
}

enum Saved {
    Nothing,
    Mask(Tensor),
    Learned { x: Tensor, lo: Tensor, hi: Tensor, layout: Layout, factor: f64 },
}

struct FakeQuantOp {
    saved: Saved,
}

impl Op for FakeQuantOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        match self.saved {
            Saved::Nothing => cx.give(0, dy),
            Saved::Mask(mask) => {
                let mut dx = Tensor::empty_like(&dy, dy.shape())?;
                if dy.gpu().is_some() {
                    gpu::clipped(&dy, &mask, &dx)?;
                } else {
                    crate::for_real!(OP, dy.dtype(), T => {
                        cpu::clipped::<T>(dy.host(), mask.host(), dx.host_mut());
                        Ok(())
                    })?;
                }
                cx.give(0, dx)
            }
            Saved::Learned { x, lo, hi, layout, factor } => {
                let mut dx = if cx.needs(0) { Some(Tensor::empty_like(&dy, dy.shape())?) } else { None };
                let [dlo, dhi] = learned(&x, [&lo, &hi], &dy, dx.as_mut(), layout, factor, false)?;
                if let Some(dx) = dx {
                    cx.give(0, dx)?;
                }
                cx.give(1, dlo)?;
                cx.give(2, dhi)
            }
        }
    }
}

#[cfg(test)]
mod tests;
