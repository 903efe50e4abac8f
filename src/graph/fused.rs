//! Fused layers of a pass, one node of the tape each: a student's convolution and batch norm, residual sum, ReLU and quantizer
//! (`ops::conv_block`); a float network's convolution and batch norm, its statistics, residual sum and ReLU (`ops::conv_stats`).
//! The fuse pass says which nodes belong together. A group whose inner values are tapped or given runs node by node, which gives
//! the same bits.

use super::forward::{Forward, Mode, RangeMode};
use super::nodes::{BatchNorm, Conv2d, ConvBn};
use super::passes::Fused;
use super::statistics::Found;
use super::{Network, NodeId, NodeKind};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::ops::conv_block::{Operand, Then, conv_block};
use crate::ops::conv_bn_tune::{Layer, TuneNorm, scale};
use crate::ops::conv_stats::{After, conv_stats};
use crate::ops::fake_quant::Codes;

impl Network {
    /// Returns the groups that a pass computes as one which computes the `missing` nodes and hands out the `wanted` ones.
    pub(super) fn fused_in(&self, missing: &[bool], wanted: &[NodeId], how: Forward, stats: bool) -> Fused {
        let nodes = &self.graph.nodes;
        let mut fused = self.graph.fused().clone();
        let plain = how.blocks && how.mode == Mode::Eval && how.swing.is_none();
        // Ranges that are being tracked are found from the quantizer's input.
        let quantized = !how.float && how.ranges == RangeMode::Frozen && how.drop.is_none() && !stats;
        fused.retain(|head, behind| {
            let NodeKind::ConvBn(ConvBn { conv: Conv2d { weight, quant, .. }, .. }) = &nodes[head].kind else {
                return false;
            };
            let Some((last, inner)) = behind.split_last() else { return false };
            let quantizers = behind.iter().filter(|id| matches!(nodes[**id].kind, NodeKind::FakeQuant(_))).count();
            let fits = match quant {
                Some(_) => quantized && quantizers == 1 && !self.stand_ins.contains_key(weight),
                None => quantizers == 0,
            };
            let mut inner = std::iter::once(&head).chain(inner);
            plain && fits && missing[*last] && inner.all(|id| missing[*id] && !wanted.contains(id))
        });
        fused
    }

    /// Computes the group of `nodes`: its output, its codes if it is a student's, and the statistics of its convolution if they
    /// are wanted. `value` gives the values that it reads.
    pub(super) fn block(
        &self,
        tape: &mut Tape,
        nodes: &[NodeId],
        value: impl Fn(NodeId) -> (Var, Option<Codes>),
        stats: bool,
        how: Forward,
    ) -> Result<(Var, Option<Codes>, Option<Found>)> {
        let graph = self.graph.clone();
        let head = &graph.nodes[nodes[0]];
        let NodeKind::ConvBn(ConvBn { conv, norm, .. }) = &head.kind else {
            unreachable!("groups begin with fused convolutions")
        };
        let Conv2d { weight, bias, params, quant } = conv;
        let BatchNorm { gamma, beta, mean, var, eps } = norm;
        let (x, xq) = value(head.inputs[0]);
        let (w, wq) = self.weight(tape, weight, *quant, xq.is_some(), how)?;
        let mut of = |p: &Option<String>| p.as_ref().map(|p| self.var(&self.params, tape, p, how)).transpose();
        let (bias, gamma, beta) = (of(bias)?, of(gamma)?, of(beta)?);
        let (mean, var) = (&self.buffers[mean], &self.buffers[var]);
        let (gamma, beta, scaled) = (gamma.as_ref(), beta.as_ref(), self.scaled.get(&nodes[0]));
        let norm = TuneNorm { gamma, beta, mean, var, eps: *eps, scaled };

        let (mut residual, mut relu) = (None, false);
        for pair in nodes.windows(2) {
            match &graph.nodes[pair[1]].kind {
                NodeKind::Add(_) => {
                    let other = graph.nodes[pair[1]].inputs.iter().find(|i| **i != pair[0]);
                    residual = Some(value(*other.expect("a sum with itself has two readers")));
                }
                NodeKind::Activate(_) => relu = true,
                _ => {}
            }
        }
        let end = &graph.nodes[*nodes.last().expect("a block has nodes")];
        let NodeKind::FakeQuant(quantizer) = &end.kind else {
            let after = After { residual: residual.as_ref().map(|(var, _)| var), relu, stats };
            let (y, found) = conv_stats(tape, [&x, &w], bias.as_ref(), norm, *params, after)?;
            return Ok((y, None, found.map(|stats| Found::behind(nodes[0], stats, norm))));
        };
        let lo = self.var(&self.ranges, tape, &format!("{}.lo", end.name), how)?;
        let hi = self.var(&self.ranges, tape, &format!("{}.hi", end.name), how)?;
        let residual = residual.as_ref().map(|(var, codes)| Operand { var, codes: codes.as_ref() });
        let then = Then { residual, relu, lo: &lo, hi: &hi, bits: quantizer.bits, ste: how.ste };
        let (x, w) = (Operand { var: &x, codes: xq.as_ref() }, Operand { var: &w, codes: wq.as_ref() });
        let (y, codes) = conv_block(tape, [x, w], bias.as_ref(), norm, *params, then)?;
        Ok((y, Some(codes), None))
    }

    /// Scales the filters of all layers of convolution and batch norm at once, for a pass of kind `how` over the whole network
    /// on a GPU, where they would cost a launch each: a float network's for the pass, a student's for its way back.
    pub(super) fn scale_filters(&mut self, tape: &Tape, how: Forward) -> Result<()> {
        if how.mode != Mode::Eval || self.device().is_cpu() {
            return Ok(());
        }
        let constant = |name: &Option<String>| name.as_ref().map(|p| self.params.get(p).map(Var::constant)).transpose();
        let mut layers = Vec::new();
        for (id, node) in self.graph.nodes.iter().enumerate() {
            let NodeKind::ConvBn(ConvBn { conv, norm, .. }) = &node.kind else { continue };
            let Conv2d { weight, bias, quant, .. } = conv;
            let BatchNorm { gamma, beta, mean, var, eps } = norm;
            let w = match quant.filter(|_| !how.float) {
                None => self.params.get(weight)?,
                // Those of learned or stored ranges are quantized layer by layer.
                Some(q) => match self.weights.of(weight, q.bits)? {
                    Some((value, _)) if tape.records() => value,
                    _ => continue,
                },
            };
            let vectors = [constant(bias)?, constant(gamma)?, constant(beta)?];
            layers.push((id, w, vectors, &self.buffers[mean], &self.buffers[var], *eps));
        }
        let mut all = Vec::with_capacity(layers.len());
        for (_, w, [bias, gamma, beta], mean, var, eps) in &layers {
            let (gamma, beta) = (gamma.as_ref(), beta.as_ref());
            let norm = TuneNorm { gamma, beta, mean, var, eps: *eps, scaled: None };
            all.push(Layer { w, bias: bias.as_ref().map(|b| &b.value), norm });
        }
        let made = scale(&all)?;
        self.scaled = layers.iter().map(|l| l.0).zip(made).collect();
        Ok(())
    }
}
