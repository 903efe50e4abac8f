//! The executor's quantizers: of weights, and of activations with what moves their ranges.

use super::forward::{Forward, RangeMode};
use super::{Network, NodeId, NodeKind, WeightQuant};
use crate::autograd::{Tape, Var};
use crate::ops::fake_quant::{Axis, Codes, FakeQuantSpec, fake_quant, fake_quant_coded};
use crate::ops::qdrop::qdrop;
use crate::ops::{observe, random, range_search};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

impl Network {
    /// The value of the linear layer's weight `name` as a pass of kind `how` uses it, [classes c]: fake-quantized where it
    /// has a quantizer.
    pub fn linear_weight(&self, name: &str, how: Forward) -> Result<Tensor> {
        let quant = self.graph.nodes.iter().find_map(|n| match &n.kind {
            NodeKind::Linear { weight, quant, .. } if weight == name => Some(*quant),
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
        let draw = random::uniform(&x.value.device(), x.shape(), drop.seed, drop.stream + node as u64)?;
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
