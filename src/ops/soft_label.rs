//! Squared distance of the label's probability from a target per sample: IntraQ's soft inception loss (Zhong et al., CVPR
//! 2022, released code).
//!
//! `1/n sum_b (p_b - t_b)^2`, `p_b = softmax(x_b)[y_b]`. Gradient `2/n (p - t) p (onehot(y) - softmax(x))`. With the
//! difficulty `d = 1 - p`, `p - t = (1 - t) - d` does not cancel where p is near a target of 1.

use super::case::{Case, Fill, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "soft_label";

/// The scalar loss `[1]` of `logits[n, c]` (F32; F64 on the CPU) with `labels[n]` (I32) and `targets[n]` (dtype of the
/// logits, constant, meant to lie in 0..=1). A label outside `0..c` is an error on the CPU and makes the loss NaN on a GPU.
pub fn soft_label(tape: &mut Tape, logits: &Var, labels: &Var, targets: &Tensor) -> Result<Var> {
    let [n, c] = row_loss::rows_of(OP, &logits.value)?;
    row_loss::check_labels(OP, &labels.value, n, c)?;
    let fits = targets.len() == n && targets.dtype() == logits.dtype();
    crate::ensure_op!(fits, OP, "targets must be {:?} [{n}], got {targets:?}", logits.dtype());
    let weight = 1.0 / n as f64;
    let mut slopes = row_loss::slopes(tape, &[logits])?;
    let mut loss = Tensor::empty_like(&logits.value, [1])?;
    if let Some(gpu) = logits.value.gpu() {
        let row_losses = Tensor::empty(tape.device(), [n], DType::F64)?;
        Launch::new("soft_label_fwd_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(logits.value.address())
            .ptr(labels.value.address())
            .ptr(targets.address())
            .ptr(row_losses.address())
            .ptr(row_loss::address(&slopes[0]))
            .val(weight)
            .val(c as i32)
            .run(gpu)?;
        row_loss::sum_on_gpu(&row_losses, &loss)?;
    } else {
        crate::for_real!(OP, logits.dtype(), T => {
            let (x, labels, targets) = (logits.value.host::<T>(), labels.value.host::<i32>(), targets.host::<T>());
            let sum = row_loss::on_cpu::<T>(n, c, &mut slopes, |b, g| {
                row(&x[b * c..][..c], labels[b] as usize, targets[b].f64(), weight, g)
            });
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &[logits], slopes, loss))
}

fn row<T: Real>(x: &[T], label: usize, target: f64, weight: f64, g: &mut [f64]) -> f64 {
    let top = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v.f64()));
    g.iter_mut().zip(x).for_each(|(g, x)| *g = (x.f64() - top).exp());
    let others: f64 = g.iter().enumerate().filter(|(i, _)| *i != label).map(|(_, e)| e).sum();
    let sum = others + g[label];
    let (p, difficulty) = (g[label] / sum, others / sum);
    let apart = (1.0 - target) - difficulty;
    let pull = 2.0 * weight * apart * p;
    g.iter_mut().for_each(|g| *g *= -pull / sum);
    g[label] = pull * difficulty;
    weight * apart * apart
}

pub fn cases() -> Vec<Case> {
    let case = |n: usize, c: usize| {
        let run = |t: &mut Tape, v: &[Var]| Ok(vec![soft_label(t, &v[0], &v[1], &v[2].value)?]);
        let targets = Input::plain([n]).fill(Fill::Uniform { low: 0.6, high: 1.0 });
        let elements = (n * c) as f64;
        Case::new(format!("{n}x{c}"), vec![Input::grad([n, c]), Input::labels(n, c), targets], run)
            .cost(4.0 * elements, 8.0 * elements)
    };
    vec![case(1, 1), case(3, 7), case(5, 10), case(2, 131), case(64, 10).bench(), case(256, 1000).bench()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn the_mean_of_squared_gaps_and_no_overflow() {
        for d in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            let mut tape = Tape::new(&d);
            let x = tape.leaf(Tensor::from_slice(&d, [2, 2], &[0f32, 0.0, 900.0, -900.0]).unwrap());
            let y = Var::constant(Tensor::from_slice(&d, [2], &[1, 0]).unwrap());
            let t = Tensor::from_slice(&d, [2], &[0.75f32, 1.0]).unwrap();
            let loss = soft_label(&mut tape, &x, &y, &t).unwrap();
            assert_eq!(loss.value.item().unwrap(), 0.25 * 0.25 / 2.0);
            let g = tape.backward(&loss).unwrap().of(&x).unwrap().to_vec::<f32>().unwrap();
            // (p - t) p (1 - p) = -1/16 on the label; a certain sample on target does not pull.
            assert_eq!(g, [0.0625, -0.0625, 0.0, 0.0]);
        }
    }
}
