//! What a student is taught by its logits `[n, c]`, in one launch: `total = w_h CE(x, y) + w_s T^2 KL(t || x)`, as
//! [`super::loss`] defines both, either of which may be missing. Weights are known to the host, so the gradient that the
//! forward pass leaves behind is the total's own, and where the tape differentiates the total nothing is left to do.
//!
//! [`super::loss`] and [`super::elementwise::weighted_sum`] are its unfused twin: parts and total have their bits, the
//! gradient is rounded once, where theirs is rounded for each loss.

use super::case::{Case, Input};
use super::loss::{self, KlReduction};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

const OP: &str = "logits_loss";

/// Cross entropy with labels I32 `[n]`.
#[derive(Clone, Copy)]
pub struct Hard<'a> {
    pub weight: f32,
    pub labels: &'a Tensor,
}

/// `temperature^2 KL(softmax(teacher / temperature) || softmax(x / temperature))`, the teacher's logits like the student's.
#[derive(Clone, Copy)]
pub struct Soft<'a> {
    pub weight: f32,
    pub teacher: &'a Tensor,
    pub temperature: f32,
    pub reduction: KlReduction,
}

/// The weighted sum, and what it is the sum of: `[1]` each, without weights.
pub struct LogitsLoss {
    pub total: Var,
    pub hard: Option<Tensor>,
    pub soft: Option<Tensor>,
}

/// Kernel parameters, mirrored in `kernels/logits_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    inverse_temperature: f64,
    share: [f64; 2],
    slope: [f64; 2],
    weight: [f32; 2],
    n: i32,
    c: i32,
}

/// Losses of `logits[n, c]` (F32, or F64 on the CPU), nats; gradient to the logits only. Errors without any loss and as the
/// twins do: wrong shapes, a temperature that is not positive; a label outside `0..c` is an error on the CPU and makes the
/// loss NaN on a GPU.
pub fn logits_loss(tape: &mut Tape, logits: &Var, hard: Option<Hard>, soft: Option<Soft>) -> Result<LogitsLoss> {
    let x = &logits.value;
    let [n, c] = row_loss::rows_of(OP, x)?;
    crate::ensure_op!(hard.is_some() || soft.is_some(), OP, "neither labels nor a teacher for {}", x.shape());
    let cross = loss::Params::cross_entropy(n, c);
    let mut kl = cross;
    if let Some(h) = &hard {
        row_loss::check_labels(OP, h.labels, n, c)?;
    }
    if let Some(s) = &soft {
        row_loss::check_like(OP, "the teacher's logits", s.teacher, x)?;
        kl = loss::Params::kl(OP, n, c, s.temperature, s.reduction)?;
    }
    let weight = [hard.map_or(0.0, |h| h.weight), soft.map_or(0.0, |s| s.weight)];
    let slopes = [cross.slope * f64::from(weight[0]), kl.slope * f64::from(weight[1])];
    let there = usize::from(hard.is_some()) + usize::from(soft.is_some());
    let wanted = tape.wants(&[logits]);
    let mut slope = if wanted { Some(Tensor::empty_like(x, x.shape())?) } else { None };
    // The total, then the losses that are there.
    let mut values = Tensor::empty_like(x, [1 + there])?;
    if let Some(gpu) = x.gpu() {
        let row_losses = Tensor::empty(tape.device(), [there * n], DType::F64)?;
        let p = Params {
            inverse_temperature: kl.inverse_temperature,
            share: [cross.weight, kl.weight],
            slope: slopes,
            weight,
            n: n as i32,
            c: c as i32,
        };
        Launch::new("logits_loss_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(x.address())
            .ptr(hard.map_or(0, |h| h.labels.address()))
            .ptr(soft.map_or(0, |s| s.teacher.address()))
            .ptr(row_losses.address())
            .ptr(slope.as_ref().map_or(0, Tensor::address))
            .ptr(values.address())
            .ptr(gpu.arrivals(1)?)
            .val(p)
            .run(gpu)?;
    } else {
        let params = [loss::Params { slope: slopes[0], ..cross }, loss::Params { slope: slopes[1], ..kl }];
        crate::for_real!(OP, x.dtype(), T => {
            let labels = hard.map(|h| h.labels.host::<i32>());
            let teacher = soft.map(|s| s.teacher.host::<T>());
            let losses = on_cpu::<T>(x.host(), labels, teacher, slope.as_mut().map(|s| s.host_mut()), params);
            let (total, parts) = values.host_mut::<T>().split_at_mut(1);
            total[0] = T::of(0.0);
            let found = [hard.is_some(), soft.is_some()].into_iter().zip(losses).zip(weight).filter(|((f, _), _)| *f);
            for (part, ((_, loss), weight)) in parts.iter_mut().zip(found) {
                *part = T::of(loss);
                total[0] += T::of(f64::from(weight)) * *part;
            }
            Ok(())
        })?;
    }
    let hard = hard.map(|_| values.view(1, [1])).transpose()?;
    let soft = soft.map(|_| values.view(there, [1])).transpose()?;
    let total = values.view(0, [1])?;
    let total = match slope {
        Some(slope) => row_loss::record(tape, OP, &[logits], vec![Some(slope)], total),
        None => Var::constant(total),
    };
    Ok(LogitsLoss { total, hard, soft })
}

/// Sums of both losses over the rows of `x`, 0 for one that is missing; `slope` is filled row by row.
fn on_cpu<T: Real>(
    x: &[T],
    labels: Option<&[i32]>,
    teacher: Option<&[T]>,
    slope: Option<&mut [T]>,
    [cross, kl]: [loss::Params; 2],
) -> [f64; 2] {
    let c = cross.c as usize;
    let row = |x: &[T], i: usize, [g, h]: &mut [Vec<f64>; 2]| {
        (g.fill(0.0), h.fill(0.0));
        let hard = labels.map_or(0.0, |l| loss::cross_entropy_row(x, l[i] as usize, cross, g));
        [hard, teacher.map_or(0.0, |t| loss::kl_row(x, &t[i * c..][..c], kl, h))]
    };
    let room = || [vec![0.0; c], vec![0.0; c]];
    let rows = x.par_chunks(c).enumerate();
    let losses: Vec<[f64; 2]> = match slope {
        Some(slope) => rows
            .zip(slope.par_chunks_mut(c))
            .map_init(room, |room, ((i, x), slope)| {
                let losses = row(x, i, room);
                for (s, (g, h)) in slope.iter_mut().zip(room[0].iter().zip(&room[1])) {
                    *s = T::of(g + h);
                }
                losses
            })
            .collect(),
        None => rows.map_init(room, |room, (i, x)| row(x, i, room)).collect(),
    };
    [0, 1].map(|k| losses.iter().map(|l| l[k]).sum())
}

pub fn cases() -> Vec<Case> {
    let total = |hard: Option<f32>, soft: Option<(f32, f32, KlReduction)>| {
        move |t: &mut Tape, v: &[Var]| {
            let hard = hard.map(|weight| Hard { weight, labels: &v[1].value });
            let soft = soft.map(|(weight, temperature, reduction)| Soft {
                weight,
                teacher: &v[2].value,
                temperature,
                reduction,
            });
            Ok(vec![logits_loss(t, &v[0], hard, soft)?.total])
        }
    };
    let inputs = |n, c| vec![Input::grad([n, c]), Input::labels(n, c), Input::plain([n, c])];
    let (batch, element) = (KlReduction::BatchMean, KlReduction::ElementMean);
    let mut cases = Vec::new();
    for [n, c] in [[1, 1], [3, 7], [5, 10], [2, 131], [300, 3]] {
        for (name, hard, soft) in [
            ("both", Some(0.7), Some((1.5, 4.0, batch))),
            ("both_element_t20", Some(1.0), Some((1.0, 20.0, element))),
            ("hard", Some(0.3), None),
            ("soft", None, Some((2.5, 1.0, batch))),
        ] {
            cases.push(Case::new(format!("{name}_{n}x{c}"), inputs(n, c), total(hard, soft)));
        }
    }
    let both = total(Some(1.0), Some((1.0, 20.0, batch)));
    cases.push(Case::new("both_200x100", inputs(200, 100), both).cost(9e5, 2.4e5).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::super::elementwise::weighted_sum;
    use super::super::loss::{kl_distill, softmax_cross_entropy};
    use super::*;
    use crate::device::Device;

    fn logits(d: &Device, [n, c]: [usize; 2], salt: usize) -> Tensor {
        let values: Vec<f32> = (0..n * c).map(|i| ((i * 37 + salt * 11) % 29) as f32 / 5.0 - 2.5).collect();
        Tensor::from_slice(d, [n, c], &values).unwrap()
    }

    #[test]
    fn parts_and_total_have_the_twins_bits_and_gradients_differ_by_rounding() {
        for d in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            for [n, c] in [[1, 2], [37, 10], [300, 7]] {
                let (x, teacher) = (logits(&d, [n, c], 0), logits(&d, [n, c], 3));
                let labels: Vec<i32> = (0..n).map(|i| (i * 5 % c) as i32).collect();
                let labels = Tensor::from_slice(&d, [n], &labels).unwrap();
                let [w, v] = [0.7f32, 1.3];
                let mut tape = Tape::new(&d);
                let leaf = tape.leaf(x.clone());
                let hard = softmax_cross_entropy(&mut tape, &leaf, &Var::constant(labels.clone())).unwrap();
                let soft = kl_distill(&mut tape, &leaf, &teacher, 20.0, KlReduction::BatchMean).unwrap();
                let sum = weighted_sum(&mut tape, &[(w, &hard), (v, &soft)]).unwrap();
                let twin = tape.backward(&sum).unwrap().of(&leaf).unwrap().to_f64().unwrap();
                let mut tape = Tape::new(&d);
                let leaf = tape.leaf(x);
                let soft_term =
                    Soft { weight: v, teacher: &teacher, temperature: 20.0, reduction: KlReduction::BatchMean };
                let hard_term = Hard { weight: w, labels: &labels };
                let fused = logits_loss(&mut tape, &leaf, Some(hard_term), Some(soft_term)).unwrap();
                let bits = |t: &Tensor| t.to_vec::<f32>().unwrap()[0].to_bits();
                assert_eq!(bits(fused.hard.as_ref().unwrap()), bits(&hard.value), "{d:?} {n}x{c}");
                assert_eq!(bits(fused.soft.as_ref().unwrap()), bits(&soft.value), "{d:?} {n}x{c}");
                assert_eq!(bits(&fused.total.value), bits(&sum.value), "{d:?} {n}x{c}");
                let own = tape.backward(&fused.total).unwrap().of(&leaf).unwrap().to_f64().unwrap();
                let top = twin.iter().fold(0f64, |m, v| m.max(v.abs()));
                for (a, b) in own.iter().zip(&twin) {
                    assert!((a - b).abs() <= 4.0 * f64::from(f32::EPSILON) * top, "{d:?} {n}x{c}: {a} {b}");
                }
            }
        }
    }

    /// The tape's seed is known, so the total's gradient is there after the forward pass.
    #[test]
    fn one_launch_does_loss_and_gradient() {
        let Ok(d) = Device::emulator() else { return };
        let gpu = d.gpu().unwrap();
        let (x, teacher) = (logits(&d, [5, 10], 0), logits(&d, [5, 10], 1));
        let labels = Tensor::from_slice(&d, [5], &[0, 1, 2, 3, 4]).unwrap();
        let before = gpu.counters();
        let mut tape = Tape::new(&d);
        let x = tape.leaf(x);
        let soft = Soft { weight: 1.0, teacher: &teacher, temperature: 20.0, reduction: KlReduction::ElementMean };
        let loss = logits_loss(&mut tape, &x, Some(Hard { weight: 1.0, labels: &labels }), Some(soft)).unwrap();
        tape.backward(&loss.total).unwrap().of(&x).unwrap();
        let after = gpu.counters();
        assert_eq!((after.launches - before.launches, after.copies - before.copies), (1, 0));
    }

    #[test]
    fn wrong_inputs_are_errors() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let x = tape.leaf(Tensor::zeros(&d, [2, 3], DType::F32).unwrap());
        assert!(logits_loss(&mut tape, &x, None, None).is_err());
        let labels = Tensor::from_slice(&d, [2], &[0, 3]).unwrap();
        let e = logits_loss(&mut tape, &x, Some(Hard { weight: 1.0, labels: &labels }), None).err().unwrap();
        assert!(e.to_string().contains("label 3 of sample 1"), "{e}");
        let soft = |temperature, teacher| Soft { weight: 1.0, teacher, temperature, reduction: KlReduction::BatchMean };
        assert!(logits_loss(&mut tape, &x, None, Some(soft(0.0, &x.value))).is_err());
        let other = Tensor::zeros(&d, [2, 4], DType::F32).unwrap();
        assert!(logits_loss(&mut tape, &x, None, Some(soft(1.0, &other))).is_err());
    }
}
