//! Cross entropy that looks at some samples more than at others.
//!
//! `1/n sum_b w_b (1 - p_b)^gamma (-log p_b)`, `p_b = softmax(x_b)[y_b]`, with given weights `w` (1 without) and the focal
//! factor (HAST's hard samples, Li et al. 2023; its difficulty is `1 - p`). The factor is differentiated too, or a constant
//! (`stop`). [`difficulty_gate`] makes SynQ's weights: 1 where the teacher's difficulty is below a threshold, else 0 (Kim
//! et al. 2025). Its code counts excluded samples as `log c` in the mean: a constant, without gradient, that is left out.
//!
//! Gradient: `w/n` times `(1 - p)^gamma + gamma p (1 - p)^(gamma - 1) (-log p)` (the second term unless stopped) times
//! `softmax(x) - onehot(y)`.

use super::case::{Case, Fill, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "gated_cross_entropy";

/// The factor `(1 - p)^gamma`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Focal {
    /// >= 0 (HAST: 2 for CIFAR, 0.5 for ImageNet); 0 is plain cross entropy.
    pub gamma: f32,
    /// Whether the factor is a constant to the gradient.
    pub stop: bool,
}

/// Kernel parameters, mirrored in `kernels/gated_cross_entropy.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight: f64,
    gamma: f64,
    c: i32,
    stop: i32,
}

/// The scalar loss `[1]`, nats, of `logits[n, c]` (F32; F64 on the CPU) with `labels[n]` (I32), `weights[n]` (dtype of the
/// logits, constant) and `focal` if given. Always divided by `n`, whatever the weights. A label outside `0..c` is an error
/// on the CPU and makes the loss NaN on a GPU.
pub fn gated_cross_entropy(
    tape: &mut Tape,
    logits: &Var,
    labels: &Var,
    weights: Option<&Tensor>,
    focal: Option<Focal>,
) -> Result<Var> {
    let [n, c] = row_loss::rows_of(OP, &logits.value)?;
    row_loss::check_labels(OP, &labels.value, n, c)?;
    let fits = weights.is_none_or(|w| w.len() == n && w.dtype() == logits.dtype());
    crate::ensure_op!(fits, OP, "weights must be {:?} [{n}], got {:?}", logits.dtype(), weights);
    let focal = focal.unwrap_or(Focal { gamma: 0.0, stop: true });
    crate::ensure_op!(focal.gamma >= 0.0, OP, "gamma must be >= 0, got {}", focal.gamma);
    let p = Params { weight: 1.0 / n as f64, gamma: focal.gamma.into(), c: c as i32, stop: focal.stop.into() };
    let mut slopes = row_loss::slopes(tape, &[logits])?;
    let mut loss = Tensor::empty_like(&logits.value, [1])?;
    if let Some(gpu) = logits.value.gpu() {
        let row_losses = Tensor::empty(tape.device(), [n], DType::F64)?;
        Launch::new("gated_cross_entropy_fwd_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(logits.value.address())
            .ptr(labels.value.address())
            .ptr(weights.map_or(0, Tensor::address))
            .ptr(row_losses.address())
            .ptr(row_loss::address(&slopes[0]))
            .val(p)
            .run(gpu)?;
        row_loss::sum_on_gpu(&row_losses, &loss)?;
    } else {
        crate::for_real!(OP, logits.dtype(), T => {
            let (x, labels) = (logits.value.host::<T>(), labels.value.host::<i32>());
            let weights = weights.map(|w| w.host::<T>());
            let sum = row_loss::on_cpu::<T>(n, c, &mut slopes, |b, g| {
                let weight = p.weight * weights.map_or(1.0, |w| w[b].f64());
                row(&x[b * c..][..c], labels[b] as usize, weight, p, g)
            });
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &[logits], slopes, loss))
}

/// Writes `exp(x - max)` to `q`; returns the largest logit, the sum of `q`, and the sum without the label's.
fn sums<T: Real>(x: &[T], label: usize, q: &mut [f64]) -> (f64, f64, f64) {
    let top = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v.f64()));
    q.iter_mut().zip(x).for_each(|(q, x)| *q = (x.f64() - top).exp());
    let others: f64 = q.iter().enumerate().filter(|(i, _)| *i != label).map(|(_, q)| q).sum();
    (top, others + q[label], others)
}

fn row<T: Real>(x: &[T], label: usize, weight: f64, p: Params, g: &mut [f64]) -> f64 {
    let (top, sum, others) = sums(x, label, g);
    let difficulty = others / sum;
    // -log p, without cancellation where p is near 1
    let loss = if difficulty < 0.5 { -(-difficulty).ln_1p() } else { top + sum.ln() - x[label].f64() };
    let factor = if p.gamma == 0.0 { 1.0 } else { difficulty.powf(p.gamma) };
    let mut pull = factor;
    if p.stop == 0 && p.gamma != 0.0 {
        // loss / difficulty -> 1
        let ratio = if difficulty > 1e-12 { loss / difficulty } else { 1.0 };
        pull += p.gamma * (1.0 - difficulty) * factor * ratio;
    }
    g.iter_mut().for_each(|g| *g *= weight * pull / sum);
    g[label] = -weight * pull * difficulty;
    weight * factor * loss
}

/// `1 - softmax(x_b)[y_b]` of each row of `logits[n, c]`: `[n]`, no gradient; F32 (F64 on the CPU).
pub fn difficulty(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    rate(logits, labels, None)
}

/// 1 where the difficulty of the row is strictly below `threshold` (SynQ: 0.5, CIFAR-10 0.7), else 0: weights `[n]` for
/// [`gated_cross_entropy`], no gradient.
pub fn difficulty_gate(teacher_logits: &Tensor, labels: &Tensor, threshold: f32) -> Result<Tensor> {
    rate(teacher_logits, labels, Some(threshold))
}

fn rate(logits: &Tensor, labels: &Tensor, threshold: Option<f32>) -> Result<Tensor> {
    let [n, c] = row_loss::rows_of(OP, logits)?;
    row_loss::check_labels(OP, labels, n, c)?;
    let mut out = Tensor::empty_like(logits, [n])?;
    if let Some(gpu) = logits.gpu() {
        Launch::new("gated_cross_entropy_difficulty_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(logits.address())
            .ptr(labels.address())
            .ptr(out.address())
            .val(c as i32)
            .val(i32::from(threshold.is_some()))
            .val(threshold.unwrap_or(0.0))
            .run(gpu)?;
        return Ok(out);
    }
    crate::for_real!(OP, logits.dtype(), T => {
        let mut q = vec![0.0; c];
        let rows = logits.host::<T>().chunks_exact(c).zip(labels.host::<i32>());
        for (out, (x, y)) in out.host_mut::<T>().iter_mut().zip(rows) {
            let (_, sum, others) = sums(x, *y as usize, &mut q);
            let d = T::of(others / sum);
            *out = match threshold {
                Some(t) => if d < T::of(t.into()) { T::of(1.0) } else { T::of(0.0) },
                None => d,
            };
        }
        Ok(())
    })?;
    Ok(out)
}

pub fn cases() -> Vec<Case> {
    let inputs = |n: usize, c: usize| {
        let weights = Input::plain([n]).fill(Fill::Uniform { low: 0.1, high: 2.0 });
        vec![Input::grad([n, c]), Input::labels(n, c), weights]
    };
    let mut cases = Vec::new();
    let focal = |gamma: f32, stop: bool| Some(Focal { gamma, stop });
    for (name, focal, weighted) in [
        ("plain", None, false),
        ("weighted", None, true),
        ("focal2", focal(2.0, false), false),
        ("focal_half", focal(0.5, false), true),
        ("stop2", focal(2.0, true), true),
    ] {
        let run = move |t: &mut Tape, v: &[Var]| {
            let weights = weighted.then_some(&v[2].value);
            Ok(vec![gated_cross_entropy(t, &v[0], &v[1], weights, focal)?])
        };
        // A constant factor is not the derivative.
        let check = if name == "stop2" { super::case::GradCheck::Defined } else { super::case::GradCheck::Differences };
        for [n, c] in [[1, 1], [3, 7], [5, 10], [2, 131]] {
            cases.push(Case::new(format!("{name}_{n}x{c}"), inputs(n, c), run).check(check));
        }
        if name == "focal2" {
            cases.push(Case::new("focal2_200x100", inputs(200, 100), run).cost(4e5, 1.6e5).bench());
        }
    }
    for (name, threshold) in [("difficulty", None), ("gate", Some(0.8))] {
        let run = move |_: &mut Tape, v: &[Var]| Ok(vec![Var::constant(rate(&v[0].value, &v[1].value, threshold)?)]);
        let check = super::case::GradCheck::None;
        cases.push(Case::new(format!("{name}_7x5"), vec![Input::plain([7, 5]), Input::labels(7, 5)], run).check(check));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::loss::softmax_cross_entropy;

    fn gradient(x: &[f64], focal: Option<Focal>) -> Vec<f64> {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let x = tape.leaf(Tensor::from_slice(&d, [1, x.len()], x).unwrap());
        let y = Var::constant(Tensor::from_slice(&d, [1], &[1]).unwrap());
        let loss = gated_cross_entropy(&mut tape, &x, &y, None, focal).unwrap();
        tape.backward(&loss).unwrap().of(&x).unwrap().to_f64().unwrap()
    }

    #[test]
    fn a_stopped_factor_scales_the_plain_gradient() {
        let x = [0.5, 1.0, -2.0];
        let e: Vec<f64> = x.iter().map(|v: &f64| v.exp()).collect();
        let hard = 1.0 - e[1] / e.iter().sum::<f64>();
        let stopped = gradient(&x, Some(Focal { gamma: 2.0, stop: true }));
        for (s, p) in stopped.iter().zip(gradient(&x, None)) {
            assert!((s - hard * hard * p).abs() < 1e-12);
        }
        // A sample that is certain pulls no more, and nothing overflows.
        assert!(gradient(&[-900.0, 900.0], Some(Focal { gamma: 0.5, stop: false })).iter().all(|g| *g == 0.0));
    }

    #[test]
    fn without_weights_it_is_cross_entropy_and_the_gate_is_strict() {
        let d = Device::cpu();
        let mut tape = Tape::inference(&d);
        let x = Tensor::from_slice(&d, [3, 2], &[0f32, 0.0, 3.0, 0.0, 0.0, 3.0]).unwrap();
        let y = Tensor::from_slice(&d, [3], &[0, 0, 0]).unwrap();
        let (vx, vy) = (Var::constant(x.clone()), Var::constant(y.clone()));
        let a = gated_cross_entropy(&mut tape, &vx, &vy, None, None).unwrap().value.item().unwrap();
        let b = softmax_cross_entropy(&mut tape, &vx, &vy).unwrap().value.item().unwrap();
        assert!((a - b).abs() < 1e-6);
        assert_eq!(difficulty_gate(&x, &y, 0.5).unwrap().to_vec::<f32>().unwrap(), [0.0, 1.0, 0.0]);
        assert_eq!(difficulty(&x, &y).unwrap().to_vec::<f32>().unwrap()[0], 0.5);
    }
}
