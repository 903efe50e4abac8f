//! Statistics before a batch normalization from those behind it, for networks whose convolution and normalization are one
//! (`conv_bn_tune`): with `y = s (z - mu) + beta`, `s = gamma / sqrt(var + eps)`,
//!
//! `mean(z) = mu + (mean(y) - beta) / s`, `var(z) = var(y) / s^2`.
//!
//! Gradients `dy_mean = dz_mean / s`, `dy_var = dz_var / s^2`. A channel with `|s| < 1e-6` shows nothing of `z`: it reports
//! the stored statistics and passes no gradient. Ours (algebra on the form of You et al., ICLR 2024).

use super::case::{Case, Fill, Input};
use super::conv_bn_tune::TuneNorm;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};

const OP: &str = "tune_stats";
/// Mirrored in `kernels/tune_stats.cu`.
const DEAD: f64 = 1e-6;

/// `(mean, var)` `[k]` of the normalization's input, from `y_mean[k]`, `y_var[k]` (biased) of its output. F32 (F64 on the
/// CPU). Gradients to both statistics; gamma and beta count as constants. Errors unless all have one length and dtype.
pub fn tune_stats(tape: &mut Tape, y_mean: &Var, y_var: &Var, norm: TuneNorm) -> Result<(Var, Var)> {
    let (m, v) = (&y_mean.value, &y_var.value);
    let k = m.len();
    let gamma = norm.gamma.map(|g| g.value.clone());
    let beta = norm.beta.map(|b| b.value.clone());
    let others = [Some(v), Some(norm.mean), Some(norm.var), gamma.as_ref(), beta.as_ref()];
    for t in others.into_iter().flatten() {
        let same = t.len() == k && t.dtype() == m.dtype() && t.device() == m.device();
        crate::ensure_op!(k > 0 && same, OP, "{t:?} does not fit statistics {m:?}");
    }
    let mut mean = Tensor::empty_like(m, [k])?;
    let mut var = Tensor::empty_like(m, [k])?;
    let address = |t: &Option<Tensor>| t.as_ref().map_or(0, Tensor::address);
    if let Some(gpu) = m.gpu() {
        Launch::over("tune_stats_fwd_f32", k, 128)
            .ptr(address(&gamma))
            .ptr(address(&beta))
            .ptr(norm.mean.address())
            .ptr(norm.var.address())
            .ptr(m.address())
            .ptr(v.address())
            .ptr(mean.address())
            .ptr(var.address())
            .val(k as i32)
            .val(norm.eps)
            .run(gpu)?;
    } else {
        crate::for_real!(OP, m.dtype(), T => {
            let (m, v, mu, spread) = (m.host::<T>(), v.host::<T>(), norm.mean.host::<T>(), norm.var.host::<T>());
            let scales = scales::<T>(&gamma, norm.var, norm.eps);
            let (mean, var) = (mean.host_mut::<T>(), var.host_mut::<T>());
            for (i, &s) in scales.iter().enumerate() {
                let shift = beta.as_ref().map_or(T::of(0.0), |b| b.host::<T>()[i]);
                let dead = s.abs() < T::of(DEAD);
                mean[i] = if dead { mu[i] } else { mu[i] + (m[i] - shift) / s };
                var[i] = if dead { spread[i] } else { v[i] / (s * s) };
            }
            Ok(())
        })?;
    }
    let op = TuneStatsOp { gamma, var: norm.var.clone(), eps: norm.eps };
    let outputs = tape.record(op, &[y_mean, y_var], vec![mean, var]);
    let [mean, var]: [Var; 2] = outputs.try_into().expect("two outputs were recorded");
    Ok((mean, var))
}

/// `s` of every channel, on the CPU.
fn scales<T: Real>(gamma: &Option<Tensor>, var: &Tensor, eps: f32) -> Vec<T> {
    let one = |(i, v): (usize, &T)| {
        let gamma = gamma.as_ref().map_or(T::one(), |g| g.host::<T>()[i]);
        gamma / (*v + T::of(f64::from(eps))).sqrt()
    };
    var.host::<T>().iter().enumerate().map(one).collect()
}

struct TuneStatsOp {
    gamma: Option<Tensor>,
    var: Tensor,
    eps: f32,
}

impl Op for TuneStatsOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let (dz_mean, dz_var) = (cx.grad(0), cx.grad(1));
        let k = self.var.len();
        let mut dy_mean = Tensor::empty_like(&self.var, [k])?;
        let mut dy_var = Tensor::empty_like(&self.var, [k])?;
        let address = |t: &Option<Tensor>| t.as_ref().map_or(0, Tensor::address);
        if let Some(gpu) = self.var.gpu() {
            Launch::over("tune_stats_bwd_f32", k, 128)
                .ptr(address(&self.gamma))
                .ptr(self.var.address())
                .ptr(address(&dz_mean))
                .ptr(address(&dz_var))
                .ptr(dy_mean.address())
                .ptr(dy_var.address())
                .val(k as i32)
                .val(self.eps)
                .run(gpu)?;
        } else {
            crate::for_real!(OP, self.var.dtype(), T => {
                let scales = scales::<T>(&self.gamma, &self.var, self.eps);
                let flow = |t: &Option<Tensor>, i: usize| t.as_ref().map_or(T::of(0.0), |t| t.host::<T>()[i]);
                for (i, &s) in scales.iter().enumerate() {
                    let dead = s.abs() < T::of(DEAD);
                    dy_mean.host_mut::<T>()[i] = if dead { T::of(0.0) } else { flow(&dz_mean, i) / s };
                    dy_var.host_mut::<T>()[i] = if dead { T::of(0.0) } else { flow(&dz_var, i) / (s * s) };
                }
                Ok(())
            })?;
        }
        cx.give(0, dy_mean)?;
        cx.give(1, dy_var)
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for k in [1usize, 3, 16, 131] {
        for affine in [true, false] {
            let positive = || Input::plain([k]).fill(Fill::Uniform { low: 0.3, high: 2.0 });
            let inputs = vec![Input::grad([k]), Input::grad([k]), Input::plain([k]), positive(), positive(), Input::plain([k])];
            let run = move |t: &mut Tape, v: &[Var]| {
                let (gamma, beta) = if affine { (Some(&v[4]), Some(&v[5])) } else { (None, None) };
                let norm = TuneNorm { gamma, beta, mean: &v[2].value, var: &v[3].value, eps: 1e-5 };
                let (mean, var) = tune_stats(t, &v[0], &v[1], norm)?;
                Ok(vec![mean, var])
            };
            let label = if affine { "affine" } else { "plain" };
            cases.push(Case::new(format!("{label}_{k}"), inputs, run));
        }
    }
    cases
}
