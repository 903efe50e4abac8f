//! The executor's quantizers: of weights, and of activations with what moves their ranges.

use super::forward::{Forward, RangeMode};
use super::{Graph, Network, NodeId, NodeKind, ParamStore, WeightQuant};
use crate::autograd::{Tape, Var};
use crate::ops::fake_quant::{Axis, Codes, FakeQuantSpec, Ste, fake_quant, fake_quant_coded};
use crate::ops::qdrop::qdrop;
use crate::ops::weight_quant::{Part, Quantized, Rows, weight_quant};
use crate::ops::{observe, random, range_search};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Weights that are quantized together, over the extremes of their channels.
#[derive(Default)]
pub(super) struct QuantizedWeights {
    rows: Option<Rows>,
    /// By name: place in the flat buffer, first row.
    places: BTreeMap<String, (usize, Shape, usize, u8)>,
    /// Of the pass under way.
    now: Option<Quantized>,
}

impl QuantizedWeights {
    pub fn new(graph: &Graph, params: &ParamStore) -> Result<Self> {
        let mut found = Vec::new();
        for q in graph.quantizers().into_iter().filter(|q| q.weight) {
            let (start, count) = params.span(&q.name)?;
            if count > 0 && (2..=8).contains(&q.bits) {
                let part = Part { start, rows: q.channels, length: count / q.channels.max(1), bits: q.bits };
                found.push((part, params.get(&q.name)?.shape(), q.name));
            }
        }
        found.sort_by_key(|f| f.0.start);
        // A weight of two layers.
        found.dedup_by_key(|f| f.0.start);
        if found.is_empty() {
            return Ok(Self::default());
        }
        let parts: Vec<Part> = found.iter().map(|f| f.0).collect();
        let (mut places, mut first) = (BTreeMap::new(), 0);
        for (part, shape, name) in found {
            places.insert(name, (part.start, shape, first, part.bits));
            first += part.rows;
        }
        let device = params.values().device();
        Ok(Self { rows: Some(Rows::new(&device, &parts)?), places, now: None })
    }

    /// Value and codes of a weight, if all were quantized in this pass.
    pub fn of(&self, name: &str, bits: u8) -> Result<Option<(Tensor, Codes)>> {
        let (Some(now), Some((start, shape, row, own))) = (&self.now, self.places.get(name)) else { return Ok(None) };
        if *own != bits {
            return Ok(None);
        }
        let ends = |t: &Tensor| t.view(*row, [shape[0]]);
        let codes = Codes { values: now.codes.view(*start, *shape)?, lo: ends(&now.lo)?, hi: ends(&now.hi)?, bits };
        Ok(Some((now.values.view(*start, *shape)?, codes)))
    }
}

impl Network {
    /// Quantizes all weights at once for a pass of kind `how` over the whole network, where each would be over its extremes
    /// with gradients straight through.
    pub(super) fn quantize_weights(&mut self, how: Forward) -> Result<()> {
        let plain = how.blocks && how.weight_min_max && !how.float && how.ste == Ste::Identity;
        self.weights.now = match &self.weights.rows {
            Some(rows) if plain && self.stand_ins.is_empty() => Some(weight_quant(self.params.values(), rows)?),
            _ => None,
        };
        Ok(())
    }

    /// What was made of the weights for a pass.
    pub(super) fn forget_weights(&mut self) {
        self.weights.now = None;
        self.scaled.clear();
    }

    /// The value of the linear layer's weight `name` as a pass of kind `how` uses it, [classes c]: fake-quantized where it
    /// has a quantizer.
    pub fn linear_weight(&self, name: &str, how: Forward) -> Result<Tensor> {
        let quant = self.graph.nodes.iter().find_map(|n| match &n.kind {
            NodeKind::Linear(l) if l.weight == name => Some(l.quant),
            _ => None,
        });
        let quant = quant.ok_or_else(|| Error::network(&self.graph.name, format!("no linear layer has '{name}'")))?;
        let mut tape = Tape::inference(&self.device());
        Ok(self.weight(&mut tape, name, quant, false, how)?.0.value)
    }

    /// A weight as the network uses it: fake-quantized per output channel if the node says so, then with its codes if they
    /// are wanted.
    pub(super) fn weight(
        &self,
        tape: &mut Tape,
        name: &str,
        quant: Option<WeightQuant>,
        coded: bool,
        how: Forward,
    ) -> Result<(Var, Option<Codes>)> {
        if let Some(other) = self.stand_ins.get(name) {
            return Ok((other.clone(), None));
        }
        let w = self.var(&self.params, tape, name, how)?;
        let Some(q) = quant.filter(|_| !how.float) else { return Ok((w, None)) };
        if let Some((value, codes)) = self.weights.of(name, q.bits)? {
            return Ok((tape.straight_through(&w, value), coded.then_some(codes)));
        }
        let spec = FakeQuantSpec { bits: q.bits, axis: Axis::Outer, ste: how.ste };
        if how.weight_min_max {
            let (lo, hi) = observe::min_max(&w.value, Axis::Outer)?;
            return quantized(tape, &w, &Var::constant(lo), &Var::constant(hi), spec, coded);
        }
        let lo = self.var(&self.ranges, tape, &format!("{name}.lo"), how)?;
        let hi = self.var(&self.ranges, tape, &format!("{name}.hi"), how)?;
        quantized(tape, &w, &lo, &hi, spec, coded)
    }

    /// The quantized value, with its codes if they are wanted (`coded`) and stand for all of it.
    pub(super) fn quantize_activation(
        &mut self,
        tape: &mut Tape,
        x: &Var,
        node: NodeId,
        bits: u8,
        coded: bool,
        how: Forward,
    ) -> Result<(Var, Option<Codes>)> {
        debug_assert_eq!(x.dtype(), DType::F32);
        let graph = self.graph.clone();
        let name = &graph.nodes[node].name;
        match how.ranges {
            RangeMode::Frozen => {}
            RangeMode::TrackMinMax(form) => {
                let (lo, hi) = observe::min_max(&x.value, Axis::Tensor)?;
                self.track(name, &lo, &hi, form)?;
            }
            RangeMode::TrackSearch(form) => {
                let (lo, hi) = range_search::range_search(&x.value, bits, Axis::Tensor)?;
                self.track(name, &lo, &hi, form)?;
            }
        }
        let lo = self.var(&self.ranges, tape, &format!("{name}.lo"), how)?;
        let hi = self.var(&self.ranges, tape, &format!("{name}.hi"), how)?;
        let spec = FakeQuantSpec { bits, axis: Axis::Tensor, ste: how.ste };
        let (y, codes) = quantized(tape, x, &lo, &hi, spec, coded && how.drop.is_none())?;
        let Some(drop) = how.drop else { return Ok((y, codes)) };
        let draw = random::uniform(&x.value.device(), x.shape(), drop.seed, self.draws(drop.stream + node as u64))?;
        Ok((qdrop(tape, x, &y, &draw, drop.share)?, None))
    }
}

fn quantized(
    tape: &mut Tape,
    x: &Var,
    lo: &Var,
    hi: &Var,
    spec: FakeQuantSpec,
    coded: bool,
) -> Result<(Var, Option<Codes>)> {
    if !coded {
        return Ok((fake_quant(tape, x, lo, hi, spec)?, None));
    }
    let (y, codes) = fake_quant_coded(tape, x, lo, hi, spec)?;
    Ok((y, Some(codes)))
}
