//! The integer network: the float network's graph with quantizers, and integer numbers in place of parameters and ranges.
//!
//! A value between nodes is either f32 or codes of one quantizer. Which of the two follows from the node that makes it
//! ([`IntegerNetwork::values`]). A code stands for `(code + zero) / scale`, computed in f32: sum, then quotient.

use crate::data::Normalization;
use crate::graph::deployed::{IntegerTensors, LoweredLayer, Then, Value};
use crate::graph::nodes::{Node, NodeKind};
use crate::graph::{Graph, Init, InputKind, NodeId};
use crate::ops::activation::Activation;
use crate::tensor::Shape;
use crate::{Error, Result};
use std::collections::{BTreeSet, HashSet};

/// A network with integer weights, structure and values. Nodes are in topological order, the last one is the output.
#[derive(Clone, Debug)]
pub struct IntegerNetwork {
    /// Takes one f32 image `h w c` (or row). Every layer has a quantizer.
    pub graph: Graph,
    /// How pixels become inputs.
    pub normalization: Normalization,
    pub tensors: IntegerTensors,
}

impl PartialEq for IntegerNetwork {
    fn eq(&self, other: &Self) -> bool {
        let head = |n: &Self| (n.graph.name.clone(), n.graph.classes, n.graph.inputs.clone(), n.normalization);
        head(self) == head(other) && self.graph.nodes == other.graph.nodes && self.tensors == other.tensors
    }
}

/// Unit of computation: a node alone, or a layer with the nodes fused behind it.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The first node, whose name it has.
    pub head: NodeId,
    /// The node whose value it gives.
    pub end: NodeId,
    /// Units that it reads. The residual of a layer comes last.
    pub inputs: Vec<usize>,
    pub layer: Option<LoweredLayer>,
}

impl IntegerNetwork {
    /// Puts a network together and checks it, as [`Self::values`] does.
    pub fn new(
        name: &str,
        classes: usize,
        input: &[usize],
        nodes: Vec<Node>,
        tensors: IntegerTensors,
        normalization: Normalization,
    ) -> Result<Self> {
        let mut graph = Graph::new(name, classes);
        graph.inputs.push(InputKind::Real(input.to_vec()));
        let shapes = tensors.weights.iter().map(|(name, w)| (name, &w.shape));
        for (name, shape) in shapes.chain(tensors.vectors.iter().map(|(name, t)| (name, &t.shape))) {
            if shape.len() > 4 {
                return Err(Error::network(&graph.name, format!("tensor '{name}' has shape {shape:?}")));
            }
            graph.param(name.clone(), shape, Init::Zeros);
        }
        graph.nodes = nodes;
        let network = Self { graph, normalization, tensors };
        network.values()?;
        Ok(network)
    }

    /// Returns the per-sample shape of the input, `h w c`.
    pub fn input(&self) -> &[usize] {
        match self.graph.inputs.first() {
            Some(InputKind::Real(sample)) => sample,
            _ => &[],
        }
    }

    /// Checks everything and returns what each node gives. Errors name the node. Nothing large is allocated.
    pub fn values(&self) -> Result<Vec<Value>> {
        let fail = |what: String| Error::network(&self.graph.name, what);
        let norm = &self.normalization;
        if norm.mean.iter().chain(&norm.std).any(|v| !v.is_finite()) || norm.std.iter().any(|s| *s <= 0.0) {
            return Err(fail(format!("normalization {norm:?} is not finite, or divides by 0")));
        }
        let mut names = HashSet::new();
        let mut used = BTreeSet::new();
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.graph.nodes.len());
        let mut values: Vec<Value> = Vec::with_capacity(self.graph.nodes.len());
        for (id, node) in self.graph.nodes.iter().enumerate() {
            let wrong = |what: String| fail(format!("node {id} '{}' ({}): {what}", node.name, node.kind.name()));
            if !names.insert(&node.name) {
                return Err(wrong("another node has this name".into()));
            }
            if let Some(&i) = node.inputs.iter().find(|&&i| i >= id) {
                return Err(wrong(format!("reads node {i}, which does not come before it")));
            }
            self.check_numbers(node).map_err(wrong)?;
            used.extend(node.kind.tensors());
            let shape = self.graph.shape(id, &shapes, 1)?;
            let codes = match &node.kind {
                NodeKind::FakeQuant(_) => {
                    used.insert(&node.name);
                    Some(self.tensors.quantizer(&node.name).map_err(|e| wrong(e.to_string()))?)
                }
                kind if kind.moves_codes() => node.inputs.first().and_then(|&i| values[i].codes),
                _ => None,
            };
            values.push(Value { shape: shape[1..].to_vec(), codes });
            shapes.push(shape);
        }
        let all = self.tensors.weights.keys().chain(self.tensors.vectors.keys()).chain(self.tensors.quantizers.keys());
        if let Some(name) = all.into_iter().find(|name| !used.contains(name)) {
            return Err(fail(format!("tensor {name} belongs to no node")));
        }
        match values.last() {
            Some(last) if last.codes.is_none() && last.shape == [self.graph.classes] => Ok(values),
            Some(last) => {
                let found = if last.codes.is_some() { "codes" } else { "f32" };
                Err(fail(format!("gives {:?} in {found}, expected {} logits in f32", last.shape, self.graph.classes)))
            }
            None => Err(fail("has no nodes".into())),
        }
    }

    /// Errors unless the numbers of `node` are there, finite, and of its size.
    fn check_numbers(&self, node: &Node) -> std::result::Result<(), String> {
        if let Some(layer) = node.kind.layer() {
            let Some(quant) = layer.quant else { return Err("has no quantizer; lower a quantized network".into()) };
            let Some(w) = self.tensors.weights.get(layer.weight) else {
                return Err(format!("weight '{}' is missing", layer.weight));
            };
            w.check()?;
            if w.bits != quant.bits {
                return Err(format!("weight of {} bits for a layer of {}", w.bits, quant.bits));
            }
            if let Some(bias) = layer.bias {
                let found = &self.tensors.vector(bias).map_err(|e| e.to_string())?.shape;
                if found[..] != w.shape[..1] {
                    return Err(format!("bias of shape {found:?} for {} outputs", w.shape[0]));
                }
            }
        }
        for name in node.kind.tensors() {
            if self.tensors.weights.contains_key(name) {
                continue;
            }
            let t = self.tensors.vector(name).map_err(|e| e.to_string())?;
            if t.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d)) != Some(t.values.len()) {
                return Err(format!("{} values of {name} for shape {:?}", t.values.len(), t.shape));
            }
            if let Some(v) = t.values.iter().find(|v| !v.is_finite()) {
                return Err(format!("{name} has {v}; it must be finite"));
            }
        }
        if let NodeKind::BatchNorm(norm) = &node.kind {
            let sizes: Vec<usize> = norm.tensors_of(&self.tensors).map_err(|e| e.to_string())?;
            if sizes.iter().any(|n| *n != sizes[0]) {
                return Err(format!("its vectors have {sizes:?} values"));
            }
            let c = self.tensors.norm(norm).map_err(|e| e.to_string())?;
            if c.mean.iter().chain(&c.scale).chain(&c.shift).any(|v| !v.is_finite()) {
                return Err("its scale is not finite".into());
            }
        }
        if let NodeKind::FakeQuant(quant) = &node.kind {
            let q = self.tensors.quantizer(&node.name).map_err(|e| e.to_string())?;
            q.check()?;
            if q.bits != quant.bits {
                return Err(format!("a quantizer of {} bits for a node of {}", q.bits, quant.bits));
            }
        }
        Ok(())
    }

    /// Returns what is computed at once, in order: nodes, and layers with what is fused behind them. The network must be
    /// consistent ([`Self::values`]).
    pub fn units(&self) -> Result<Vec<Unit>> {
        let (graph, fused) = (&self.graph, self.graph.fused());
        let mut units: Vec<Unit> = Vec::new();
        let mut at = vec![usize::MAX; graph.nodes.len()];
        for end in 0..graph.nodes.len() {
            let Some(head) = fused.head_of_end(end) else { continue };
            let mut inputs: Vec<usize> = graph.nodes[head].inputs.iter().map(|&i| at[i]).collect();
            let mut layer = self.layer(&graph.nodes[head])?;
            let mut last = head;
            for &next in fused.behind(head) {
                let node = &graph.nodes[next];
                let then = &mut layer.as_mut().expect("only layers have nodes behind them").then;
                match &node.kind {
                    NodeKind::BatchNorm(norm) => then.norm = Some(self.tensors.norm(norm)?),
                    NodeKind::Add(_) => {
                        then.residual = true;
                        inputs.extend(node.inputs.iter().find(|&&i| i != last).map(|&i| at[i]));
                    }
                    NodeKind::FakeQuant(_) => then.quantizer = Some(self.tensors.quantizer(&node.name)?),
                    kind => then.relu = kind.activation() == Some(Activation::Relu),
                }
                last = next;
            }
            at[end] = units.len();
            units.push(Unit { head, end, inputs, layer });
        }
        Ok(units)
    }

    /// Returns the layer of a node with weights.
    fn layer(&self, node: &Node) -> Result<Option<LoweredLayer>> {
        let Some(layer) = node.kind.layer() else { return Ok(None) };
        let missing = || Error::network(&self.graph.name, format!("weight '{}' is missing", layer.weight));
        let weight = self.tensors.weights.get(layer.weight).ok_or_else(missing)?.clone();
        let bias = layer.bias.map(|b| Ok::<_, Error>(self.tensors.vector(b)?.values.clone())).transpose()?;
        Ok(Some(LoweredLayer { weight, bias, then: Then::default() }))
    }

    /// Returns the bytes of all weights in f32, and as packed codes with their scales and zero points.
    pub fn weight_bytes(&self) -> (usize, usize) {
        self.tensors.weights.values().fold((0, 0), |(float, packed), w| {
            (float + 4 * w.codes.len(), packed + w.packed_bytes() + 8 * w.scale.len())
        })
    }
}
