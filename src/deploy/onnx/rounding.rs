//! Biases that a runtime may round. QLinearConv adds an integer bias to the sums, multiplies by an f32 and rounds to codes. What
//! counts is only at which sum each code begins, and sums are integers: where there is room between two of them, an integer
//! bias and a multiplier exist that give the engine's codes for every sum that can occur. [`exact`] finds them, per channel.
//!
//! Where a runtime computes in f32, a sum that lies at the edge between two codes may fall to either side. [`centred`] moves each
//! channel's shift to the middle of the room that all sums, and all values of a residual that are codes, leave it.

use super::{Export, Form, Stored};
use crate::graph::deployed::LoweredLayer;
use crate::graph::nodes::NodeKind;
use crate::ops::conv2d_int::Ranges;
use crate::ops::conv2d_int::epilogue::{Epilogue, Residual};
use crate::quant::{Affine, Quantizer};

/// Biases that are tried on each side of the nearest one.
const TRIED: i64 = 24;
/// By how many roundings of the largest value on its way a runtime's f32 sum may be off.
const ROUNDINGS: f64 = 4.0;

impl Export<'_> {
    /// The shifts of a layer from codes to codes, [`centred`]; `None` where there is no room for f32 to round.
    pub(super) fn centred(&self, id: usize, layer: &LoweredLayer, [scale, shift]: [&[f32]; 2]) -> Option<Vec<f32>> {
        let ([x, y], rests) = self.rests(id, layer)?;
        centred(layer, [&x, &y], &rests, [scale, shift])
    }

    /// Quantizers of a layer that goes from codes to codes in f32, and the values that its residual may have (0 without one);
    /// `None` where they are not few.
    fn rests(&self, id: usize, layer: &LoweredLayer) -> Option<([Quantizer; 2], Vec<f32>)> {
        let inputs = &self.units[id].inputs;
        let quantizers = [self.values[inputs[0]].codes?, layer.then.quantizer?];
        let values = |q: &Quantizer| -> Vec<f32> {
            let half = 1 << (q.bits - 1);
            (-half..half).map(|code| q.affine().value(code as f32)).collect()
        };
        let rests = match layer.then.residual {
            false => vec![0.0],
            true => {
                match (&self.head(inputs[1]).kind, self.values[inputs[1]].codes) {
                    (_, Some(q)) => values(&q),
                    // New channels are 0.
                    (NodeKind::ShortcutA(_), _) => {
                        let from = self.units[inputs[1]].inputs[0];
                        [values(&self.values[from].codes?), vec![0.0]].concat()
                    }
                    _ => return None,
                }
            }
        };
        // 5 bits beside 5 bits; there is no room beyond.
        (rests.len() << quantizers[1].bits <= 1 << 11).then_some((quantizers, rests))
    }

    /// Where a layer goes from codes to codes, one integer operation for runtimes: steps and biases with which it rounds as the
    /// engine does. Whether there are such for all channels; `None` if the layer is not one integer operation.
    pub(super) fn round_as_the_engine(
        &self,
        id: usize,
        layer: &LoweredLayer,
        scale: &[f32],
        stored: &mut Stored,
        shift: &mut [f32],
    ) -> Option<bool> {
        let ([x_step, _], found) = self.roundings(id, layer, scale, stored, shift)?;
        let all = found.iter().all(Option::is_some);
        for (k, found) in found.into_iter().enumerate() {
            if let Some((bias, step)) = found {
                stored.step[k] = step;
                shift[k] = (bias as f64 * f64::from(x_step) * f64::from(step)) as f32;
            }
        }
        Some(all)
    }

    /// Steps of a layer's input and output, and bias and step of each channel if there are such ([`exact`]); `None` if the layer
    /// is not one integer operation from codes to codes.
    #[allow(clippy::type_complexity)]
    pub(super) fn roundings(
        &self,
        id: usize,
        layer: &LoweredLayer,
        scale: &[f32],
        stored: &Stored,
        shift: &[f32],
    ) -> Option<([f32; 2], Vec<Option<(i64, f32)>>)> {
        let input = self.values[self.units[id].inputs[0]].codes;
        let (Some(x), Some(y), false) = (input, layer.then.quantizer, layer.then.residual) else { return None };
        let x_finer = self.finer(&x);
        let steps = [1.0 / x.scale / x_finer as f32, 1.0 / y.scale];
        let channels: Vec<Channel> = (0..scale.len())
            .map(|k| Channel {
                fine: i64::from(stored.finer * x_finer),
                turned: scale[k] < 0.0,
                step: stored.step[k],
                shift: shift[k],
            })
            .collect();
        Some((steps, exact(layer, [&x, &y], steps, &channels)))
    }

    /// By how much the codes that a layer reads are finer than the quantizer's.
    pub(super) fn finer(&self, q: &Quantizer) -> i32 {
        let (half, zero) = (1 << (q.bits - 1), (1 << (q.bits - 1)) - q.zero);
        if self.form == Form::Int8 && zero < 2 * half { 255 / (2 * half - 1) } else { 1 }
    }
}

/// What the runtime computes for one output channel: `code = round(f32(fine * sum + bias) * (x_step * step / y_step))`, where
/// `sum` is the engine's (turned over where `turned`).
#[derive(Clone, Copy, Debug)]
struct Channel {
    /// Units of the runtime's sum in one of the engine's.
    fine: i64,
    /// Whether the stored codes have the other sign.
    turned: bool,
    /// Of the weight, as it follows from the values.
    step: f32,
    /// The bias as a real number.
    shift: f32,
}

/// Bias (in units of the runtime's sum) and step of each channel of `layer`, which reads codes of `x` and gives codes of `y`
/// without a residual; `x_step` and `y_step` are what the file says. `None` where no pair gives the engine's codes, which is the
/// rule at 8 bits: more codes than a bias and a step can please, unless the network was made for it ([`super::settle`]).
fn exact(
    layer: &LoweredLayer,
    [x, y]: [&Quantizer; 2],
    [x_step, y_step]: [f32; 2],
    channels: &[Channel],
) -> Vec<Option<(i64, f32)>> {
    let engine = Rounding::new(layer, x, y);
    let turned: Vec<bool> = channels.iter().map(|c| c.turned).collect();
    let begin = engine.begins(&turned, 0.0);
    let half = 1i64 << (y.bits - 1);
    let solve = |(k, channel): (usize, &Channel)| {
        let reach = engine.reach[k];
        // A code begins where the product reaches this.
        let edge = |level: usize| (level as i64 + 1 - half + i64::from(y.zero)) as f64 - 0.5;
        let multiplier = |step: f32| x_step * step / y_step;
        let near = (f64::from(channel.shift) / (f64::from(x_step) * f64::from(channel.step))).round() as i64;
        let mut best: Option<(f64, i64, f32)> = None;
        for bias in near - TRIED..=near + TRIED {
            // Bounds of the multiplier.
            let (mut low, mut high) = (0.0f64, f64::INFINITY);
            let mut bound = |sum: i64, at_least: bool, edge: f64| {
                let v = (channel.fine * sum + bias) as f64;
                match (v > 0.0, v < 0.0) {
                    (true, _) if at_least => low = low.max(edge / v),
                    (true, _) => high = high.min(edge / v),
                    (_, true) if at_least => high = high.min(edge / v),
                    (_, true) => low = low.max(edge / v),
                    _ if at_least == (edge < 0.0) => {}
                    _ => high = -1.0,
                }
            };
            for (level, begins) in begin.iter().enumerate() {
                if begins[k] <= reach {
                    bound(begins[k], true, edge(level));
                }
                if begins[k] > -reach {
                    bound(begins[k] - 1, false, edge(level));
                }
            }
            let middle =
                if high.is_finite() { 0.5 * (low + high) } else { f64::from(multiplier(channel.step)).max(low) };
            let room = (high - low) / middle;
            let step = (middle * f64::from(y_step) / f64::from(x_step)) as f32;
            if low < high && step.is_normal() && best.is_none_or(|(most, ..)| room > most) {
                best = Some((room, bias, step));
            }
        }
        let (_, bias, step) = best?;
        // In the runtime's own arithmetic.
        let product = |sum: i64| ((channel.fine * sum + bias) as f32 * multiplier(step)).round_ties_even();
        let holds = begin.iter().enumerate().all(|(level, begins)| {
            let edge = edge(level);
            (begins[k] > reach || f64::from(product(begins[k])) > edge)
                && (begins[k] <= -reach || f64::from(product(begins[k] - 1)) < edge)
        });
        holds.then_some((bias, step))
    };
    channels.iter().enumerate().map(solve).collect()
}

/// The shifts of `layer` (codes of `x` to codes of `y`, values `unit sum scale + shift + rest`, `rest` one of `rests`; a single 0
/// without a residual), each in the middle of the room in which all codes are the engine's; `None` if that of any channel is
/// smaller than what a runtime's f32 sums may be off by.
fn centred(
    layer: &LoweredLayer,
    [x, y]: [&Quantizer; 2],
    rests: &[f32],
    [scale, shift]: [&[f32]; 2],
) -> Option<Vec<f32>> {
    let engine = Rounding::new(layer, x, y);
    let half = 1i64 << (y.bits - 1);
    let per_sum: Vec<f64> =
        engine.ranges.w.iter().zip(scale).map(|(w, s)| f64::from(engine.ranges.unit(w)) * f64::from(*s)).collect();
    let turned: Vec<bool> = per_sum.iter().map(|u| *u < 0.0).collect();
    let mut room = vec![(f64::NEG_INFINITY, f64::INFINITY); shift.len()];
    // The largest value that a sum may have at an edge, or its parts on the way there if they grow as a random walk.
    let row = (layer.weight.codes.len() / shift.len()) as f64;
    let mut largest: Vec<f64> =
        per_sum.iter().zip(&engine.reach).map(|(u, reach)| u.abs() * *reach as f64 / row.sqrt()).collect();
    for rest in rests {
        for (level, begins) in engine.begins(&turned, *rest).iter().enumerate() {
            let edge =
                ((level as i64 + 1 - half + i64::from(y.zero)) as f64 - 0.5) / f64::from(y.scale) - f64::from(*rest);
            for (k, (low, high)) in room.iter_mut().enumerate() {
                let (u, reach) = (per_sum[k].abs(), engine.reach[k]);
                if (-reach..=reach).contains(&begins[k]) {
                    largest[k] = largest[k].max(edge.abs() + f64::from(rest.abs()));
                }
                if begins[k] <= reach {
                    *low = low.max(edge - u * begins[k] as f64);
                }
                if begins[k] > -reach {
                    *high = high.min(edge - u * (begins[k] - 1) as f64);
                }
            }
        }
    }
    let middle = |(((low, high), largest), shift): (((f64, f64), f64), &f32)| {
        let shift = f64::from(*shift);
        let off = ROUNDINGS * f64::from(f32::EPSILON) * (largest + shift.abs());
        let middle = match (low.is_finite(), high.is_finite()) {
            (true, true) => 0.5 * (low + high),
            (true, false) => shift.max(low + off),
            (false, true) => shift.min(high - off),
            (false, false) => shift,
        };
        (low + off <= middle && middle <= high - off).then_some(middle as f32)
    };
    room.into_iter().zip(largest).zip(shift).map(middle).collect()
}

/// The engine's codes of sums.
struct Rounding {
    ranges: Ranges<f32>,
    epilogue: Epilogue,
    to: Affine<f32>,
    residual: bool,
    /// No sum of a channel is larger, either way.
    reach: Vec<i64>,
}

impl Rounding {
    fn new(layer: &LoweredLayer, x: &Quantizer, y: &Quantizer) -> Self {
        let ranges = layer.ranges(x);
        let norm = layer.then.norm.as_ref().map(|n| [&n.mean[..], &n.scale[..], &n.shift[..]]);
        let epilogue = Epilogue::new(layer.bias.as_deref(), norm, layer.then.relu, 1);
        let a = x.affine();
        let input = [a.low, a.high].map(|q| (q as i64 + ranges.x_zero).abs());
        let w = &layer.weight;
        let rows = w.codes.chunks(w.codes.len() / w.scale.len()).zip(&ranges.w_zero);
        let reach = rows
            .map(|(codes, zero)| {
                codes.iter().map(|q| (i64::from(*q) + zero).abs()).sum::<i64>() * input[0].max(input[1])
            })
            .collect();
        Self { ranges, epilogue, to: y.affine(), residual: layer.then.residual, reach }
    }

    /// `rest`: of the residual.
    fn codes(&self, sums: &[i64], rest: f32) -> Vec<i8> {
        let mut v: Vec<f32> = sums.iter().zip(&self.ranges.w).map(|(s, w)| *s as f32 * self.ranges.unit(w)).collect();
        let mut codes = vec![0; v.len()];
        let rest = vec![rest; sums.len()];
        let residual = if self.residual { Residual::Real(&rest) } else { Residual::None };
        self.epilogue.quantize(&mut v, residual, &self.to, &mut codes);
        codes
    }

    /// For every code but the lowest, and every channel: the smallest sum within reach (turned over where the channel is) that
    /// gives it or a larger one; one beyond reach if none does. Every step of the engine keeps the order of sums, or turns it.
    fn begins(&self, turned: &[bool], rest: f32) -> Vec<Vec<i64>> {
        let sign = |k: usize| if turned[k] { -1 } else { 1 };
        let (lowest, highest) = (self.to.low as i32, self.to.high as i32);
        let level = |code: i32| {
            let mut low: Vec<i64> = self.reach.iter().map(|r| -r).collect();
            let mut high: Vec<i64> = self.reach.iter().map(|r| r + 1).collect();
            while low.iter().zip(&high).any(|(l, h)| l < h) {
                let middle: Vec<i64> = low.iter().zip(&high).map(|(l, h)| l + (h - l) / 2).collect();
                let turned: Vec<i64> = middle.iter().enumerate().map(|(k, s)| sign(k) * s).collect();
                for (k, q) in self.codes(&turned, rest).into_iter().enumerate() {
                    if low[k] < high[k] {
                        if i32::from(q) >= code { high[k] = middle[k] } else { low[k] = middle[k] + 1 }
                    }
                }
            }
            low
        };
        (lowest + 1..=highest).map(level).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::deployed::{NormCoefficients, Then};
    use crate::quant::WeightCodes;

    /// Channels with positive, negative and small factors, two bit widths: the integer operation, computed as runtimes do, gives
    /// the engine's code for every sum that can occur.
    #[test]
    fn integer_biases_round_as_the_engine() {
        for (bits, zero, relu) in [(4u8, 8, true), (3, 4, true), (4, 2, false)] {
            let (k, row) = (6, 20);
            let codes = (0..k * row).map(|i| ((i * 7 + i * i / 3) % 15) as i8 - 8).collect();
            let weight = WeightCodes { bits: 4, shape: vec![k, row], codes, scale: vec![11.3; k], zero: vec![0; k] };
            let per = |f: fn(f32) -> f32| (0..k).map(|i| f(i as f32)).collect::<Vec<f32>>();
            let norm = NormCoefficients {
                mean: per(|i| 0.37 * i - 0.8),
                scale: per(|i| 1.3 - 0.45 * i),
                shift: per(|i| 0.21 * i + 0.1),
            };
            let x = Quantizer { bits: 4, scale: 5.7, zero: 8 };
            let y = Quantizer { bits, scale: 3.1, zero };
            let then = Then { norm: Some(norm.clone()), residual: false, relu, quantizer: Some(y) };
            let layer = LoweredLayer { weight, bias: Some(per(|i| 0.05 * i)), then };
            let (x_finer, w_finer) = (17, 15);
            let steps = [1.0 / x.scale / x_finer as f32, 1.0 / y.scale];
            let bias = layer.bias.as_ref().unwrap();
            let channels: Vec<Channel> = (0..k)
                .map(|i| Channel {
                    fine: x_finer * w_finer,
                    turned: norm.scale[i] < 0.0,
                    step: norm.scale[i].abs() / 11.3 / w_finer as f32,
                    shift: (bias[i] - norm.mean[i]) * norm.scale[i] + norm.shift[i],
                })
                .collect();
            let engine = Rounding::new(&layer, &x, &y);
            let found = exact(&layer, [&x, &y], steps, &channels);
            let reach = *engine.reach.iter().max().unwrap();
            for sum in -reach..=reach {
                let codes = engine.codes(&vec![sum; k], 0.0);
                for (i, found) in found.iter().enumerate().filter(|(i, _)| sum.abs() <= engine.reach[*i]) {
                    let (bias, step) = found.expect("few codes: a pair exists");
                    let turned = if channels[i].turned { -sum } else { sum };
                    let multiplier = steps[0] * step / steps[1];
                    let v = ((channels[i].fine * turned + bias) as f32 * multiplier).round_ties_even();
                    let half = 1 << (bits - 1);
                    let code = (v as i64 - i64::from(zero)).clamp(-half, half - 1);
                    assert_eq!(code, i64::from(codes[i]), "bits {bits}, channel {i}, sum {sum}");
                }
            }
        }
    }
}
