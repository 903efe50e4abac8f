//! Distance of each sample's statistics from its class's centre, one layer's term of ClusterQ (Gao et al. 2022).
//!
//! `1/n sum_b (1/c |mean_b - m_y|^2 + 1/c |var_b - v_y|^2)` with centres `m_k`, `v_k`: moving averages of the statistics
//! of samples that the teacher puts in class `k`. Jitter on the centres keeps the samples of a class apart (diversity
//! enhancement). Samples of classes without a centre yet count 0. Gradients `2 (mean - m) / (n c)` and likewise.
//!
//! Reconstructed from the paper's intent: the released code fills the centres from constants, so that its terms hardly
//! act.

use super::case::{Case, Fill, Input};
use super::{random, row_loss};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::{Device, Launch};
use crate::tensor::{DType, Tensor};

const OP: &str = "cluster_loss";

/// Class centres of one layer.
#[derive(Clone, Debug)]
pub struct Centroids {
    /// `[classes, c]`.
    pub mean: Tensor,
    /// `[classes, c]`.
    pub var: Tensor,
    /// `[classes]`: 0 for classes that have no centre yet, else 1.
    pub seen: Tensor,
}

impl Centroids {
    /// No class seen yet; F32.
    pub fn new(device: &Device, classes: usize, c: usize) -> Result<Self> {
        let zeros = |shape: &[usize]| Tensor::zeros(device, shape, DType::F32);
        Ok(Self { mean: zeros(&[classes, c])?, var: zeros(&[classes, c])?, seen: zeros(&[classes])? })
    }

    /// Takes in statistics `mean[n, c]`, `var[n, c]` of samples with `labels`, in order: `m = (1 - rate) m + rate stat`
    /// for each sample that is `accepted` (see [`classified`]); a class's first sample becomes its centre. `rate` in
    /// `0..=1` (0.2 in ClusterQ's code). Host arithmetic, waits for the device; F32.
    pub fn update(&mut self, mean: &Tensor, var: &Tensor, labels: &[i32], accepted: &[bool], rate: f32) -> Result<()> {
        let [n, c] = row_loss::rows_of(OP, mean)?;
        row_loss::check_like(OP, "var", var, mean)?;
        let classes = self.seen.len();
        let fits = self.mean.len() == classes * c && labels.len() == n && accepted.len() == n;
        crate::ensure_op!(
            fits,
            OP,
            "{n} samples of {c} channels, {} labels, {} flags do not fit centres {}",
            labels.len(),
            accepted.len(),
            self.mean.shape()
        );
        crate::ensure_op!((0.0..=1.0).contains(&rate), OP, "the rate must be in 0..=1, got {rate}");
        let bad = labels.iter().find(|&&l| !(0..classes as i32).contains(&l));
        crate::ensure_op!(bad.is_none(), OP, "label {} is not in 0..{classes}", bad.copied().unwrap_or(0));
        let mut seen = self.seen.to_vec::<f32>()?;
        let before = seen.clone();
        for (centres, values) in [(&mut self.mean, mean), (&mut self.var, var)] {
            let mut all = centres.to_vec::<f32>()?;
            seen.copy_from_slice(&before);
            for (b, values) in values.to_vec::<f32>()?.chunks_exact(c).enumerate().filter(|(b, _)| accepted[*b]) {
                let class = labels[b] as usize;
                let rate = if seen[class] == 0.0 { 1.0 } else { rate };
                seen[class] = 1.0;
                for (m, v) in all[class * c..][..c].iter_mut().zip(values) {
                    *m = (1.0 - rate) * *m + rate * v;
                }
            }
            centres.write(&all)?;
        }
        self.seen.write(&seen)
    }
}

/// For each row of `logits[n, c]` whether its largest value (the first of equals) is at its label. Waits for the device.
pub fn classified(logits: &Tensor, labels: &[i32]) -> Result<Vec<bool>> {
    let [n, _] = row_loss::rows_of(OP, logits)?;
    crate::ensure_op!(labels.len() == n, OP, "{} labels for {n} rows", labels.len());
    Ok(super::accuracy::argmax(logits)?.iter().zip(labels).map(|(a, b)| a == b).collect())
}

/// Jitter for [`cluster_loss`]: uniform tensors like `mean`, in `-spread..spread` for the means and for the variances
/// (0.03 and 0.05 in ClusterQ's code), drawn afresh for every sample and channel. F32.
pub fn jitter(mean: &Tensor, spreads: [f32; 2], seed: u64, stream: u64) -> Result<[Tensor; 2]> {
    let draw = |spread: f32, seed: u64| match spread {
        0.0 => Tensor::zeros(&mean.device(), mean.shape(), DType::F32),
        _ => random::uniform_in(&mean.device(), mean.shape(), -spread, spread, seed, stream),
    };
    // Two keys, so that one stream serves both.
    Ok([draw(spreads[0], seed)?, draw(spreads[1], seed ^ 0x76_61_72)?])
}

/// Kernel parameters, mirrored in `kernels/cluster_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight: f64,
    c: i32,
    classes: i32,
}

/// The scalar loss `[1]` of `mean[n, c]`, `var[n, c]` with `labels[n]` (I32) against the centres, which are constant and
/// shifted by `jitter` (tensors like `mean`) if given. F32 (F64 on the CPU). Gradients to both statistics. A label
/// outside the classes is an error on the CPU and makes the loss NaN on a GPU.
pub fn cluster_loss(
    tape: &mut Tape,
    mean: &Var,
    var: &Var,
    labels: &Var,
    centres: &Centroids,
    jitter: Option<&[Tensor; 2]>,
) -> Result<Var> {
    let [n, c] = row_loss::rows_of(OP, &mean.value)?;
    let classes = centres.seen.len();
    row_loss::check_like(OP, "var", &var.value, &mean.value)?;
    row_loss::check_labels(OP, &labels.value, n, classes)?;
    for (name, t, length) in
        [("mean", &centres.mean, classes * c), ("var", &centres.var, classes * c), ("seen", &centres.seen, classes)]
    {
        let same = t.len() == length && t.dtype() == mean.dtype();
        crate::ensure_op!(same, OP, "the centres' {name} is {:?} {}, expected {length} values", t.dtype(), t.shape());
    }
    for t in jitter.into_iter().flatten() {
        row_loss::check_like(OP, "jitter", t, &mean.value)?;
    }
    let p = Params { weight: 1.0 / (n * c) as f64, c: c as i32, classes: classes as i32 };
    let inputs = [mean, var];
    let mut slopes = row_loss::slopes(tape, &inputs)?;
    let mut loss = Tensor::empty_like(&mean.value, [1])?;
    if let Some(gpu) = mean.value.gpu() {
        let row_losses = Tensor::empty(tape.device(), [n], DType::F64)?;
        Launch::new("cluster_loss_fwd_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(mean.value.address())
            .ptr(var.value.address())
            .ptr(labels.value.address())
            .ptr(centres.mean.address())
            .ptr(centres.var.address())
            .ptr(centres.seen.address())
            .ptr(jitter.map_or(0, |j| j[0].address()))
            .ptr(jitter.map_or(0, |j| j[1].address()))
            .ptr(row_losses.address())
            .ptr(row_loss::address(&slopes[0]))
            .ptr(row_loss::address(&slopes[1]))
            .val(p)
            .run(gpu)?;
        row_loss::sum_on_gpu(&row_losses, &loss)?;
    } else {
        crate::for_real!(OP, mean.dtype(), T => {
            use crate::tensor::Real;
            let labels = labels.value.host::<i32>();
            let seen = centres.seen.host::<T>();
            let pairs = [(&mean.value, &centres.mean), (&var.value, &centres.var)].map(|(v, m)| (v.host::<T>(), m.host::<T>()));
            let jitter = jitter.map(|j| [j[0].host::<T>(), j[1].host::<T>()]);
            let sum = row_loss::on_cpu::<T>(n, c, &mut slopes, |b, g| {
                let class = labels[b] as usize;
                if seen[class].f64() == 0.0 {
                    return 0.0;
                }
                let mut loss = 0.0;
                for (k, (values, centre)) in pairs.iter().enumerate() {
                    for i in 0..c {
                        let shift = jitter.map_or(0.0, |j| j[k][b * c + i].f64());
                        let d = values[b * c + i].f64() - centre[class * c + i].f64() - shift;
                        loss += p.weight * d * d;
                        g[k * c + i] = 2.0 * p.weight * d;
                    }
                }
                loss
            });
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &inputs, slopes, loss))
}

pub fn cases() -> Vec<Case> {
    // Inputs: mean, var, labels, centres' mean, var, seen, jitter of both.
    let case = |name: &str, [n, c, classes]: [usize; 3], seen: Vec<f64>, jittered: bool| {
        let positive = Fill::Uniform { low: 0.1, high: 2.0 };
        let inputs = vec![
            Input::grad([n, c]),
            Input::grad([n, c]).fill(positive.clone()),
            Input::labels(n, classes),
            Input::plain([classes, c]),
            Input::plain([classes, c]).fill(positive),
            Input::plain([classes]).fill(Fill::Values(seen)),
            Input::plain([n, c]).fill(Fill::Uniform { low: -0.03, high: 0.03 }),
            Input::plain([n, c]).fill(Fill::Uniform { low: -0.05, high: 0.05 }),
        ];
        let run = move |t: &mut Tape, v: &[Var]| {
            let [mean, var, seen] = [&v[3], &v[4], &v[5]].map(|v| v.value.clone());
            let jitter = [v[6].value.clone(), v[7].value.clone()];
            let centres = Centroids { mean, var, seen };
            Ok(vec![cluster_loss(t, &v[0], &v[1], &v[2], &centres, jittered.then_some(&jitter))?])
        };
        Case::new(format!("{name}_{n}x{c}_of_{classes}"), inputs, run)
    };
    let mut cases = Vec::new();
    for shape in [[1, 1, 1], [5, 3, 2], [7, 37, 11], [3, 131, 5]] {
        cases.push(case("plain", shape, vec![1.0; shape[2]], false));
        cases.push(case("jitter", shape, vec![1.0; shape[2]], true));
        let seen = (0..shape[2]).map(|k| (k % 2) as f64).collect();
        cases.push(case("unseen", shape, seen, true));
    }
    cases.push(case("jitter", [200, 64, 100], vec![1.0; 100], true).cost(1e5, 3e5).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn centres_move_only_with_accepted_samples() {
        let d = Device::cpu();
        let of = |v: &[f32]| Tensor::from_slice(&d, [3, 1], v).unwrap();
        let mut c = Centroids::new(&d, 3, 1).unwrap();
        let logits = Tensor::from_slice(&d, [3, 3], &[1f32, 0., 0., 2., 2., 0., 0., 1., 0.]).unwrap();
        let labels = [0, 0, 2];
        let accepted = classified(&logits, &labels).unwrap();
        assert_eq!(accepted, [true, true, false]);
        c.update(&of(&[1.0, 6.0, 9.0]), &of(&[2.0, 7.0, 9.0]), &labels, &accepted, 0.2).unwrap();
        assert_eq!(c.seen.to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0]);
        let mean = c.mean.to_vec::<f32>().unwrap();
        assert!((mean[0] - 2.0).abs() < 1e-6 && mean[2] == 0.0);
        assert!((c.var.to_vec::<f32>().unwrap()[0] - 3.0).abs() < 1e-6);
        assert!(c.update(&of(&[0.0; 3]), &of(&[0.0; 3]), &[0, 3, 0], &[true; 3], 0.2).is_err());
    }

    #[test]
    fn jitter_stays_within_its_spread_and_is_not_constant() {
        let mean = Tensor::zeros(&Device::cpu(), [50, 7], DType::F32).unwrap();
        let [a, b] = jitter(&mean, [0.03, 0.05], 1, 2).unwrap();
        for (t, spread) in [(&a, 0.03f64), (&b, 0.05)] {
            let v = t.to_f64().unwrap();
            let top = v.iter().fold(0f64, |m, v| m.max(v.abs()));
            assert!(top <= spread + 1e-9 && top > 0.8 * spread, "{top}");
            assert!(v.iter().any(|v| *v > 0.0) && v.iter().any(|v| *v < 0.0));
        }
        assert_ne!(a.to_f64().unwrap()[..5], b.to_f64().unwrap()[..5]);
    }
}
