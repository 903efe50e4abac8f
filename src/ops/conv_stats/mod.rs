//! A frozen network's layer as one: convolution with its batch norm folded into the filters, statistics per channel of what comes
//! out, residual sum and ReLU.
//!
//! ```text
//! y = conv_bn_tune(x, w)     mean, var = channel_stats(y)     u = relu(y [+ residual])
//! dy = keep * du + dmean / m + 2 dvar (y - mean) / m     dresidual = keep * du     the rest as conv_bn_tune's, from dy
//! ```
//! with `m` rows and a bit `keep` per element, which says whether ReLU passed it. Values and order of `u` are those of the
//! ops that it stands for; sums of the statistics are taken while `y` is in the cache, in another order than theirs. On a GPU
//! all of it is done while `y` is in registers, where its channels come in eights; else by kernels of their own.

mod cases;
mod cpu;
mod gpu;
mod rule;

pub use cases::cases;

use super::channel_stats::{self, statistics};
use super::conv_bn_tune::{ConvBnTuneOp, Kept, TuneNorm, checked, same_kind};
use super::conv2d::{self, Conv2dParams, Geometry};
use crate::Result;
use crate::autograd::{Finish, Tape, Var};
use crate::tensor::{DType, Tensor};
use rule::ConvStatsOp;

const OP: &str = "conv_stats";

/// What follows the normalization.
#[derive(Clone, Copy)]
pub struct After<'a> {
    /// `[n p q k]`.
    pub residual: Option<&'a Var>,
    pub relu: bool,
    /// Whether the statistics are wanted.
    pub stats: bool,
}

/// `u[n p q k]`, and mean and biased variance `[k]` of `y` if they are wanted. F32 (F64 on the CPU), shapes and errors as
/// [`super::conv_bn_tune::conv_bn_tune`]. Gradients flow from all outputs to `x`, `w`, `bias`, gamma, beta and the
/// residual. Kept for them: `y` where statistics are wanted, a bit per element where there is a ReLU, and what
/// `conv_bn_tune` keeps.
pub fn conv_stats(
    tape: &mut Tape,
    [x, w]: [&Var; 2],
    bias: Option<&Var>,
    norm: TuneNorm,
    p: Conv2dParams,
    after: After,
) -> Result<(Var, Option<(Var, Var)>)> {
    let (fold, g) = checked(x.shape(), w, bias, norm, p)?;
    same_kind(x, w)?;
    let out = [g.n, g.p, g.q, g.k];
    if let Some(r) = after.residual {
        let fits = r.shape()[..] == out && r.dtype() == x.dtype() && r.value.device() == x.value.device();
        crate::ensure_op!(fits, OP, "residual {:?} does not fit an output of {out:?}", r.value);
    }
    let none = Var::constant(norm.mean.clone());
    let (gamma, beta, residual) = (norm.gamma, norm.beta, after.residual);
    let inputs = [x, w, gamma.unwrap_or(&none), beta.unwrap_or(&none), bias.unwrap_or(&none), residual.unwrap_or(&none)];
    let wanted = tape.wants(&inputs);
    let (scaled, shift) = fold.scaled(&w.value, norm)?.parts();

    let mut made = Made { y: Tensor::empty_like(&x.value, out)?, u: None, mask: None, stats: None };
    // `y` is overwritten where nobody will ask for it.
    let separate = wanted && after.stats && (after.relu || residual.is_some());
    made.u = separate.then(|| Tensor::empty_like(&x.value, out)).transpose()?;
    if wanted && after.relu {
        made.mask = Some(Tensor::empty(&x.value.device(), [g.n * g.p, (g.q * g.k).div_ceil(8)], DType::U8)?);
    }
    if after.stats {
        made.stats = Some([Tensor::empty_like(&x.value, [g.k])?, Tensor::empty_like(&x.value, [g.k])?]);
    }
    forward(&x.value, &scaled, &shift, p, after, &g, &mut made)?;

    let Made { y, u, mask, stats } = made;
    let u = u.unwrap_or_else(|| y.clone());
    let mut outputs = vec![u];
    outputs.extend(stats.iter().flatten().cloned());
    if wanted {
        let keep_x = (w.needs_grad() || inputs[2].needs_grad()).then(|| Kept::Values(x.value.clone()));
        let layer = ConvBnTuneOp { x: keep_x, x_shape: x.shape(), w: w.value.clone(), scaled: Some(scaled), fold, p };
        let stats = stats.map(|[mean, _]| (y, mean));
        // The data gradient of the layer behind may do what comes before this one's, where bits lie as the elements do.
        let early = (x.value.gpu().is_some() && gpu::fused(&g, None)).then(|| Finish {
            mask: mask.clone(),
            stats: stats.clone().map(<[Tensor; 2]>::from),
            split: after.residual.is_some_and(Var::needs_grad),
        });
        let op = ConvStatsOp { layer, mask, stats, row: g.q * g.k, k: g.k };
        let vars = tape.record(op, &inputs, outputs);
        if let Some(finish) = early {
            tape.finish_early(&vars, finish);
        }
        let mut vars = vars.into_iter();
        let u = vars.next().expect("there is an output");
        return Ok((u, vars.next().zip(vars.next())));
    }
    let mut vars = outputs.into_iter().map(Var::constant);
    let u = vars.next().expect("there is an output");
    Ok((u, vars.next().zip(vars.next())))
}

/// What a forward pass writes.
struct Made {
    /// The normalized convolution; `u` in its place if that has no tensor of its own.
    y: Tensor,
    u: Option<Tensor>,
    /// Bit `i % 8` of byte `i / 8` of an output row: whether ReLU passed its element `i`.
    mask: Option<Tensor>,
    /// Mean and variance of `y`.
    stats: Option<[Tensor; 2]>,
}

fn forward(
    x: &Tensor,
    scaled: &Tensor,
    shift: &Tensor,
    p: Conv2dParams,
    after: After,
    g: &Geometry,
    made: &mut Made,
) -> Result<()> {
    let residual = after.residual.map(|r| &r.value);
    if x.gpu().is_some() && gpu::fused(g, residual) {
        return gpu::convolve([x, scaled, shift], residual, after.relu, p, made);
    }
    if x.gpu().is_some() {
        conv2d::fprop(x, scaled, Some(shift), &mut made.y, p)?;
        if let Some([mean, var]) = &mut made.stats {
            let (m, v) = statistics(OP, &made.y)?;
            (*mean, *var) = (m, v);
        }
        if after.relu || residual.is_some() {
            gpu::forward(residual, after.relu, [g.n * g.p, g.q * g.k], made)?;
        }
        return Ok(());
    }
    crate::for_real!(OP, x.dtype(), T => {
        let stats = made.stats.is_some();
        let Made { y, u, mask, .. } = made;
        let rows = cpu::rows::<T>(u.as_mut(), mask.as_mut(), residual, g);
        let sweep = cpu::Sweep { relu: after.relu, stats };
        let sums = cpu::convolve::<T>(&sweep, [x, scaled, shift], y, rows, p, g)?;
        if let Some([mean, var]) = &mut made.stats {
            channel_stats::from_moments::<T>(&sums, (g.n * g.p * g.q) as f64, [mean.host_mut(), var.host_mut()]);
        }
        Ok(())
    })
}
