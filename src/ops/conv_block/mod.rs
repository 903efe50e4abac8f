//! A student's layer as one: convolution of codes, normalization by stored statistics, residual sum, ReLU and quantizer. Its
//! output are codes; nothing of f32 lies between, and what is kept for backward is the input's codes and a bit per element.
//!
//! ```text
//! v = ((conv(x, w) + bias) - mean) * scale + shift  [+ residual]     u = relu(v)     q = code(u)
//! ```
//! every operation as the ops compute it that it stands for (`conv_bn_tune_in_turn`, `elementwise::add`, `activation`,
//! `fake_quant`), in the same order: the same bits, which are also those of the deployed network (`conv2d_int::epilogue`).
//!
//! On a GPU the convolution of codes, of an image, or of many channels in TF32 does all of it before its sums leave the registers,
//! where the output's channels come in eights; else a kernel of its own does what follows.
//!
//! Backward, from the gradient `g` of the codes' values:
//! ```text
//! dv = keep * g     dresidual = dv     the rest as conv_bn_tune's, from dv
//! keep = (v > 0 behind a ReLU) and (no clamping, under Ste::Clipped and the learned rules)
//! ```
//! `keep` is the bit. The learned rules' gradients of the range need `u` itself, because they weigh each element with what
//! rounding added to it: then `u` is kept in f32 instead of the bit.

pub(in crate::ops) mod bits;
mod cases;
mod cpu;
mod gpu;
mod rule;

pub use cases::cases;

use super::batch_norm::Stored;
use super::conv_bn_tune::{ConvBnTuneOp, Kept, TuneNorm, checked};
use super::conv2d::{Conv2dParams, Geometry, fprop};
use super::conv2d_int;
use super::fake_quant::{Codes, Ste, values_of};
use crate::Result;
use crate::autograd::{Finish, Tape, Var};
use crate::quant::Affine;
use crate::tensor::{DType, Tensor};
use rule::{ConvBlockOp, Keep};

const OP: &str = "conv_block";

/// A value, with its codes where it has some; then `var` holds the values or the codes themselves.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    pub var: &'a Var,
    pub codes: Option<&'a Codes>,
}

impl<'a> Operand<'a> {
    /// The codes, or the values where there are none.
    fn content(&self) -> Content<'a> {
        match self.codes {
            Some(codes) => Content::Codes(codes),
            None => Content::Values(&self.var.value),
        }
    }
    fn on_device(&self, like: &Tensor) -> bool {
        let t = self.codes.map_or(&self.var.value, |q| &q.values);
        let dtype = self.codes.map_or(&self.var.value, |q| &q.lo).dtype();
        t.device() == like.device() && dtype == like.dtype()
    }
}

#[derive(Clone, Copy)]
enum Content<'a> {
    Values(&'a Tensor),
    Codes(&'a Codes),
}

/// What follows the normalization: a residual sum, ReLU, and the quantizer of range `[lo, hi]`, `[1]` each.
#[derive(Clone, Copy)]
pub struct Then<'a> {
    pub residual: Option<Operand<'a>>,
    pub relu: bool,
    pub lo: &'a Var,
    pub hi: &'a Var,
    pub bits: u8,
    pub ste: Ste,
}

impl Then<'_> {
    fn learned(&self) -> bool {
        matches!(self.ste, Ste::Lsq | Ste::LsqUnscaled)
    }
}

/// Codes I8 `[n p q k]` of `x[n h w c]`, `w[k r s c]`, `bias[k]`, the residual `[n p q k]`; and a variable that holds these codes
/// and takes the gradient of the values that they stand for.
///
/// F32 (F64 on the CPU), all on one device. Convolved are codes, in integers, where both `x` and `w` have them, else values.
/// Gradients flow to `x`, `w.var`, `bias`, gamma, beta, the residual and, under the learned rules, `lo` and `hi`. Kept for
/// them: `x` as it is, the values of `w`, vectors of `k` values, and a bit per output element (the learned rules: f32).
/// Errors on shapes, dtypes or ranges that do not fit.
pub fn conv_block(
    tape: &mut Tape,
    [x, w]: [Operand; 2],
    bias: Option<&Var>,
    norm: TuneNorm,
    p: Conv2dParams,
    then: Then,
) -> Result<(Var, Codes)> {
    let shape = x.codes.map_or(x.var.shape(), |q| q.values.shape());
    let (fold, g) = checked(shape, w.var, bias, norm, p)?;
    let like = &w.var.value;
    crate::ensure_op!(x.on_device(like), OP, "input {:?} does not fit filter {like:?}", x.var.value);
    crate::ensure_op!((2..=8).contains(&then.bits), OP, "bits must be in 2..=8, got {}", then.bits);
    for t in [&then.lo.value, &then.hi.value] {
        let fits = t.len() == 1 && t.dtype() == like.dtype() && t.device() == like.device();
        crate::ensure_op!(fits, OP, "the quantizer's range is {t:?}, expected one value like {like:?}");
    }
    if let Some(r) = &then.residual {
        let shape = r.codes.map_or(r.var.shape(), |q| q.values.shape());
        crate::ensure_op!(
            shape[..] == [g.n, g.p, g.q, g.k] && r.on_device(like),
            OP,
            "residual {:?} of shape {shape}, expected [{} {} {} {}]",
            r.var.value,
            g.n,
            g.p,
            g.q,
            g.k
        );
    }
    let none = Var::constant(norm.mean.clone());
    let residual = then.residual.map_or(&none, |r| r.var);
    let (gamma, beta) = (norm.gamma.unwrap_or(&none), norm.beta.unwrap_or(&none));
    let mut inputs = vec![x.var, w.var, gamma, beta, bias.unwrap_or(&none), residual];
    if then.learned() {
        inputs.extend([then.lo, then.hi]);
    }
    let wanted = tape.wants(&inputs);

    let out = [g.n, g.p, g.q, g.k];
    let codes = Tensor::empty(&like.device(), out, DType::I8)?;
    let mut made = Made { codes, mask: None, values: None };
    if wanted && then.learned() {
        made.values = Some(Tensor::empty_like(like, out)?);
    } else if wanted && (then.relu || then.ste == Ste::Clipped) {
        made.mask = Some(Tensor::empty(&like.device(), [g.n * g.p, (g.q * g.k).div_ceil(8)], DType::U8)?);
    }
    let stored = Stored {
        gamma: norm.gamma.map(|v| &v.value),
        beta: norm.beta.map(|v| &v.value),
        mean: norm.mean,
        var: norm.var,
        eps: norm.eps,
    };
    forward([x, w], bias.map(|b| &b.value), stored, p, &then, &g, &mut made)?;

    let found =
        Codes { values: made.codes.clone(), lo: then.lo.value.clone(), hi: then.hi.value.clone(), bits: then.bits };
    if !wanted {
        return Ok((Var::constant(made.codes), found));
    }
    let keep_x = w.var.needs_grad() || gamma.needs_grad();
    let kept = keep_x.then(|| match x.codes {
        Some(codes) => Kept::Codes(codes.clone()),
        None => Kept::Values(x.var.value.clone()),
    });
    let keep = match (made.mask, made.values) {
        (Some(mask), _) => Keep::Bits(mask),
        (_, Some(values)) => Keep::Learned { values, codes: found.clone(), ste: then.ste, relu: then.relu },
        _ => Keep::All,
    };
    let scaled = norm.scaled.map(|_| fold.scaled(&w.var.value, norm)).transpose()?.map(|s| s.parts().0);
    let layer = ConvBnTuneOp { x: kept, x_shape: shape, w: w.var.value.clone(), scaled, fold, p };
    // The data gradient of the layer behind may apply the mask, where its bits lie as the elements do.
    let early = match &keep {
        Keep::Bits(mask) if mask.gpu().is_some() && gpu::fused(&g) => Some(mask.clone()),
        _ => None,
    };
    let op = ConvBlockOp { layer, keep, row: g.q * g.k, k: g.k };
    let y = tape.record_one(op, &inputs, made.codes);
    if let Some(mask) = early {
        tape.finish_early(std::slice::from_ref(&y), Finish { mask: Some(mask), stats: None, split: false });
    }
    Ok((y, found))
}

/// What a forward pass writes.
struct Made {
    codes: Tensor,
    /// Bit `i % 8` of byte `i / 8` of an output row: whether the gradient of its element `i` passes.
    mask: Option<Tensor>,
    /// What the quantizer is given.
    values: Option<Tensor>,
}

fn forward(
    [x, w]: [Operand; 2],
    bias: Option<&Tensor>,
    norm: Stored,
    p: Conv2dParams,
    then: &Then,
    g: &Geometry,
    made: &mut Made,
) -> Result<()> {
    let residual = then.residual.map(|r| r.content());
    if let Some([xq, wq]) = x.codes.zip(w.codes).map(|(x, w)| [x, w]) {
        conv2d_int::check(xq, wq, bias, g)?;
        if made.codes.gpu().is_none() && xq.lo.dtype() == DType::F32 {
            if let Some(plan) = conv2d_int::plan(xq, wq, g) {
                let sweep = cpu::Sweep::<f32>::new(bias, Some(norm), then, g.q);
                let rows = cpu::rows(made, residual, g.q * g.k);
                plan.run_rows(xq.values.host(), rows, |_, _, sums, row| sweep.row(sums, row));
                return Ok(());
            }
        }
        if made.codes.gpu().is_some() && gpu::fused(g) {
            return gpu::convolve([xq, wq], bias, g, gpu::Params::new(norm, residual, then, g, made));
        }
    }
    let mut z = match (x.codes, w.codes) {
        (Some(xq), Some(wq)) => conv2d_int::normalized([xq, wq], bias, None, p)?,
        _ => {
            let values = x.codes.map(values_of).transpose()?;
            let (x, w) = (values.as_ref().unwrap_or(&x.var.value), &w.var.value);
            let gpu = made.codes.gpu().is_some();
            if gpu && gpu::convolve_values([x, w], bias, g, p, gpu::Params::new(norm, residual, then, g, made))? {
                return Ok(());
            }
            let mut z = Tensor::empty_like(w, [g.n, g.p, g.q, g.k])?;
            fprop(x, w, bias, &mut z, p)?;
            z
        }
    };
    if z.gpu().is_some() {
        return gpu::forward(&z, gpu::Params::new(norm, residual, then, g, made));
    }
    crate::for_real!(OP, z.dtype(), T => {
        let sweep = cpu::Sweep::<T>::new(None, Some(norm), then, g.q);
        cpu::each_row(&sweep, z.host_mut(), cpu::rows(made, residual, g.q * g.k));
        Ok(())
    })
}

/// The quantizer of one range of CPU tensors.
fn affine<T: crate::quant::RoundEven>(lo: &Tensor, hi: &Tensor, bits: u8) -> Affine<T> {
    Affine::new(lo.host::<T>()[0], hi.host::<T>()[0], bits)
}
