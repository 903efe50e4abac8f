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
/// Layers of a launch, mirrored there.
const LAYERS: usize = 32;
const THREADS: usize = 128;

/// What comes out of one layer.
pub struct Behind<'a> {
    /// Mean and biased variance of its output, `[k]` each.
    pub stats: [&'a Var; 2],
    pub norm: TuneNorm<'a>,
}

/// `(mean, var)` `[k]` of each normalization's input, from those of its output: all layers of a network at once, which on a GPU
/// are one launch per 32. F32 (F64 on the CPU). Gradients to the statistics; gamma and beta count as constants. Errors unless
/// what belongs to a layer has one length and all one dtype.
pub fn tune_stats(tape: &mut Tape, layers: &[Behind]) -> Result<Vec<(Var, Var)>> {
    let Some(first) = layers.first() else { return Ok(Vec::new()) };
    let device = first.stats[0].value.device();
    let (mut kept, mut outputs) = (Vec::with_capacity(layers.len()), Vec::with_capacity(2 * layers.len()));
    for Behind { stats: [m, v], norm } in layers {
        let k = m.value.len();
        let gamma = norm.gamma.map(|g| g.value.clone());
        let beta = norm.beta.map(|b| b.value.clone());
        let all = [Some(&m.value), Some(&v.value), Some(norm.mean), Some(norm.var), gamma.as_ref(), beta.as_ref()];
        for t in all.into_iter().flatten() {
            let same = t.len() == k && t.dtype() == first.stats[0].dtype() && t.device() == device;
            crate::ensure_op!(k > 0 && same, OP, "{t:?} does not fit statistics {:?}", m.value);
        }
        outputs.push(Tensor::empty_like(&m.value, [k])?);
        outputs.push(Tensor::empty_like(&m.value, [k])?);
        kept.push(Layer { gamma, beta, mean: norm.mean.clone(), var: norm.var.clone(), eps: norm.eps });
    }
    if let Some(gpu) = first.stats[0].value.gpu() {
        let rows = layers.iter().zip(&kept).zip(outputs.chunks(2));
        let rows: Vec<Row> =
            rows.map(|((l, kept), out)| kept.row(l.stats.map(|v| v.value.address()), [&out[0], &out[1]])).collect();
        for rows in rows.chunks(LAYERS) {
            launch("tune_stats_fwd_f32", rows).run(gpu)?;
        }
    } else {
        crate::for_real!(OP, first.stats[0].dtype(), T => {
            for ((l, kept), out) in layers.iter().zip(&kept).zip(outputs.chunks_mut(2)) {
                let [m, v] = l.stats.map(|v| v.value.host::<T>());
                let (mu, spread) = (kept.mean.host::<T>(), kept.var.host::<T>());
                let [mean, var] = out else { unreachable!("two for each layer") };
                let (mean, var) = (mean.host_mut::<T>(), var.host_mut::<T>());
                for (i, s) in kept.scales::<T>().into_iter().enumerate() {
                    let shift = kept.beta.as_ref().map_or(T::of(0.0), |b| b.host::<T>()[i]);
                    let dead = s.abs() < T::of(DEAD);
                    mean[i] = if dead { mu[i] } else { mu[i] + (m[i] - shift) / s };
                    var[i] = if dead { spread[i] } else { v[i] / (s * s) };
                }
            }
            Ok(())
        })?;
    }
    let inputs: Vec<&Var> = layers.iter().flat_map(|l| l.stats).collect();
    let outputs = tape.record(TuneStatsOp { layers: kept }, &inputs, outputs);
    let mut outputs = outputs.into_iter();
    Ok(layers.iter().filter_map(|_| outputs.next().zip(outputs.next())).collect())
}

/// A layer's constants.
struct Layer {
    gamma: Option<Tensor>,
    beta: Option<Tensor>,
    mean: Tensor,
    var: Tensor,
    eps: f32,
}

/// Mirrors `Layer` in `kernels/tune_stats.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Row {
    gamma: u64,
    beta: u64,
    mean: u64,
    var: u64,
    from: [u64; 2],
    to: [u64; 2],
    k: i32,
    eps: f32,
}

fn launch(kernel: &'static str, rows: &[Row]) -> Launch {
    let mut table = [bytemuck::Zeroable::zeroed(); LAYERS];
    table[..rows.len()].copy_from_slice(rows);
    let longest = rows.iter().map(|r| r.k as usize).max().unwrap_or(1);
    let grid = [longest.div_ceil(THREADS) as u32, rows.len() as u32, 1];
    Launch::new(kernel).grid(grid).block([THREADS as u32, 1, 1]).val::<[Row; LAYERS]>(table)
}

impl Layer {
    /// `from` may be null.
    fn row(&self, from: [u64; 2], to: [&Tensor; 2]) -> Row {
        let address = |t: &Option<Tensor>| t.as_ref().map_or(0, Tensor::address);
        Row {
            gamma: address(&self.gamma),
            beta: address(&self.beta),
            mean: self.mean.address(),
            var: self.var.address(),
            from,
            to: to.map(Tensor::address),
            k: self.var.len() as i32,
            eps: self.eps,
        }
    }

    /// `s` of every channel, on the CPU.
    fn scales<T: Real>(&self) -> Vec<T> {
        let one = |(i, v): (usize, &T)| {
            let gamma = self.gamma.as_ref().map_or(T::one(), |g| g.host::<T>()[i]);
            gamma / (*v + T::of(f64::from(self.eps))).sqrt()
        };
        self.var.host::<T>().iter().enumerate().map(one).collect()
    }
}

struct TuneStatsOp {
    layers: Vec<Layer>,
}

impl Op for TuneStatsOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let mut back = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let k = layer.var.len();
            let empty = || Tensor::empty_like(&layer.var, [k]);
            back.push(([cx.grad(2 * i), cx.grad(2 * i + 1)], [empty()?, empty()?]));
        }
        let var = &self.layers[0].var;
        if let Some(gpu) = var.gpu() {
            let address = |t: &Option<Tensor>| t.as_ref().map_or(0, Tensor::address);
            let rows = self.layers.iter().zip(&back);
            let rows: Vec<Row> =
                rows.map(|(l, ([m, v], [dm, dv]))| l.row([address(m), address(v)], [dm, dv])).collect();
            for rows in rows.chunks(LAYERS) {
                launch("tune_stats_bwd_f32", rows).run(gpu)?;
            }
        } else {
            crate::for_real!(OP, var.dtype(), T => {
                for (layer, ([dz_mean, dz_var], [dy_mean, dy_var])) in self.layers.iter().zip(&mut back) {
                    let flow = |t: &Option<Tensor>, i: usize| t.as_ref().map_or(T::of(0.0), |t| t.host::<T>()[i]);
                    let (dy_mean, dy_var) = (dy_mean.host_mut::<T>(), dy_var.host_mut::<T>());
                    for (i, s) in layer.scales::<T>().into_iter().enumerate() {
                        let dead = s.abs() < T::of(DEAD);
                        dy_mean[i] = if dead { T::of(0.0) } else { flow(dz_mean, i) / s };
                        dy_var[i] = if dead { T::of(0.0) } else { flow(dz_var, i) / (s * s) };
                    }
                }
                Ok(())
            })?;
        }
        for (i, (_, [dy_mean, dy_var])) in back.into_iter().enumerate() {
            cx.give(2 * i, dy_mean)?;
            cx.give(2 * i + 1, dy_var)?;
        }
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for k in [1usize, 3, 16, 131] {
        for affine in [true, false] {
            let positive = || Input::plain([k]).fill(Fill::Uniform { low: 0.3, high: 2.0 });
            let of = || Input::grad([k]);
            let inputs = vec![of(), of(), of(), of(), Input::plain([k]), positive(), positive(), Input::plain([k])];
            // Two layers, so that both rows of a launch are seen.
            let run = move |t: &mut Tape, v: &[Var]| {
                let (gamma, beta) = if affine { (Some(&v[6]), Some(&v[7])) } else { (None, None) };
                let norm = TuneNorm { gamma, beta, mean: &v[4].value, var: &v[5].value, eps: 1e-5, scaled: None };
                let plain = TuneNorm { gamma: None, beta: None, ..norm };
                let layers = [Behind { stats: [&v[0], &v[1]], norm }, Behind { stats: [&v[2], &v[3]], norm: plain }];
                let outputs = tune_stats(t, &layers)?;
                Ok(outputs.into_iter().flat_map(|(mean, var)| [mean, var]).collect())
            };
            let label = if affine { "affine" } else { "plain" };
            cases.push(Case::new(format!("{label}_{k}"), inputs, run));
        }
    }
    let many = |t: &mut Tape, v: &[Var]| {
        let norm = TuneNorm { gamma: None, beta: None, mean: &v[2].value, var: &v[3].value, eps: 1e-5, scaled: None };
        let layers: Vec<Behind> = (0..LAYERS + 3).map(|_| Behind { stats: [&v[0], &v[1]], norm }).collect();
        Ok(tune_stats(t, &layers)?.into_iter().flat_map(|(mean, var)| [mean, var]).collect())
    };
    let inputs = vec![Input::grad([5]), Input::grad([5]), Input::plain([5]), Input::plain([5]).fill(Fill::Uniform { low: 0.3, high: 2.0 })];
    cases.push(Case::new("many_layers", inputs, many));
    cases
}
