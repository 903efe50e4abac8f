//! A student that integer biases serve. A runtime's integer convolution has a bias in units of the sums. At 8 bits there are so
//! many codes that some sum nearly always lies between an edge of the student's and the nearest edge that such a bias can
//! give. So the student itself moves: its shift by at most half a unit of a sum, to a multiple of it, and its scale by less than a
//! thousandth, to one at which every edge keeps away from all sums.
//!
//! With the shift a multiple, edges lie at `(m - 1/2) a` sums, `m` integer, `a` sums to a code. If `a` is an odd multiple of
//! `2^(1-t)`, they are odd multiples of `2^-t`: never nearer than that to an integer, however many codes there are. Ours.

use super::super::lower::lower;
use super::{Export, Form, behind};
use crate::Result;
use crate::data::Normalization;
use crate::graph::Network;
use crate::graph::deployed::LoweredLayer;
use crate::graph::nodes::NodeKind;
use crate::quant::Quantizer;

/// No scale moves by more than this part of itself: at first by what moves the uppermost of 256 codes by a thirtieth of a code.
const MOST: [f64; 2] = [1.0 / (30 * 256) as f64, 1e-3];
/// The smallest room between an edge and a sum, as a power of 2; below, f32 does not tell them apart.
const LEAST_ROOM: i32 = 12;

/// Moves the batch norm of `network` (quantized) where its integer layers, written with integer biases ([`Form::Int8`]), would
/// not give the codes that it gives itself; the number of channels that moved. Layers without batch norm of gamma and beta,
/// or with a residual stay, as does a network that cannot be lowered. Waits for the device.
///
/// Errors of the device only.
pub fn settle(network: &mut Network) -> Result<usize> {
    let mut moved = 0;
    for most in MOST {
        let now = moves(network, most);
        if now.is_empty() {
            break;
        }
        moved = moved.max(now.iter().map(|m| m.channels.len()).sum());
        for m in now {
            m.apply(network)?;
        }
    }
    Ok(moved)
}

/// New coefficients of one batch norm.
struct Move {
    gamma: String,
    beta: String,
    channels: Vec<Moved>,
}

struct Moved {
    channel: usize,
    /// What the scale is multiplied by.
    factor: f64,
    shift: f64,
}

impl Move {
    fn apply(&self, network: &Network) -> Result<()> {
        let (gamma, beta) = (network.params.get(&self.gamma)?, network.params.get(&self.beta)?);
        let (mut scales, mut shifts) = (gamma.to_vec::<f32>()?, beta.to_vec::<f32>()?);
        for m in &self.channels {
            scales[m.channel] = (f64::from(scales[m.channel]) * m.factor) as f32;
            shifts[m.channel] = m.shift as f32;
        }
        let (mut gamma, mut beta) = (gamma, beta);
        gamma.write(&scales)?;
        beta.write(&shifts)
    }
}

/// Where `network` has to move; empty also where it cannot be lowered.
fn moves(network: &Network, most: f64) -> Vec<Move> {
    let Ok(lowered) = lower(network, Normalization::CIFAR) else { return Vec::new() };
    let Ok(export) = Export::new(&lowered, Form::Int8) else { return Vec::new() };
    let (graph, fused) = (&lowered.graph, lowered.graph.fused());
    let mut all = Vec::new();
    for (id, unit) in export.units.iter().enumerate() {
        let head = &graph.nodes[unit.head].kind;
        let (Some(layer), NodeKind::Conv2d(_) | NodeKind::Conv2dDepthwise(_)) = (&unit.layer, head) else { continue };
        let mut norms = fused.behind(unit.head).iter().filter_map(|&n| graph.nodes[n].kind.batch_norm());
        let Some((gamma, beta)) = norms.find_map(|n| n.gamma.clone().zip(n.beta.clone())) else { continue };
        let (scale, shift) = behind(layer);
        let Some(stored) = export.stored(layer, Some(&scale)) else { continue };
        let Some((_, found)) = export.roundings(id, layer, &scale, &stored, &shift) else { continue };
        let (Some(x), Some(y)) = (export.values[unit.inputs[0]].codes, layer.then.quantizer) else { continue };
        let open = found.iter().enumerate().filter(|(_, f)| f.is_none());
        let channels: Vec<Moved> = open.filter_map(|(k, _)| cleared(layer, [&x, &y], k, most)).collect();
        if !channels.is_empty() {
            all.push(Move { gamma, beta, channels });
        }
    }
    all
}

/// Scale and shift of channel `k` at which every edge between codes keeps away from every sum, as far as a change of `most` of
/// the scale allows; `None` if it allows nothing.
fn cleared(layer: &LoweredLayer, [x, y]: [&Quantizer; 2], k: usize, most: f64) -> Option<Moved> {
    let ranges = layer.ranges(x);
    let unit = f64::from(ranges.unit(&ranges.w[k]));
    let norm = layer.then.norm.as_ref()?;
    let [mean, scale, shift] = [&norm.mean, &norm.scale, &norm.shift].map(|v| f64::from(v[k]));
    let mean = mean - layer.bias.as_ref().map_or(0.0, |b| f64::from(b[k]));
    // Sums to a code, and the sum whose value is 0.
    let per_code = 1.0 / (unit * scale.abs() * f64::from(y.scale));
    let zero = (mean - shift / scale) / unit;
    let factor = (1..=LEAST_ROOM).find_map(|t| {
        let step = f64::from(1 - t).exp2();
        let odd = 2.0 * ((per_code / step - 1.0) / 2.0).round() + 1.0;
        let factor = per_code / (odd * step);
        (odd > 0.0 && (factor - 1.0).abs() <= most).then_some(factor)
    })?;
    zero.is_finite().then(|| Moved { channel: k, factor, shift: (mean - zero.round() * unit) * scale * factor })
}
