//! The one executor: runs any graph on a tape and hands out taps.
//!
//! A quantized layer whose input comes from a quantizer convolves the codes, in integers (`ops::conv2d_int`); its gradients
//! are those of the values. Where it can, it takes up what follows it (`fused`). Stand-ins for weights, dropped quantization and shifted inputs keep the float convolution.

use super::forward::{BnStatistics, Forward, Mode, Outputs, Taps};
use super::statistics::{Found, collect};
use super::{Network, NodeId, NodeKind};
use crate::autograd::{Tape, Var};
use crate::ops::activation::activation;
use crate::ops::batch_norm::{Running, batch_norm_eval, batch_norm_train};
use crate::ops::channel_stats::channel_stats;
use crate::ops::conv_bn_tune::{TuneNorm, conv_bn_tune, conv_bn_tune_in_turn};
use crate::ops::conv2d::{conv2d, upsample_conv2d_in};
use crate::ops::conv2d_depthwise::conv2d_depthwise;
use crate::ops::conv2d_depthwise_int::conv2d_depthwise_int;
use crate::ops::conv2d_int::{conv2d_int, linear_int};
use crate::ops::fake_quant::{Codes, dequantize, fake_quant_codes};
use crate::ops::pool::{self, PoolParams};
use crate::ops::{concat, elementwise, embedding, linear, reshape, shortcut};
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
            if let NodeKind::Input { index } = node.kind {
                values[id] = Some(inputs[index].clone());
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

    /// Runs the part of the network that leads from the `given` values of nodes to the `wanted` ones, which it returns. What
    /// lies before the given nodes is not computed. `stand_ins` replace tensors by name in this pass: parameters, ranges
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
        let blocks = self.blocks(&missing, wanted, how, stats);
        // A value is dropped after its last use, so that activations nobody saved do not pile up.
        let mut last_use = vec![0; graph.nodes.len()];
        for id in (0..graph.nodes.len()).filter(|&id| needed[id]) {
            for node in blocks.computed_at(id) {
                for &i in &graph.nodes[node].inputs {
                    last_use[i] = id;
                }
            }
        }
        for &t in wanted {
            last_use[t] = usize::MAX;
        }
        let mut bn_stats = Vec::new();
        // Codes of quantizers' outputs, for the layers that compute with them.
        let mut codes: Vec<Option<Codes>> = vec![None; graph.nodes.len()];
        for (id, node) in graph.nodes.iter().enumerate() {
            let computed = blocks.computed_at(id);
            if !missing[id] || computed.is_empty() {
                continue;
            }
            // Outside of a student's blocks values are read as values.
            if !matches!(graph.nodes[computed[0]].kind, NodeKind::ConvBn { quant: Some(_), .. }) || computed.len() == 1
            {
                for &i in computed.iter().flat_map(|&node| &graph.nodes[node].inputs) {
                    if let (Some(v), Some(q)) = (&values[i], &codes[i]) {
                        if v.dtype() == DType::I8 {
                            values[i] = Some(dequantize(tape, v, q)?);
                        }
                    }
                }
            }
            let of_input = node.inputs.first().and_then(|&i| codes[i].clone());
            let arg = |i: usize| values[node.inputs[i]].clone().expect("inputs are alive until their last use");
            let y = match &node.kind {
                _ if computed.len() > 1 => {
                    let value = |id: NodeId| (values[id].clone().expect("alive until its last use"), codes[id].clone());
                    let (y, found, statistics) = self.block(tape, &computed, value, stats, how)?;
                    codes[id] = found;
                    bn_stats.extend(statistics);
                    y
                }
                NodeKind::Input { .. } => unreachable!("inputs have values where they are needed"),
                NodeKind::BatchNorm { mean, var, .. } => {
                    let x = arg(0);
                    if stats {
                        bn_stats.push(Found::before(id, channel_stats(tape, &x)?));
                    }
                    let (mean, var) = (self.buffers[mean].clone(), self.buffers[var].clone());
                    self.batch_norm(tape, &x, &node.kind, mean, var, how)?
                }
                NodeKind::ConvBn { params, .. } => {
                    let (mut x, mut xq) = (arg(0), of_input);
                    if let Some(swing) = how.swing.filter(|_| params.stride > 1) {
                        (x, xq) = (swing.apply(tape, x, id, self.counted(swing.stream + id as u64))?, None);
                    }
                    let (y, found) = self.conv_bn(tape, id, &x, xq.as_ref(), stats, how)?;
                    bn_stats.extend(found);
                    y
                }
                NodeKind::FakeQuant { bits } => {
                    let x = arg(0);
                    if how.float {
                        x
                    } else {
                        let coded = graph.computes_with_codes(id);
                        let (y, found) = self.quantize_activation(tape, &x, id, *bits, coded, how)?;
                        codes[id] = found;
                        y
                    }
                }
                kind => {
                    let mut args: Vec<Var> = (0..node.inputs.len()).map(arg).collect();
                    let mut xq = of_input;
                    if let (Some(swing), NodeKind::Conv2d { params, .. }) = (how.swing, kind) {
                        if params.stride > 1 {
                            let draws = self.counted(swing.stream + id as u64);
                            (args[0], xq) = (swing.apply(tape, args[0].clone(), id, draws)?, None);
                        }
                    }
                    let y = self.plain(tape, kind, &args, xq.as_ref(), how)?;
                    codes[id] = match xq {
                        Some(q) if kind.moves_codes() && graph.computes_with_codes(id) => {
                            Some(Codes { values: fake_quant_codes(&y.value, &q.lo, &q.hi, q.bits, Axis::Tensor)?, ..q })
                        }
                        _ => None,
                    };
                    y
                }
            };
            values[id] = Some(y);
            for &i in computed.iter().flat_map(|&node| &graph.nodes[node].inputs) {
                if last_use[i] == id {
                    (values[i], codes[i]) = (None, None);
                }
            }
        }
        for &id in wanted {
            if let (Some(v), Some(q)) = (&values[id], &codes[id]) {
                if v.dtype() == DType::I8 {
                    values[id] = Some(dequantize(tape, v, q)?);
                }
            }
        }
        let bn_stats = collect(tape, bn_stats)?;
        let take = |id: &NodeId| values[*id].clone().expect("wanted values are alive");
        Ok((wanted.iter().map(take).collect(), bn_stats))
    }

    /// `xq` are the codes of `x[0]`, if it has some.
    fn plain(&self, tape: &mut Tape, kind: &NodeKind, x: &[Var], xq: Option<&Codes>, how: Forward) -> Result<Var> {
        let bias =
            |tape: &mut Tape, b: &Option<String>| b.as_ref().map(|b| self.var(&self.params, tape, b, how)).transpose();
        match kind {
            NodeKind::Conv2d { weight, bias: b, params, quant } => {
                let (w, wq) = self.weight(tape, weight, *quant, xq.is_some(), how)?;
                let b = bias(tape, b)?;
                match (xq, &wq) {
                    (Some(xq), Some(wq)) => conv2d_int(tape, [&x[0], &w], [xq, wq], b.as_ref(), *params),
                    _ => conv2d(tape, &x[0], &w, b.as_ref(), *params),
                }
            }
            NodeKind::Conv2dDepthwise { weight, bias: b, params, quant } => {
                let (w, wq) = self.weight(tape, weight, *quant, xq.is_some(), how)?;
                let b = bias(tape, b)?;
                match (xq, &wq) {
                    (Some(xq), Some(wq)) => conv2d_depthwise_int(tape, [&x[0], &w], [xq, wq], b.as_ref(), *params),
                    _ => conv2d_depthwise(tape, &x[0], &w, b.as_ref(), *params),
                }
            }
            NodeKind::UpsampleConv2d { weight, bias: b, math } => {
                let w = self.var(&self.params, tape, weight, how)?;
                let b = bias(tape, b)?;
                upsample_conv2d_in(tape, &x[0], &w, b.as_ref(), *math)
            }
            NodeKind::Linear { weight, bias: b, quant } => {
                let (w, wq) = self.weight(tape, weight, *quant, xq.is_some(), how)?;
                let b = bias(tape, b)?;
                match (xq, &wq) {
                    (Some(xq), Some(wq)) => linear_int(tape, [&x[0], &w], [xq, wq], b.as_ref()),
                    _ => linear::linear(tape, &x[0], &w, b.as_ref()),
                }
            }
            NodeKind::Activation(kind) => activation(tape, &x[0], *kind),
            NodeKind::Add => elementwise::add(tape, &x[0], &x[1]),
            NodeKind::Concat => concat::concat(tape, &x.iter().collect::<Vec<_>>()),
            NodeKind::Mul => elementwise::mul(tape, &x[0], &x[1]),
            NodeKind::ShortcutA { stride, c_out } => shortcut::shortcut_a(tape, &x[0], *stride, *c_out),
            NodeKind::GlobalAvgPool => pool::global_avg_pool(tape, &x[0]),
            NodeKind::MaxPool { k, stride, pad } => pool::max_pool(tape, &x[0], PoolParams::square(*k, *stride, *pad)),
            NodeKind::AvgPool { k, stride, pad } => pool::avg_pool(tape, &x[0], PoolParams::square(*k, *stride, *pad)),
            NodeKind::Embedding { table } => {
                let table = self.var(&self.params, tape, table, how)?;
                embedding::embedding(tape, &table, &x[0].value)
            }
            NodeKind::Reshape { shape } => {
                let n = x[0].shape()[0];
                reshape::reshape(tape, &x[0], crate::tensor::Shape::new(&[&[n], &shape[..]].concat()))
            }
            NodeKind::Input { .. }
            | NodeKind::BatchNorm { .. }
            | NodeKind::ConvBn { .. }
            | NodeKind::FakeQuant { .. } => {
                unreachable!("handled by forward")
            }
        }
    }

    /// Fused node `id`: its output, and the statistics of its normalization, if `stats` are wanted.
    fn conv_bn(
        &self,
        tape: &mut Tape,
        id: NodeId,
        x: &Var,
        xq: Option<&Codes>,
        stats: bool,
        how: Forward,
    ) -> Result<(Var, Option<Found>)> {
        let NodeKind::ConvBn { weight, bias, params, quant, gamma, beta, mean, var, eps } = &self.graph.nodes[id].kind
        else {
            unreachable!("called for fused nodes")
        };
        // Batch statistics are a generator's or a training's: no student runs under them.
        let (w, wq) = self.weight(tape, weight, *quant, xq.is_some() && how.mode == Mode::Eval, how)?;
        let b = bias.as_ref().map(|b| self.var(&self.params, tape, b, how)).transpose()?;
        let (m, v) = (self.buffers[mean].clone(), self.buffers[var].clone());
        if how.mode != Mode::Eval {
            let z = conv2d(tape, x, &w, b.as_ref(), *params)?;
            let found = stats.then(|| Ok::<_, Error>(Found::before(id, channel_stats(tape, &z)?))).transpose()?;
            let norm = NodeKind::BatchNorm {
                gamma: gamma.clone(),
                beta: beta.clone(),
                mean: mean.clone(),
                var: var.clone(),
                eps: *eps,
            };
            return Ok((self.batch_norm(tape, &z, &norm, m, v, how)?, found));
        }
        let mut of = |p: &Option<String>| p.as_ref().map(|p| self.var(&self.params, tape, p, how)).transpose();
        let (gamma, beta) = (of(gamma)?, of(beta)?);
        let (gamma, beta, scaled) = (gamma.as_ref(), beta.as_ref(), self.scaled.get(&id));
        let norm = || TuneNorm { gamma, beta, mean: &m, var: &v, eps: *eps, scaled };
        // A student computes what its unfused and its deployed form compute, to the bit.
        let student = quant.is_some() && !how.float && !self.stand_ins.contains_key(weight);
        let y = if student {
            let codes = xq.zip(wq.as_ref()).map(|(x, w)| [x, w]);
            conv_bn_tune_in_turn(tape, [x, &w], codes, b.as_ref(), norm(), *params)?
        } else {
            conv_bn_tune(tape, x, &w, b.as_ref(), norm(), *params)?
        };
        if !stats {
            return Ok((y, None));
        }
        let found = Found::behind(id, channel_stats(tape, &y)?, norm());
        Ok((y, Some(found)))
    }

    fn batch_norm(
        &self,
        tape: &mut Tape,
        x: &Var,
        kind: &NodeKind,
        mean: crate::tensor::Tensor,
        var: crate::tensor::Tensor,
        how: Forward,
    ) -> Result<Var> {
        let NodeKind::BatchNorm { gamma, beta, eps, .. } = kind else { unreachable!("called for batch norms") };
        let mut of = |p: &Option<String>| p.as_ref().map(|p| self.var(&self.params, tape, p, how)).transpose();
        let (gamma, beta) = (of(gamma)?, of(beta)?);
        let (gamma, beta) = (gamma.as_ref(), beta.as_ref());
        match how.mode {
            Mode::Eval => batch_norm_eval(tape, x, gamma, beta, &mean, &var, *eps),
            Mode::Batch => batch_norm_train(tape, x, gamma, beta, None, *eps),
            Mode::Train { momentum } => {
                batch_norm_train(tape, x, gamma, beta, Some(Running { mean, var, momentum }), *eps)
            }
        }
    }

    /// A stored tensor on the tape.
    pub(super) fn var(&self, store: &super::ParamStore, tape: &mut Tape, name: &str, how: Forward) -> Result<Var> {
        if let Some(other) = self.stand_ins.get(name) {
            return Ok(other.clone());
        }
        if how.constant { Ok(Var::constant(store.get(name)?)) } else { store.var(tape, name) }
    }
}
