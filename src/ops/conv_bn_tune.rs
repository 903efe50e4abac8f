//! Convolution and evaluation-mode batch normalization as one convolution with scaled filters (Tune mode: You et al. 2024,
//! "Efficient ConvBN Blocks for Transfer Learning and Beyond"; also PyTorch's `efficient_conv_bn_eval`).
//!
//! With the stored statistics `mu`, `var` and `r = 1 / sqrt(var + eps)`, per output channel:
//! ```text
//! s = gamma r    w' = s w    b' = beta + s (b - mu)    y = conv(x, w') + b'
//! dx = dgrad(dy, w')    dw = s dw'    dbeta = db'    db = s db'    dgamma = r (sum dw' w + (b - mu) db')
//! ```
//! where `dw' = wgrad(x, dy)` and `db' = sum dy`. Outputs and gradients are those of `conv2d` followed by
//! `batch_norm_eval`, up to rounding, because batch normalization is linear in `w`; but the convolution's output, which
//! gamma's gradient needs there, is neither computed nor kept.
//!
//! For a quantized student pass `fake_quant(w)` as `w`: the quantizer commutes with the scale, `dgamma` then has the
//! quantized filters in it, as the unfused graph has, and the straight-through rule stays where it is.

mod rule;
mod scale;

use super::batch_norm::Stored;
use super::case::{Case, Fill, Input};
use super::conv2d::{Conv2dParams, Geometry, fprop};
use super::conv2d_int::{self, Codes};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Shape, Tensor};
use rayon::prelude::*;
pub(in crate::ops) use rule::{ConvBnTuneOp, Kept};
pub use scale::{Layer, Scaled, scale};

const OP: &str = "conv_bn_tune";

/// The batch normalization after a convolution with `k` outputs: everything is `[k]` and of x's dtype.
#[derive(Clone, Copy)]
pub struct TuneNorm<'a> {
    /// 1 if absent.
    pub gamma: Option<&'a Var>,
    /// 0 if absent.
    pub beta: Option<&'a Var>,
    /// Stored mean, a constant of the gradient.
    pub mean: &'a Tensor,
    /// Stored variance, a constant of the gradient.
    pub var: &'a Tensor,
    pub eps: f32,
    /// What [`scale`] made of the filter and these, if anything: else it is computed where it is needed.
    pub scaled: Option<&'a Scaled>,
}

/// `batch_norm_eval(conv2d(x, w, bias, p), norm)`: `x[n h w c]`, `w[k r s c]`, `bias[k]` to `y[n p q k]`.
///
/// F32 (F64 on the CPU), all on one device. Gradients flow to `x`, `w`, `bias`, gamma and beta. Saved are `x` (where `w` or
/// gamma needs a gradient), `w`, the scaled filter and vectors of `k` values. Errors on shapes that do not fit, as `conv2d`.
pub fn conv_bn_tune(
    tape: &mut Tape,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    norm: TuneNorm,
    p: Conv2dParams,
) -> Result<Var> {
    let (fold, g) = checked(x.shape(), w, bias, norm, p)?;
    same_kind(x, w)?;
    let (scaled, shift) = fold.scaled(&w.value, norm)?.parts();
    let mut y = Tensor::empty_like(&x.value, [g.n, g.p, g.q, g.k])?;
    fprop(&x.value, &scaled, Some(&shift), &mut y, p)?;
    Ok(record(tape, [x, w], bias, norm, (fold, Some(scaled)), y, p))
}

/// [`conv_bn_tune`] whose output is computed as the two ops compute it, bit for bit: the convolution with the filters as
/// they are, of `codes` in integers where they are given ([`super::conv2d_int`]: codes of `x` and `w`, F32), and then
/// `batch_norm_eval`. Gradients and what is saved as there. For students, whose output is then the deployed network's.
pub fn conv_bn_tune_in_turn(
    tape: &mut Tape,
    [x, w]: [&Var; 2],
    codes: Option<[&Codes; 2]>,
    bias: Option<&Var>,
    norm: TuneNorm,
    p: Conv2dParams,
) -> Result<Var> {
    let (fold, g) = checked(x.shape(), w, bias, norm, p)?;
    same_kind(x, w)?;
    let (gamma, beta) = (norm.gamma.map(|v| &v.value), norm.beta.map(|v| &v.value));
    let stored = Stored { gamma, beta, mean: norm.mean, var: norm.var, eps: norm.eps };
    let y = match codes {
        Some(codes) => conv2d_int::normalized(codes, bias.map(|b| &b.value), Some(stored), p)?,
        None => {
            let mut z = Tensor::empty_like(&x.value, [g.n, g.p, g.q, g.k])?;
            fprop(&x.value, &w.value, bias.map(|b| &b.value), &mut z, p)?;
            stored.apply(&z)?
        }
    };
    Ok(record(tape, [x, w], bias, norm, (fold, norm.scaled.map(|s| s.filter.clone())), y, p))
}

pub(in crate::ops) fn same_kind(x: &Var, w: &Var) -> Result<()> {
    crate::ensure_op!(
        w.dtype() == x.dtype() && w.value.device() == x.value.device(),
        OP,
        "input {:?} and filter {:?} differ in dtype or device",
        x.value,
        w.value
    );
    Ok(())
}

pub(in crate::ops) fn checked(
    x: Shape,
    w: &Var,
    bias: Option<&Var>,
    norm: TuneNorm,
    p: Conv2dParams,
) -> Result<(Fold, Geometry)> {
    let g = Geometry::new(OP, x, w.shape(), p)?;
    Ok((checked_vectors(&w.value, bias.map(|v| &v.value), norm)?, g))
}

/// Errors unless bias and normalization fit the outputs of a filter `w[k ..]`.
fn checked_vectors(w: &Tensor, bias: Option<&Tensor>, norm: TuneNorm) -> Result<Fold> {
    let k = w.shape()[0];
    let values = [
        ("bias", bias),
        ("gamma", norm.gamma.map(|v| &v.value)),
        ("beta", norm.beta.map(|v| &v.value)),
        ("mean", Some(norm.mean)),
        ("variance", Some(norm.var)),
    ];
    for (name, t) in values.iter().filter_map(|(name, t)| Some((name, (*t)?))) {
        crate::ensure_op!(
            t.shape()[..] == [k] && t.dtype() == w.dtype() && t.device() == w.device(),
            OP,
            "{name} is {t:?}, expected [{k}] of the dtype and device of {w:?}"
        );
    }
    let of = |i: usize| values[i].1.cloned();
    Ok(Fold { bias: of(0), gamma: of(1), beta: of(2), mean: norm.mean.clone(), var: norm.var.clone(), eps: norm.eps })
}

/// Records `y` as what [`conv_bn_tune`] computes.
fn record(
    tape: &mut Tape,
    [x, w]: [&Var; 2],
    bias: Option<&Var>,
    norm: TuneNorm,
    (fold, scaled): (Fold, Option<Tensor>),
    y: Tensor,
    p: Conv2dParams,
) -> Var {
    let none = Var::constant(norm.mean.clone());
    let inputs = [x, w, norm.gamma.unwrap_or(&none), norm.beta.unwrap_or(&none), bias.unwrap_or(&none)];
    if !tape.wants(&inputs) {
        return Var::constant(y);
    }
    let keep_x = inputs[1].needs_grad() || inputs[2].needs_grad();
    let kept = keep_x.then(|| Kept::Values(x.value.clone()));
    let op = ConvBnTuneOp { x: kept, x_shape: x.shape(), w: w.value.clone(), scaled, fold, p };
    tape.record_one(op, &inputs, y)
}

/// What scales the filters of each output channel, as tensors of `k` values.
pub(in crate::ops) struct Fold {
    bias: Option<Tensor>,
    gamma: Option<Tensor>,
    beta: Option<Tensor>,
    mean: Tensor,
    var: Tensor,
    eps: f32,
}

impl Fold {
    /// `w' = s w` and the shift `b'`: those that `norm` holds, or made now.
    pub fn scaled(&self, w: &Tensor, norm: TuneNorm) -> Result<Scaled> {
        match norm.scaled {
            Some(made) if made.filter.shape() == w.shape() => Ok(made.clone()),
            Some(made) => {
                let detail = format!("the scaled filter {:?} is none of {w:?}", made.filter);
                Err(crate::Error::op(OP, detail))
            }
            None => self.apply(w),
        }
    }

    /// What the kernel that makes `made` of `w` is told.
    fn row(&self, w: &Tensor, made: &Scaled) -> scale::Row {
        let address = |t: &Option<Tensor>| t.as_ref().map_or(0, Tensor::address);
        let k = self.mean.len();
        scale::Row {
            vectors: [address(&self.gamma), address(&self.beta), address(&self.bias)],
            stored: [self.mean.address(), self.var.address()],
            w: w.address(),
            scaled: made.filter.address(),
            shift: made.shift.address(),
            k: k as i32,
            length: (w.len() / k) as i32,
            eps: self.eps,
            padding: 0,
        }
    }

    /// `w' = s w` and the shift `b'`.
    pub fn apply(&self, w: &Tensor) -> Result<Scaled> {
        let mut made = Scaled::empty(w, self.mean.len())?;
        if let Some(gpu) = w.gpu() {
            scale::launch(&[self.row(w, &made)], gpu)?;
        } else {
            let length = w.len() / self.mean.len();
            crate::for_real!(OP, w.dtype(), T => {
                let rows = made.filter.host_mut::<T>().par_chunks_mut(length).zip(w.host::<T>().par_chunks(length));
                rows.zip(made.shift.host_mut::<T>()).enumerate().for_each(|(k, ((scaled, w), shift))| {
                    let scale = self.scale::<T>(k);
                    scaled.iter_mut().zip(w).for_each(|(to, w)| *to = *w * scale);
                    *shift = at::<T>(&self.beta, k, 0.0) + scale * self.centred_bias::<T>(k);
                });
                Ok(())
            })?;
        }
        Ok(made)
    }

    /// A launch with one block per output channel, and the arguments that it begins with.
    fn launch(&self, kernel: &'static str) -> Launch {
        let address = |t: &Option<Tensor>| t.as_ref().map_or(0, Tensor::address);
        Launch::new(kernel)
            .grid([self.mean.len() as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(address(&self.gamma))
            .ptr(address(&self.beta))
            .ptr(address(&self.bias))
            .ptr(self.mean.address())
            .ptr(self.var.address())
    }

    /// `1 / sqrt(var + eps)` of a CPU fold.
    fn inverse<T: Real>(&self, k: usize) -> f64 {
        1.0 / (self.var.host::<T>()[k].f64() + f64::from(self.eps)).sqrt()
    }
    /// `s`.
    fn scale<T: Real>(&self, k: usize) -> T {
        T::of(at::<T>(&self.gamma, k, 1.0).f64() * self.inverse::<T>(k))
    }
    /// `b - mu`.
    fn centred_bias<T: Real>(&self, k: usize) -> T {
        at::<T>(&self.bias, k, 0.0) - self.mean.host::<T>()[k]
    }
}

/// `t[k]`, or what stands for an absent one.
fn at<T: Real>(t: &Option<Tensor>, k: usize, absent: f64) -> T {
    t.as_ref().map_or(T::of(absent), |t| t.host::<T>()[k])
}

pub fn cases() -> Vec<Case> {
    // Inputs: x, w, mean, var, gamma, beta, bias; `affine` and `bias` say whether the last ones are there.
    let case = |label: &str, x: [usize; 4], [k, r]: [usize; 2], p: Conv2dParams, affine: bool, bias: bool| {
        let w = [k, r, r, x[3]];
        let g = Geometry::new(OP, x.into(), w.into(), p).expect("case shapes are valid");
        let positive = Fill::Uniform { low: 0.3, high: 2.0 };
        let mut inputs = vec![Input::grad(x), Input::grad(w), Input::plain([k]), Input::plain([k]).fill(positive)];
        inputs.extend(vec![Input::grad([k]); 2 * usize::from(affine) + usize::from(bias)]);
        let together = label.starts_with("together");
        let run = move |t: &mut Tape, v: &[Var]| {
            let (gamma, beta) = if affine { (v.get(4), v.get(5)) } else { (None, None) };
            let bias = v.get(if affine { 6 } else { 4 });
            let [mean, var] = [2, 3].map(|i| &v[i].value);
            let mut norm = TuneNorm { gamma, beta, mean, var, eps: 1e-5, scaled: None };
            let layer = Layer { w: &v[1].value, bias: bias.map(|b| &b.value), norm };
            // Beside another, without gamma, beta and bias.
            let other = Layer { bias: None, norm: TuneNorm { gamma: None, beta: None, ..norm }, ..layer };
            let made = if together { scale(&[other, layer])? } else { Vec::new() };
            norm.scaled = made.get(1);
            Ok(vec![conv_bn_tune(t, &v[0], &v[1], bias, norm, p)?])
        };
        let name = format!("{label}_x{}_w{}_{p}", crate::tensor::Shape::from(x), crate::tensor::Shape::from(w));
        // dgamma sums the filter gradient once more, and its two terms may cancel.
        Case::new(name, inputs, run).reduction(g.reduction()).slack(2.0).cost(g.flops(), g.bytes())
    };
    let p = Conv2dParams::new;
    vec![
        case("one", [1, 1, 1, 1], [1, 1], p(1, 0), true, true),
        case("plain", [1, 3, 2, 1], [1, 3], p(1, 1), false, false),
        case("primes", [2, 7, 5, 3], [5, 3], p(1, 1), true, true),
        case("no_bias", [2, 6, 5, 8], [12, 3], p(2, 1), true, false),
        case("no_affine", [2, 4, 5, 4], [7, 1], p(1, 0), false, true),
        case("together", [2, 5, 4, 3], [6, 3], p(1, 1), true, true),
        case("long_filter", [1, 3, 4, 37], [3, 3], p(1, 1), true, false),
        case("resnet20_16", [64, 32, 32, 16], [16, 3], p(1, 1), true, false).bench(),
        case("resnet20_64", [64, 8, 8, 64], [64, 3], p(1, 1), true, false).bench(),
    ]
}
