//! Slack distribution alignment: statistics may stray from the stored ones by a margin before they cost.
//!
//! Per layer `red_c (max(|mean - tm| - delta, 0)^2 + max(|std - ts| - gamma, 0)^2)`, `std = sqrt(var + 1e-6)` on both
//! sides, `red` the mean or sum over channels (DSG, Zhang et al. 2021; Qin et al. 2023). The form per sample averages
//! this over samples with a weight each: layer-wise sample enhancement doubles one sample per layer. Without margins it
//! is the distance of means and deviations that ZeroQ and Genie minimise. Gradients `2 w hinge sign`, for the variance
//! times `1 / (2 std)`.
//!
//! [`SlackForm::Released`] is what the released training code computes instead: not a hinge, so the gap is pulled *to*
//! the margin, on variances, with one channel counted twice.

use super::case::{Case, Fill, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::{Device, Launch};
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "slack_stats_loss";
/// Under the root of a deviation, as in the released code; equal variances cost nothing.
const EPSILON: f64 = 1e-6;

/// How channels are combined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelReduction {
    /// Keeps the weight of a loss independent of the width (GDFQ's weights carry over).
    #[default]
    Mean,
    /// As in the released code of DSG.
    Sum,
}

/// Which formula.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlackForm {
    /// The paper's: hinge, deviations.
    #[default]
    Hinge,
    /// The released training code's: `(|d| - margin)^2` without hinge, variances; the squared gaps of channel `doubled`
    /// (there the layer's index, if the layer is that wide) count twice.
    Released { doubled: Option<usize> },
}

/// Margins and form of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SlackSpec {
    /// Margin of the means (`delta`), >= 0, in units of the mean.
    pub mean: f32,
    /// Margin of the deviations (`gamma`; of the variances in the released form), >= 0.
    pub spread: f32,
    pub reduction: ChannelReduction,
    pub form: SlackForm,
}

/// Kernel parameters, mirrored in `kernels/slack_stats_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight: f64,
    mean_margin: f64,
    spread_margin: f64,
    epsilon: f64,
    c: i32,
    released: i32,
    /// -1 for none.
    doubled: i32,
    unused: i32,
}

/// The scalar loss `[1]` of batch statistics `mean[c]`, `var[c]` (biased, >= 0) against constant `target_mean[c]`,
/// `target_var[c]`; F32 (F64 on the CPU). Gradients to both. Errors if lengths or dtypes differ or a margin is negative.
pub fn slack_stats_loss(
    tape: &mut Tape,
    mean: &Var,
    var: &Var,
    target_mean: &Tensor,
    target_var: &Tensor,
    spec: SlackSpec,
) -> Result<Var> {
    loss(tape, [mean, var], [target_mean, target_var], None, 1, spec)
}

/// The same of statistics per sample, `mean[n, c]`, `var[n, c]`: the mean over samples, sample `b` times `weights[b]` (1
/// without weights; see [`sample_weights`]).
pub fn slack_sample_stats_loss(
    tape: &mut Tape,
    mean: &Var,
    var: &Var,
    target_mean: &Tensor,
    target_var: &Tensor,
    weights: Option<&Tensor>,
    spec: SlackSpec,
) -> Result<Var> {
    let [n, _] = row_loss::rows_of(OP, &mean.value)?;
    loss(tape, [mean, var], [target_mean, target_var], weights, n, spec)
}

fn loss(
    tape: &mut Tape,
    inputs: [&Var; 2],
    targets: [&Tensor; 2],
    weights: Option<&Tensor>,
    n: usize,
    spec: SlackSpec,
) -> Result<Var> {
    let [mean, var] = inputs.map(|v| &v.value);
    crate::ensure_op!(!mean.is_empty(), OP, "the mean is empty");
    row_loss::check_like(OP, "var", var, mean)?;
    let c = mean.len() / n;
    let mut others = vec![("target mean", targets[0], c), ("target var", targets[1], c)];
    others.extend(weights.map(|w| ("weights", w, n)));
    for (name, t, length) in others {
        let (got, kind, dtype) = (t.len(), t.dtype(), mean.dtype());
        let same = got == length && kind == dtype;
        crate::ensure_op!(same, OP, "{name} has {got} values of {kind:?}, expected {length} of {dtype:?}");
    }
    let (delta, gamma) = (spec.mean, spec.spread);
    let fine = delta >= 0.0 && gamma >= 0.0;
    crate::ensure_op!(fine, OP, "margins must be >= 0, got {delta} and {gamma}");
    let (released, doubled) = match spec.form {
        SlackForm::Hinge => (0, None),
        SlackForm::Released { doubled } => (1, doubled.filter(|&d| d < c)),
    };
    let channels = if spec.reduction == ChannelReduction::Mean { c } else { 1 };
    let p = Params {
        weight: 1.0 / (n * channels) as f64,
        mean_margin: delta.into(),
        spread_margin: gamma.into(),
        epsilon: EPSILON,
        c: c as i32,
        released,
        doubled: doubled.map_or(-1, |d| d as i32),
        unused: 0,
    };
    let mut slopes = row_loss::slopes(tape, &inputs)?;
    let mut loss = Tensor::empty_like(mean, [1])?;
    if let Some(gpu) = mean.gpu() {
        let row_losses = Tensor::empty(tape.device(), [n], DType::F64)?;
        Launch::new("slack_stats_loss_fwd_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(mean.address())
            .ptr(var.address())
            .ptr(targets[0].address())
            .ptr(targets[1].address())
            .ptr(weights.map_or(0, Tensor::address))
            .ptr(row_losses.address())
            .ptr(row_loss::address(&slopes[0]))
            .ptr(row_loss::address(&slopes[1]))
            .val(p)
            .run(gpu)?;
        row_loss::sum_on_gpu(&row_losses, &loss)?;
    } else {
        crate::for_real!(OP, mean.dtype(), T => {
            let [m, v, tm, tv] = [mean, var, targets[0], targets[1]].map(|t| t.host::<T>());
            let weight = |b: usize| weights.map_or(1.0, |w| w.host::<T>()[b].f64());
            let sum = row_loss::on_cpu::<T>(n, c, &mut slopes, |b, g| {
                row([&m[b * c..][..c], &v[b * c..][..c], tm, tv], weight(b), p, g)
            });
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &inputs, slopes, loss))
}

fn row<T: Real>([mean, var, target_mean, target_var]: [&[T]; 4], weight: f64, p: Params, g: &mut [f64]) -> f64 {
    let released = p.released == 1;
    let beyond = |d: f64, margin: f64| {
        let gap = d.abs() - margin;
        if released || gap > 0.0 { gap } else { 0.0 }
    };
    let sign = |d: f64| if d == 0.0 { 0.0 } else { d.signum() };
    let c = mean.len();
    let mut loss = 0.0;
    for i in 0..c {
        let weight = weight * if i as i32 == p.doubled { 2.0 } else { 1.0 } * p.weight;
        let dm = mean[i].f64() - target_mean[i].f64();
        let a = beyond(dm, p.mean_margin);
        let (v, tv) = (var[i].f64(), target_var[i].f64());
        let s = (v + p.epsilon).sqrt();
        let ds = if released { v - tv } else { s - (tv + p.epsilon).sqrt() };
        let b = beyond(ds, p.spread_margin);
        loss += weight * (a * a + b * b);
        g[i] = 2.0 * weight * a * sign(dm);
        g[c + i] = 2.0 * weight * b * sign(ds) * if released { 1.0 } else { 0.5 / s };
    }
    loss
}

/// Layer-wise sample enhancement: weights `[n]` (F32), 2 for the samples `b` with `b mod layers = layer`, else 1 (the
/// matrix `I + 1 1^T` of DSG for `n = layers`). Errors unless `layer < layers`.
pub fn sample_weights(device: &Device, n: usize, layer: usize, layers: usize) -> Result<Tensor> {
    crate::ensure_op!(layer < layers, OP, "layer {layer} is not in 0..{layers}");
    let weights: Vec<f32> = (0..n).map(|b| if b % layers == layer { 2.0 } else { 1.0 }).collect();
    Tensor::from_slice(device, [n], &weights)
}

/// The `q`-percentile (`q` in `0..=1`) of `values` by linear interpolation: sorted, position `q (n - 1)`, between its two
/// neighbours in proportion. Errors without values, with a value that is not a number, or `q` outside.
pub fn percentile(values: &[f64], q: f64) -> Result<f64> {
    crate::ensure_op!(!values.is_empty() && (0.0..=1.0).contains(&q), OP, "percentile {q} of {} values", values.len());
    crate::ensure_op!(values.iter().all(|v| !v.is_nan()), OP, "percentile of values that are not numbers");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = q * (sorted.len() - 1) as f64;
    let (low, share) = (position.floor() as usize, position.fract());
    let high = (low + 1).min(sorted.len() - 1);
    Ok(sorted[low] + share * (sorted[high] - sorted[low]))
}

/// The margins `(delta, gamma)` of one layer: the `q`-percentiles (0.9 in DSG) of `|mean - target mean|` and
/// `|std - target std|`, where `mean`, `var` (`[c]`, or `[n, c]` per sample) are the statistics that a batch of Gaussian
/// images (mean 0, deviation 1) gives. Waits for the device. Errors if lengths do not fit.
pub fn slack_margins(
    mean: &Tensor,
    var: &Tensor,
    target_mean: &Tensor,
    target_var: &Tensor,
    q: f64,
) -> Result<(f32, f32)> {
    let c = target_mean.len();
    let fits = c > 0 && mean.len() % c == 0 && var.len() == mean.len() && target_var.len() == c;
    crate::ensure_op!(fits, OP, "statistics {} and {} do not fit {c} channels", mean.shape(), var.shape());
    let gaps = |a: &Tensor, b: &Tensor, f: fn(f64) -> f64| -> Result<Vec<f64>> {
        let b = b.to_f64()?;
        Ok(a.to_f64()?.iter().enumerate().map(|(i, a)| (f(*a) - f(b[i % c])).abs()).collect())
    };
    let delta = percentile(&gaps(mean, target_mean, |v| v)?, q)?;
    let gamma = percentile(&gaps(var, target_var, |v| (v + EPSILON).sqrt())?, q)?;
    Ok((delta as f32, gamma as f32))
}

pub fn cases() -> Vec<Case> {
    let positive = Fill::Uniform { low: 0.1, high: 2.0 };
    let inputs = |shape: &[usize]| {
        let c = *shape.last().expect("shapes have dimensions");
        let mut inputs = vec![
            Input::grad(shape),
            Input::grad(shape).fill(positive.clone()),
            Input::plain([c]),
            Input::plain([c]).fill(positive.clone()),
        ];
        if shape.len() == 2 {
            inputs.push(Input::plain([shape[0]]).fill(positive.clone()));
        }
        inputs
    };
    let spec = SlackSpec { mean: 0.5, spread: 0.25, ..SlackSpec::default() };
    let released =
        |doubled| SlackSpec { form: SlackForm::Released { doubled }, reduction: ChannelReduction::Sum, ..spec };
    let forms = [
        ("hinge", spec),
        ("sum", SlackSpec { reduction: ChannelReduction::Sum, ..spec }),
        ("no_margin", SlackSpec::default()),
        ("released", released(None)),
        ("released_doubled", released(Some(2))),
    ];
    let mut cases = Vec::new();
    for (name, spec) in forms {
        let batch =
            move |t: &mut Tape, v: &[Var]| Ok(vec![slack_stats_loss(t, &v[0], &v[1], &v[2].value, &v[3].value, spec)?]);
        let samples = move |t: &mut Tape, v: &[Var]| {
            let weights = Some(&v[4].value);
            Ok(vec![slack_sample_stats_loss(t, &v[0], &v[1], &v[2].value, &v[3].value, weights, spec)?])
        };
        for c in [1, 3, 17, 131] {
            cases.push(Case::new(format!("{name}_{c}"), inputs(&[c]), batch));
        }
        for shape in [[1, 1], [5, 3], [3, 37]] {
            cases.push(Case::new(format!("{name}_{}x{}", shape[0], shape[1]), inputs(&shape), samples));
        }
        if name == "hinge" {
            let case = Case::new("hinge_200x64", inputs(&[200, 64]), samples);
            cases.push(case.cost(2e5, 1e5).bench());
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_interpolate() {
        let v = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(percentile(&v, 0.0).unwrap(), 1.0);
        assert_eq!(percentile(&v, 1.0).unwrap(), 4.0);
        assert_eq!(percentile(&v, 0.5).unwrap(), 2.5);
        assert!((percentile(&v, 0.9).unwrap() - 3.7).abs() < 1e-12);
        assert_eq!(percentile(&[7.0], 0.3).unwrap(), 7.0);
        assert!(percentile(&[], 0.5).is_err() && percentile(&v, 1.5).is_err() && percentile(&[f64::NAN], 0.5).is_err());
    }

    #[test]
    fn within_the_margins_nothing_costs() {
        let d = Device::cpu();
        let mut tape = Tape::inference(&d);
        let of = |v: &[f32]| Tensor::from_slice(&d, [v.len()], v).unwrap();
        let (mean, var) = (of(&[0.4, -0.2, 2.0]), of(&[1.0, 1.0, 4.0]));
        let (tm, tv) = (of(&[0.0; 3]), of(&[1.0; 3]));
        let (delta, gamma) = slack_margins(&mean, &var, &tm, &tv, 1.0).unwrap();
        assert!((delta - 2.0).abs() < 1e-6 && (gamma - 1.0).abs() < 1e-5);
        let spec = SlackSpec { mean: delta, spread: gamma, ..SlackSpec::default() };
        let (m, v) = (Var::constant(mean), Var::constant(var));
        assert!(slack_stats_loss(&mut tape, &m, &v, &tm, &tv, spec).unwrap().value.item().unwrap() < 1e-9);
        let spec = SlackSpec { mean: 1.0, spread: 0.5, reduction: ChannelReduction::Sum, ..spec };
        let loss = slack_stats_loss(&mut tape, &m, &v, &tm, &tv, spec).unwrap().value.item().unwrap();
        assert!((loss - 1.25).abs() < 1e-4, "{loss}");
        // Below the margin the released form pulls up.
        let spec = SlackSpec { form: SlackForm::Released { doubled: None }, ..spec };
        assert!(slack_stats_loss(&mut tape, &m, &v, &tm, &tv, spec).unwrap().value.item().unwrap() > 1.25);
    }

    #[test]
    fn one_sample_per_layer_counts_twice() {
        let w = sample_weights(&Device::cpu(), 5, 1, 3).unwrap();
        assert_eq!(w.to_vec::<f32>().unwrap(), [1.0, 2.0, 1.0, 1.0, 2.0]);
        assert!(sample_weights(&Device::cpu(), 5, 3, 3).is_err());
    }
}
