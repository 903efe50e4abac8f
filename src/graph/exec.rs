//! The one executor: runs any graph on a tape and hands out taps.
//!
//! A quantized layer whose input comes from a quantizer convolves the codes, in integers (`ops::conv2d_int`). Its gradients are
//! those of the values. Layers are fused with the nodes behind them where the pass allows it (`fused`). Stand-ins for weights,
//! dropped quantization and shifted inputs keep the float convolution.

use super::forward::{BnStatistics, Forward, Outputs, Taps};
use super::run::Run;
use super::statistics::collect;
use super::{Network, NodeId, NodeKind};
use crate::autograd::{Tape, Var};
use crate::ops::fake_quant::{Codes, dequantize, fake_quant_codes};
use crate::quant::Axis;
use crate::tensor::DType;
use crate::{Error, Result};
use std::collections::BTreeMap;

impl Network {
    /// Runs the network on `inputs` (one per graph input). Parameters of trained stores receive gradients.
    pub fn forward(&mut self, tape: &mut Tape, inputs: &[Var], how: Forward, taps: &Taps) -> Result<Outputs> {
        let graph = self.graph.clone();
        if inputs.len() != graph.inputs.len() {
            let detail = format!("{} inputs expected, {} given", graph.inputs.len(), inputs.len());
            return Err(Error::network(&graph.name, detail));
        }
        let mut values: Vec<Option<Var>> = vec![None; graph.nodes.len()];
        for (id, node) in graph.nodes.iter().enumerate() {
            if let NodeKind::Input(input) = &node.kind {
                values[id] = Some(inputs[input.index].clone());
            }
        }
        let output = graph.nodes.len() - 1;
        let mut wanted = taps.nodes.clone();
        wanted.push(output);
        self.quantize_weights(how)?;
        self.scale_filters(tape, how)?;
        let result = self.run(tape, values, &vec![true; graph.nodes.len()], &wanted, how, taps.bn_stats);
        self.forget_weights();
        let (mut found, bn_stats) = result?;
        let output = found.pop().expect("the output was wanted");
        Ok(Outputs { output, bn_stats, taps: found })
    }

    /// Runs the part of the network that leads from the `given` values of nodes to the `wanted` ones, which it returns. Nodes
    /// before the given ones are not computed. `stand_ins` replace tensors by name in this pass: parameters, ranges
    /// (`QUANTIZER.lo`), and weights as they come out of their quantizer. Errors if a wanted node depends on an input that
    /// is not given.
    pub fn forward_part(
        &mut self,
        tape: &mut Tape,
        given: &[(NodeId, Var)],
        wanted: &[NodeId],
        stand_ins: &BTreeMap<String, Var>,
        how: Forward,
    ) -> Result<Vec<Var>> {
        let graph = self.graph.clone();
        let mut values: Vec<Option<Var>> = vec![None; graph.nodes.len()];
        if let Some(id) = given.iter().map(|(id, _)| id).chain(wanted).find(|id| **id >= values.len()) {
            return Err(Error::network(&graph.name, format!("has {} nodes, none of number {id}", values.len())));
        }
        for (id, v) in given {
            values[*id] = Some(v.clone());
        }
        let needed = graph.needed(wanted, given.iter().map(|(id, _)| *id))?;
        self.stand_ins.clone_from(stand_ins);
        let result = self.run(tape, values, &needed, wanted, how, false);
        self.stand_ins.clear();
        Ok(result?.0)
    }

    /// Computes the `needed` nodes that have no value yet, in order.
    fn run(
        &mut self,
        tape: &mut Tape,
        mut values: Vec<Option<Var>>,
        needed: &[bool],
        wanted: &[NodeId],
        how: Forward,
        stats: bool,
    ) -> Result<(Vec<Var>, Vec<BnStatistics>)> {
        let graph = self.graph.clone();
        let missing: Vec<bool> = needed.iter().zip(&values).map(|(n, v)| *n && v.is_none()).collect();
        let fused = self.fused_in(&missing, wanted, how, stats);
        // A value is dropped after its last use, so that unsaved activations do not pile up.
        let mut last_use = vec![0; graph.nodes.len()];
        for id in (0..graph.nodes.len()).filter(|&id| needed[id]) {
            for node in fused.computed_at(id) {
                for &i in &graph.nodes[node].inputs {
                    last_use[i] = id;
                }
            }
        }
        for &t in wanted {
            last_use[t] = usize::MAX;
        }
        let mut statistics = Vec::new();
        // Codes of quantizers' outputs, for the layers that compute with them.
        let mut codes: Vec<Option<Codes>> = vec![None; graph.nodes.len()];
        for (id, node) in graph.nodes.iter().enumerate() {
            let computed = fused.computed_at(id);
            if !missing[id] || computed.is_empty() {
                continue;
            }
            let block = computed.len() > 1;
            // Only a student's block reads codes that stand without their values.
            if !block || graph.nodes[computed[0]].kind.weight_bits().is_none() {
                for &i in computed.iter().flat_map(|&node| &graph.nodes[node].inputs) {
                    with_value(tape, &mut values[i], &codes[i])?;
                }
            }
            let y = if block {
                let value = |id: NodeId| (values[id].clone().expect("alive until its last use"), codes[id].clone());
                let (y, made, found) = self.block(tape, &computed, value, stats, how)?;
                codes[id] = made;
                statistics.extend(found);
                y
            } else {
                let arg = |i: &NodeId| values[*i].clone().expect("inputs are alive until their last use");
                let args: Vec<Var> = node.inputs.iter().map(arg).collect();
                let read = node.inputs.first().and_then(|&i| codes[i].clone());
                let mut run = Run::of_network(self, tape, id, read.clone(), stats, how);
                let y = node.kind.rules().run(&mut run, &args)?;
                let made = run.made;
                statistics.extend(made.statistics);
                codes[id] = made.codes;
                if let Some(q) = read.filter(|_| node.kind.moves_codes() && graph.computes_with_codes(id)) {
                    let moved = fake_quant_codes(&y.value, &q.lo, &q.hi, q.bits, Axis::Tensor)?;
                    codes[id] = Some(Codes { values: moved, ..q });
                }
                y
            };
            values[id] = Some(y);
            for &i in computed.iter().flat_map(|&node| &graph.nodes[node].inputs) {
                if last_use[i] == id {
                    (values[i], codes[i]) = (None, None);
                }
            }
        }
        for &id in wanted {
            with_value(tape, &mut values[id], &codes[id])?;
        }
        let statistics = collect(tape, statistics)?;
        let take = |id: &NodeId| values[*id].clone().expect("wanted values are alive");
        Ok((wanted.iter().map(take).collect(), statistics))
    }

    /// Returns a stored tensor on the tape.
    pub(super) fn var(&self, store: &super::ParamStore, tape: &mut Tape, name: &str, how: Forward) -> Result<Var> {
        if let Some(other) = self.stand_ins.get(name) {
            return Ok(other.clone());
        }
        if how.constant { Ok(Var::constant(store.get(name)?)) } else { store.var(tape, name) }
    }
}

/// Puts the values of codes in place of codes that stand alone.
fn with_value(tape: &mut Tape, value: &mut Option<Var>, codes: &Option<Codes>) -> Result<()> {
    if let (Some(v), Some(q)) = (&value, codes) {
        if v.dtype() == DType::I8 {
            *value = Some(dequantize(tape, v, q)?);
        }
    }
    Ok(())
}
