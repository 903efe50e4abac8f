//! Distance of batch statistics from stored ones: `sum((mean - tm)^2) / c + sum((var - tv)^2) / c`.
//!
//! One layer's term of the batch normalization statistics loss (GDFQ, Xu et al. 2020, eq. 4, with mean squared error).
//! Gradients `2 (mean - tm) / c` and `2 (var - tv) / c`.

use super::case::{Case, Fill, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};

/// The scalar loss `[1]` of `mean` and `var` against constant targets, all `[c]` of one dtype: F32 (F64 on the CPU).
/// Errors if lengths or dtypes differ, or if they are empty.
pub fn bn_stats_loss(
    tape: &mut Tape,
    mean: &Var,
    var: &Var,
    target_mean: &Tensor,
    target_var: &Tensor,
) -> Result<Var> {
    let c = mean.value.len();
    crate::ensure_op!(c > 0, "bn_stats_loss", "the mean is empty");
    for (name, t) in [("var", &var.value), ("target mean", target_mean), ("target var", target_var)] {
        crate::ensure_op!(
            t.len() == c && t.dtype() == mean.dtype(),
            "bn_stats_loss",
            "{name} has {} values of {:?}, the mean {c} of {:?}",
            t.len(),
            t.dtype(),
            mean.dtype()
        );
    }
    let mut loss = Tensor::empty_like(&mean.value, [1])?;
    if let Some(gpu) = mean.value.gpu() {
        Launch::new("bn_stats_loss_fwd_f32")
            .block([256, 1, 1])
            .ptr(mean.value.address())
            .ptr(var.value.address())
            .ptr(target_mean.address())
            .ptr(target_var.address())
            .ptr(loss.address())
            .val(c as i32)
            .run(gpu)?;
    } else {
        crate::for_real!("bn_stats_loss", mean.dtype(), T => {
            let squares = |a: &Tensor, b: &Tensor| -> f64 {
                a.host::<T>().iter().zip(b.host::<T>()).map(|(a, b)| (a.f64() - b.f64()).powi(2)).sum()
            };
            let sum = squares(&mean.value, target_mean) + squares(&var.value, target_var);
            loss.host_mut::<T>()[0] = T::of(sum / c as f64);
            Ok(())
        })?;
    }
    let op = BnStatsLossOp {
        pairs: [(mean.value.clone(), target_mean.clone()), (var.value.clone(), target_var.clone())],
    };
    Ok(tape.record_one(op, &[mean, var], loss))
}

struct BnStatsLossOp {
    /// Value and target, of mean and var.
    pairs: [(Tensor, Tensor); 2],
}

impl Op for BnStatsLossOp {
    fn name(&self) -> &'static str {
        "bn_stats_loss"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dloss) = cx.grad(0) else { return Ok(()) };
        for (i, (value, target)) in self.pairs.iter().enumerate() {
            if !cx.needs(i) {
                continue;
            }
            let mut d = Tensor::empty_like(value, value.shape())?;
            if let Some(gpu) = value.gpu() {
                Launch::over("bn_stats_loss_bwd_f32", value.len(), 128)
                    .ptr(value.address())
                    .ptr(target.address())
                    .ptr(dloss.address())
                    .ptr(d.address())
                    .val(value.len() as i32)
                    .run(gpu)?;
            } else {
                crate::for_real!("bn_stats_loss", value.dtype(), T => {
                    let scale = dloss.host::<T>()[0] * T::of(2.0 / value.len() as f64);
                    let values = value.host::<T>().iter().zip(target.host::<T>());
                    for (d, (v, t)) in d.host_mut::<T>().iter_mut().zip(values) {
                        *d = scale * (*v - *t);
                    }
                    Ok(())
                })?;
            }
            cx.give(i, d)?;
        }
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![bn_stats_loss(t, &v[0], &v[1], &v[2].value, &v[3].value)?]);
    let positive = Fill::Uniform { low: 0.1, high: 2.0 };
    let case = |c: usize| {
        let inputs = vec![
            Input::grad([c]),
            Input::grad([c]).fill(positive.clone()),
            Input::plain([c]),
            Input::plain([c]).fill(positive.clone()),
        ];
        Case::new(format!("c{c}"), inputs, run).reduction(c).cost(6.0 * c as f64, 16.0 * c as f64)
    };
    let mut cases: Vec<Case> = [1, 3, 17, 64, 521].into_iter().map(case).collect();
    cases.push(case(2048).bench());
    cases
}
