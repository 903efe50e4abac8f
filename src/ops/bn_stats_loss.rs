//! Distance of batch statistics from stored ones, mean over layers:
//! `(1/L) sum_l [sum((mean_l - tm_l)^2) / c_l + sum((var_l - tv_l)^2) / c_l]`.
//!
//! The batch normalization statistics loss (GDFQ, Xu et al. 2020, eq. 4, with mean squared error). Gradients
//! `2 (mean - tm) / (L c)` and `2 (var - tv) / (L c)`.

use super::case::{Case, Fill, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};

const OP: &str = "bn_stats_loss";
/// Layers of a launch, mirrored in `kernels/bn_stats_loss.cu`.
const LAYERS: usize = 32;
const THREADS: usize = 128;

/// Mean and variance of one layer, and what they should be: `[c]` each.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    pub stats: [&'a Var; 2],
    pub targets: [&'a Tensor; 2],
}

/// The scalar loss `[1]` of all layers' statistics against constant targets, of one dtype: F32 (F64 on the CPU). On a GPU one
/// launch per 32 layers. Errors if there is no layer, if lengths or dtypes of a layer differ, or if it is empty.
pub fn bn_stats_loss(tape: &mut Tape, layers: &[Pair]) -> Result<Var> {
    crate::ensure_op!(!layers.is_empty(), OP, "there is no layer");
    let mean = &layers[0].stats[0].value;
    for (l, layer) in layers.iter().enumerate() {
        let c = layer.stats[0].value.len();
        crate::ensure_op!(c > 0, OP, "the mean of layer {l} is empty");
        let [_, var] = layer.stats;
        for (name, t) in [("var", &var.value), ("target mean", layer.targets[0]), ("target var", layer.targets[1])] {
            crate::ensure_op!(
                t.len() == c && t.dtype() == mean.dtype() && t.device() == mean.device(),
                OP,
                "layer {l}: {name} is {t:?}, the mean {:?}",
                layer.stats[0].value
            );
        }
    }
    let mut loss = Tensor::empty_like(mean, [1])?;
    let kept: Vec<Kept> = layers
        .iter()
        .map(|p| Kept { values: p.stats.map(|v| v.value.clone()), targets: p.targets.map(Tensor::clone) })
        .collect();
    if let Some(gpu) = mean.gpu() {
        for (i, part) in kept.chunks(LAYERS).enumerate() {
            Launch::new("bn_stats_loss_fwd_f32")
                .block([256, 1, 1])
                .val(table(part, |_| [0; 2]))
                .ptr(loss.address())
                .val(part.len() as i32)
                .val(1.0 / kept.len() as f32)
                .val(i32::from(i > 0))
                .run(gpu)?;
        }
    } else {
        crate::for_real!(OP, mean.dtype(), T => {
            let squares = |a: &Tensor, b: &Tensor| -> f64 {
                a.host::<T>().iter().zip(b.host::<T>()).map(|(a, b)| (a.f64() - b.f64()).powi(2)).sum()
            };
            let of = |l: &Kept| {
                let both: f64 = l.values.iter().zip(&l.targets).map(|(v, t)| squares(v, t)).sum();
                both / l.values[0].len() as f64
            };
            loss.host_mut::<T>()[0] = T::of(kept.iter().map(of).sum::<f64>() / kept.len() as f64);
            Ok(())
        })?;
    }
    let inputs: Vec<&Var> = layers.iter().flat_map(|p| p.stats).collect();
    Ok(tape.record_one(BnStatsLossOp { layers: kept }, &inputs, loss))
}

/// Values and targets of one layer: mean, variance.
struct Kept {
    values: [Tensor; 2],
    targets: [Tensor; 2],
}

/// Mirrors `Layer` in `kernels/bn_stats_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Row {
    values: [u64; 2],
    targets: [u64; 2],
    gradients: [u64; 2],
    c: i32,
    unused: i32,
}

/// `gradients` are the addresses by layer; null where none is wanted.
fn table(layers: &[Kept], gradients: impl Fn(usize) -> [u64; 2]) -> [Row; LAYERS] {
    let mut rows: [Row; LAYERS] = [bytemuck::Zeroable::zeroed(); LAYERS];
    for (l, (row, layer)) in rows.iter_mut().zip(layers).enumerate() {
        let addresses = |t: &[Tensor; 2]| [t[0].address(), t[1].address()];
        *row = Row {
            values: addresses(&layer.values),
            targets: addresses(&layer.targets),
            gradients: gradients(l),
            c: layer.values[0].len() as i32,
            unused: 0,
        };
    }
    rows
}

struct BnStatsLossOp {
    layers: Vec<Kept>,
}

impl Op for BnStatsLossOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn takes_scale(&self) -> bool {
        true
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dloss) = cx.scale() else { return Ok(()) };
        let like = &self.layers[0].values[0];
        let mut made: Vec<[Option<Tensor>; 2]> = Vec::with_capacity(self.layers.len());
        for (l, layer) in self.layers.iter().enumerate() {
            let one = |i: usize| {
                cx.needs(2 * l + i).then(|| Tensor::empty_like(&layer.values[i], layer.values[i].shape())).transpose()
            };
            made.push([one(0)?, one(1)?]);
        }
        if let Some(gpu) = like.gpu() {
            let (stored, known) = dloss.on_device();
            let address = |t: &Option<Tensor>| t.as_ref().map_or(0, Tensor::address);
            for (part, made) in self.layers.chunks(LAYERS).zip(made.chunks(LAYERS)) {
                let longest = part.iter().map(|l| l.values[0].len()).max().unwrap_or(1);
                Launch::new("bn_stats_loss_bwd_f32")
                    .grid([longest.div_ceil(THREADS) as u32, part.len() as u32, 1])
                    .block([THREADS as u32, 1, 1])
                    .val(table(part, |l| [address(&made[l][0]), address(&made[l][1])]))
                    .ptr(stored)
                    .val(known)
                    .val(1.0 / self.layers.len() as f32)
                    .run(gpu)?;
            }
        } else {
            crate::for_real!(OP, like.dtype(), T => {
                for (layer, made) in self.layers.iter().zip(&mut made) {
                    let share = 2.0 / (layer.values[0].len() as f64 * self.layers.len() as f64);
                    let scale = dloss.on_host::<T>() * T::of(share);
                    for (i, d) in made.iter_mut().enumerate().filter_map(|(i, d)| Some((i, d.as_mut()?))) {
                        let values = layer.values[i].host::<T>().iter().zip(layer.targets[i].host::<T>());
                        d.host_mut::<T>().iter_mut().zip(values).for_each(|(d, (v, t))| *d = scale * (*v - *t));
                    }
                }
                Ok(())
            })?;
        }
        for (i, d) in made.into_iter().flatten().enumerate() {
            if let Some(d) = d {
                cx.give(i, d)?;
            }
        }
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    let positive = Fill::Uniform { low: 0.1, high: 2.0 };
    // `copies` of a layer of `c` channels, and one that has mean and variance in each other's place.
    let case = |c: usize, copies: usize| {
        let run = move |t: &mut Tape, v: &[Var]| {
            let (a, b) = ([&v[0], &v[1]], [&v[2].value, &v[3].value]);
            let mut layers = vec![Pair { stats: a, targets: b }; copies];
            layers.push(Pair { stats: [a[1], a[0]], targets: b });
            Ok(vec![bn_stats_loss(t, &layers)?])
        };
        let inputs = vec![
            Input::grad([c]),
            Input::grad([c]).fill(positive.clone()),
            Input::plain([c]),
            Input::plain([c]).fill(positive.clone()),
        ];
        let all = (copies + 1) as f64 * c as f64;
        Case::new(format!("c{c}x{}", copies + 1), inputs, run).reduction(c).cost(6.0 * all, 16.0 * all)
    };
    let mut cases: Vec<Case> = [1, 3, 17, 64, 521].into_iter().map(|c| case(c, 1)).collect();
    cases.push(case(7, LAYERS + 2));
    cases.push(case(64, 18).bench());
    cases
}
