//! Decoupled knowledge distillation (Zhao et al., CVPR 2022; the student's loss of LRQ): target and other classes apart.
//!
//! With `p = softmax(t / T)`, `q = softmax(s / T)`, target `y`: `TCKD = KL((p_y, 1 - p_y) || (q_y, 1 - q_y))`,
//! `NCKD = KL(p^ || q^)` over the other classes, each renormalised; loss `T^2 mean_b(alpha TCKD + beta NCKD)`. Gradient
//! to the student `T/n` times `alpha (q_y - p_y)` at the target and `beta (q^ - p^) - alpha (q_y - p_y) q^` elsewhere.
//! `1 - q_y` comes from the other classes' own sum, so that sure networks lose no digits. With `beta = alpha (1 - p_y)`
//! it would be plain distillation.

use super::case::{Case, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "dkd";

/// Weights of the two parts and the temperature `T > 0`. The published defaults are 1, 0.5, 1 for ImageNet and 1, 2 to 8,
/// 4 for CIFAR-100; those of LRQ are not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DkdSpec {
    /// Of the target class part.
    pub alpha: f32,
    /// Of the other classes' part.
    pub beta: f32,
    pub temperature: f32,
}

impl Default for DkdSpec {
    fn default() -> Self {
        Self { alpha: 1.0, beta: 2.0, temperature: 4.0 }
    }
}

/// Kernel parameters, mirrored in `kernels/dkd.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    target_weight: f64,
    other_weight: f64,
    inverse_temperature: f64,
    n: i32,
    c: i32,
}

/// The scalar loss `[1]`, nats, of `student[n, c]` against constant `teacher_logits[n, c]`, F32 (F64 on the CPU), with
/// `labels[n]` (I32). Gradient to the student only. A label outside `0..c` is an error on the CPU and makes the loss NaN on
/// a GPU; one class alone costs 0.
pub fn dkd(tape: &mut Tape, student: &Var, teacher_logits: &Tensor, labels: &Var, spec: DkdSpec) -> Result<Var> {
    let [n, c] = row_loss::rows_of(OP, &student.value)?;
    row_loss::check_like(OP, "the teacher's logits", teacher_logits, &student.value)?;
    row_loss::check_labels(OP, &labels.value, n, c)?;
    let t = f64::from(spec.temperature);
    crate::ensure_op!(t > 0.0, OP, "temperature must be > 0, got {t}");
    let p = Params {
        target_weight: t * t * f64::from(spec.alpha) / n as f64,
        other_weight: t * t * f64::from(spec.beta) / n as f64,
        inverse_temperature: 1.0 / t,
        n: n as i32,
        c: c as i32,
    };
    let mut slopes = row_loss::slopes(tape, &[student])?;
    let mut loss = Tensor::empty_like(&student.value, [1])?;
    if let Some(gpu) = student.value.gpu() {
        let row_losses = Tensor::empty(tape.device(), [n], DType::F64)?;
        Launch::new("dkd_fwd_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(student.value.address())
            .ptr(teacher_logits.address())
            .ptr(labels.value.address())
            .ptr(row_losses.address())
            .ptr(row_loss::address(&slopes[0]))
            .val(p)
            .run(gpu)?;
        row_loss::sum_on_gpu(&row_losses, &loss)?;
    } else {
        crate::for_real!(OP, student.dtype(), T => {
            let (s, t, labels) = (student.value.host::<T>(), teacher_logits.host::<T>(), labels.value.host::<i32>());
            let sum = row_loss::on_cpu::<T>(n, c, &mut slopes, |b, g| {
                row(&s[b * c..][..c], &t[b * c..][..c], labels[b] as usize, p, g)
            });
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &[student], slopes, loss))
}

fn row<T: Real>(student: &[T], teacher: &[T], label: usize, p: Params, g: &mut [f64]) -> f64 {
    if student.len() == 1 {
        return 0.0;
    }
    let it = p.inverse_temperature;
    let log_sum_others = |x: &[T]| {
        let others = || x.iter().enumerate().filter(|(i, _)| *i != label).map(|(_, v)| v.f64() * it);
        let top = others().fold(f64::NEG_INFINITY, f64::max);
        top + others().map(|v| (v - top).exp()).sum::<f64>().ln()
    };
    let log_add = |a: f64, b: f64| a.max(b) + (a.min(b) - a.max(b)).exp().ln_1p();
    let (s_others, t_others) = (log_sum_others(student), log_sum_others(teacher));
    let (s_target, t_target) = (student[label].f64() * it, teacher[label].f64() * it);
    let (s_all, t_all) = (log_add(s_target, s_others), log_add(t_target, t_others));
    let (pt, qt) = ((t_target - t_all).exp(), (s_target - s_all).exp());
    let target = pt * ((t_target - t_all) - (s_target - s_all))
        + (t_others - t_all).exp() * ((t_others - t_all) - (s_others - s_all));
    let mut other = 0.0;
    for (i, g) in g.iter_mut().enumerate() {
        if i == label {
            *g = it * p.target_weight * (qt - pt);
            continue;
        }
        let (log_q, log_p) = (student[i].f64() * it - s_others, teacher[i].f64() * it - t_others);
        let (q, w) = (log_q.exp(), log_p.exp());
        other += w * (log_p - log_q);
        *g = it * (p.other_weight * (q - w) - p.target_weight * (qt - pt) * q);
    }
    p.target_weight * target + p.other_weight * other
}

pub fn cases() -> Vec<Case> {
    let inputs = |n: usize, c: usize| vec![Input::grad([n, c]), Input::plain([n, c]), Input::labels(n, c)];
    let mut cases = Vec::new();
    for (name, alpha, beta, temperature) in
        [("both", 1.0, 2.0, 4.0), ("target", 1.0, 0.0, 1.0), ("others", 0.0, 1.0, 1.0), ("t20", 1.0, 8.0, 20.0)]
    {
        let spec = DkdSpec { alpha, beta, temperature };
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![dkd(t, &v[0], &v[1].value, &v[2], spec)?]);
        for [n, c] in [[1, 1], [3, 2], [5, 7], [2, 131]] {
            cases.push(Case::new(format!("{name}_{n}x{c}"), inputs(n, c), run));
        }
        if name == "both" {
            cases.push(Case::new("both_200x100", inputs(200, 100), run).cost(1e6, 2.4e5).bench());
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::loss::{KlReduction, kl_distill};

    /// KL = TCKD + (1 - p_y) NCKD (Zhao et al., eq. 8), here with teachers of one row so that `1 - p_y` is a number.
    #[test]
    fn the_parts_make_up_plain_distillation() {
        let d = Device::cpu();
        let mut tape = Tape::inference(&d);
        let student = Var::constant(Tensor::from_slice(&d, [1, 4], &[0.3f64, -1.0, 2.0, 0.1]).unwrap());
        let teacher = Tensor::from_slice(&d, [1, 4], &[1.3f64, 0.2, -0.5, 0.4]).unwrap();
        let y = Var::constant(Tensor::from_slice(&d, [1], &[1]).unwrap());
        let temperature = 2.0;
        let e: Vec<f64> = [1.3f64, 0.2, -0.5, 0.4].iter().map(|v| (v / 2.0).exp()).collect();
        let beta = (1.0 - e[1] / e.iter().sum::<f64>()) as f32;
        let spec = DkdSpec { alpha: 1.0, beta, temperature };
        let parts = dkd(&mut tape, &student, &teacher, &y, spec).unwrap().value.item().unwrap();
        let whole = kl_distill(&mut tape, &student, &teacher, temperature, KlReduction::BatchMean).unwrap();
        let whole = whole.value.item().unwrap();
        assert!((parts - whole).abs() < 1e-6 * whole, "{parts} {whole}");
    }

    #[test]
    fn sure_networks_stay_finite() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let v = Tensor::from_slice(&d, [1, 3], &[1000f32, -1000.0, 0.0]).unwrap();
        let x = tape.leaf(v.clone());
        let y = Var::constant(Tensor::from_slice(&d, [1], &[0]).unwrap());
        let loss = dkd(&mut tape, &x, &v, &y, DkdSpec::default()).unwrap();
        assert_eq!(loss.value.item().unwrap(), 0.0);
        let g = tape.backward(&loss).unwrap().of(&x).unwrap().to_f64().unwrap();
        assert!(g.iter().all(|g| *g == 0.0), "{g:?}");
    }
}
