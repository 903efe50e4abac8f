//! Classification and distillation losses over logits `[n, c]`, one row per sample.
//!
//! `softmax_cross_entropy = mean_b(-log softmax(x_b)[y_b])`, gradient `(softmax(x) - onehot(y)) / n`.
//!
//! `kl_distill = T^2 / norm * sum_b sum_c p (log p - log q)`, `p = softmax(t / T)`, `q = softmax(s / T)`, gradient to the
//! student `T (q - p) / norm` (Hinton, Vinyals, Dean 2015). `norm` is `n` (batch mean) or `n c` (element mean, what
//! GDFQ's code does).
//!
//! Rows are small and `log p - log q` cancels, so rows are computed in f64 on every device and rounded once. The
//! gradient is formed in the forward pass, from the same exponentials, and only scaled in the backward pass.

use super::case::{Case, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

/// What a distillation loss is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KlReduction {
    /// The number of samples.
    BatchMean,
    /// Samples times classes.
    ElementMean,
}

/// Kernel parameters, mirrored in `kernels/loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    /// Factor on a row's loss.
    pub weight: f64,
    /// Factor on a row's gradient.
    pub slope: f64,
    /// `1 / T`.
    pub inverse_temperature: f64,
    pub n: i32,
    pub c: i32,
}

impl Params {
    pub fn cross_entropy(n: usize, c: usize) -> Self {
        let share = 1.0 / n as f64;
        Self { weight: share, slope: share, inverse_temperature: 1.0, n: n as i32, c: c as i32 }
    }

    pub fn kl(op: &'static str, n: usize, c: usize, temperature: f32, reduction: KlReduction) -> Result<Self> {
        crate::ensure_op!(temperature > 0.0, op, "temperature must be > 0, got {temperature}");
        let norm = match reduction {
            KlReduction::BatchMean => n as f64,
            KlReduction::ElementMean => (n * c) as f64,
        };
        let temperature = f64::from(temperature);
        Ok(Self {
            weight: temperature * temperature / norm,
            slope: temperature / norm,
            inverse_temperature: 1.0 / temperature,
            n: n as i32,
            c: c as i32,
        })
    }
}

/// Mean cross entropy of `logits[n, c]` (F32) with `labels[n]` (I32): a scalar `[1]`, nats. Errors on wrong shapes; a
/// label outside `0..c` is an error on the CPU and makes the loss NaN on a GPU, where it is only seen by the kernel.
pub fn softmax_cross_entropy(tape: &mut Tape, logits: &Var, labels: &Var) -> Result<Var> {
    const OP: &str = "softmax_cross_entropy";
    let [n, c] = row_loss::rows_of(OP, &logits.value)?;
    row_loss::check_labels(OP, &labels.value, n, c)?;
    let p = Params::cross_entropy(n, c);
    finish(tape, OP, "loss_cross_entropy_f32", logits, &labels.value, p)
}

/// `temperature^2 KL(softmax(teacher / T) || softmax(student / T))`, a scalar `[1]`, nats, from logits `[n, c]` (F32).
/// Gradient to the student only.
pub fn kl_distill(
    tape: &mut Tape,
    student: &Var,
    teacher_logits: &Tensor,
    temperature: f32,
    reduction: KlReduction,
) -> Result<Var> {
    const OP: &str = "kl_distill";
    let [n, c] = row_loss::rows_of(OP, &student.value)?;
    row_loss::check_like(OP, "the teacher's logits", teacher_logits, &student.value)?;
    let p = Params::kl(OP, n, c, temperature, reduction)?;
    finish(tape, OP, "loss_kl_distill_f32", student, teacher_logits, p)
}

/// Runs one loss: per-row losses and gradients, and the sum of rows in a fixed order. `other` is labels or teacher.
fn finish(
    tape: &mut Tape,
    op: &'static str,
    kernel: &'static str,
    logits: &Var,
    other: &Tensor,
    p: Params,
) -> Result<Var> {
    let x = &logits.value;
    let wanted = tape.wants(&[logits]);
    let mut slope = if wanted { Some(Tensor::empty_like(x, x.shape())?) } else { None };
    let mut loss = Tensor::empty_like(x, [1])?;
    if let Some(gpu) = x.gpu() {
        let row_losses = Tensor::empty(tape.device(), [p.n as usize], DType::F64)?;
        Launch::new(kernel)
            .grid([p.n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(x.address())
            .ptr(other.address())
            .ptr(row_losses.address())
            .ptr(slope.as_ref().map_or(0, Tensor::address))
            .ptr(loss.address())
            .ptr(gpu.arrivals(1)?)
            .val(p)
            .run(gpu)?;
    } else {
        crate::for_real!(op, x.dtype(), T => {
            let slope = slope.as_mut().map(|s| s.host_mut::<T>());
            let sum = if other.dtype() == DType::I32 {
                let labels = other.host::<i32>();
                cpu_rows::<T>(x.host(), slope, p, |row, i, q| cross_entropy_row(row, labels[i] as usize, p, q))
            } else {
                let teacher = other.host::<T>();
                let c = p.c as usize;
                cpu_rows::<T>(x.host(), slope, p, |row, i, q| kl_row(row, &teacher[i * c..][..c], p, q))
            };
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    let Some(slope) = slope else { return Ok(Var::constant(loss)) };
    Ok(row_loss::record(tape, op, &[logits], vec![Some(slope)], loss))
}

/// Calls `row(logits, index, gradient buffer)` for every row; the gradient buffer is f64, rounded into `slope`.
fn cpu_rows<T: Real>(
    x: &[T],
    slope: Option<&mut [T]>,
    p: Params,
    row: impl Fn(&[T], usize, &mut [f64]) -> f64 + Sync,
) -> f64 {
    let c = p.c as usize;
    let losses: Vec<f64> = match slope {
        Some(slope) => slope
            .par_chunks_mut(c)
            .zip(x.par_chunks(c))
            .enumerate()
            .map_init(
                || vec![0.0; c],
                |q, (i, (slope, x))| {
                    let loss = row(x, i, q);
                    slope.iter_mut().zip(q).for_each(|(s, q)| *s = T::of(*q));
                    loss
                },
            )
            .collect(),
        None => x.par_chunks(c).enumerate().map_init(|| vec![0.0; c], |q, (i, x)| row(x, i, q)).collect(),
    };
    losses.iter().sum()
}

/// Overwrites `q` with `exp(x / T - max)` and returns `(max, sum)`.
fn exponentials<T: Real>(x: &[T], inverse_temperature: f64, q: &mut [f64]) -> (f64, f64) {
    let top = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v.f64() * inverse_temperature));
    let mut sum = 0.0;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x.f64() * inverse_temperature - top).exp();
        sum += *q;
    }
    (top, sum)
}

pub(super) fn cross_entropy_row<T: Real>(x: &[T], label: usize, p: Params, q: &mut [f64]) -> f64 {
    let (top, sum) = exponentials(x, 1.0, q);
    q.iter_mut().for_each(|q| *q *= p.slope / sum);
    q[label] -= p.slope;
    p.weight * (top + sum.ln() - x[label].f64())
}

pub(super) fn kl_row<T: Real>(student: &[T], teacher: &[T], p: Params, q: &mut [f64]) -> f64 {
    let it = p.inverse_temperature;
    let (top, sum) = exponentials(student, it, q);
    let teacher_top = teacher.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v.f64() * it));
    let teacher_sum: f64 = teacher.iter().map(|t| (t.f64() * it - teacher_top).exp()).sum();
    // log p - log q = (t - s) / T - shift
    let shift = teacher_top + teacher_sum.ln() - top - sum.ln();
    let mut loss = 0.0;
    for ((q, s), t) in q.iter_mut().zip(student).zip(teacher) {
        let weight = (t.f64() * it - teacher_top).exp() / teacher_sum;
        loss += weight * ((t.f64() - s.f64()) * it - shift);
        *q = p.slope * (*q / sum - weight);
    }
    p.weight * loss
}

pub fn cases() -> Vec<Case> {
    let cross = |t: &mut Tape, v: &[Var]| Ok(vec![softmax_cross_entropy(t, &v[0], &v[1])?]);
    let mut cases = Vec::new();
    for [n, c] in [[1, 1], [3, 7], [5, 10], [2, 131]] {
        let inputs = vec![Input::grad([n, c]), Input::labels(n, c)];
        cases.push(Case::new(format!("cross_entropy_{n}x{c}"), inputs, cross));
        for (label, reduction) in [("batch", KlReduction::BatchMean), ("element", KlReduction::ElementMean)] {
            for temperature in [1.0, 20.0] {
                let run =
                    move |t: &mut Tape, v: &[Var]| Ok(vec![kl_distill(t, &v[0], &v[1].value, temperature, reduction)?]);
                let inputs = vec![Input::grad([n, c]), Input::plain([n, c])];
                cases.push(Case::new(format!("kl_{label}_t{temperature}_{n}x{c}"), inputs, run));
            }
        }
    }
    let inputs = vec![Input::grad([200, 100]), Input::labels(200, 100)];
    cases.push(Case::new("cross_entropy_200x100", inputs, cross).cost(3e5, 1.6e5).bench());
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![kl_distill(t, &v[0], &v[1].value, 20.0, KlReduction::BatchMean)?]);
    let inputs = vec![Input::grad([200, 100]), Input::plain([200, 100])];
    cases.push(Case::new("kl_200x100", inputs, run).cost(6e5, 2.4e5).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn uniform_logits_lose_log_of_classes() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let x = tape.leaf(Tensor::zeros(&d, [4, 10], DType::F32).unwrap());
        let y = Var::constant(Tensor::from_slice(&d, [4], &[0, 9, 3, 3]).unwrap());
        let loss = softmax_cross_entropy(&mut tape, &x, &y).unwrap();
        assert!((loss.value.item().unwrap() - 10f64.ln()).abs() < 1e-6);
        let g = tape.backward(&loss).unwrap().of(&x).unwrap().to_f64().unwrap();
        assert!((g[0] - (0.1 - 1.0) / 4.0).abs() < 1e-7 && (g[1] - 0.1 / 4.0).abs() < 1e-7);
    }

    #[test]
    fn huge_logits_stay_finite_and_equal_ones_cost_nothing() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let v = Tensor::from_slice(&d, [1, 3], &[1e30f32, -1e30, 0.0]).unwrap();
        let x = tape.leaf(v.clone());
        let loss = kl_distill(&mut tape, &x, &v, 4.0, KlReduction::BatchMean).unwrap();
        assert_eq!(loss.value.item().unwrap(), 0.0);
    }

    #[test]
    fn wrong_inputs_are_errors() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let x = tape.leaf(Tensor::zeros(&d, [2, 3], DType::F32).unwrap());
        let outside = Var::constant(Tensor::from_slice(&d, [2], &[0, 3]).unwrap());
        let e = softmax_cross_entropy(&mut tape, &x, &outside).unwrap_err().to_string();
        assert!(e.contains("label 3 of sample 1"), "{e}");
        let short = Var::constant(Tensor::from_slice(&d, [1], &[0]).unwrap());
        assert!(softmax_cross_entropy(&mut tape, &x, &short).is_err());
        assert!(kl_distill(&mut tape, &x, &x.value, 0.0, KlReduction::BatchMean).is_err());
    }
}
