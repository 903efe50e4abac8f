//! Fake quantization as GDFQ places it (Xu et al. 2020, released code). Every convolution and linear weight is quantized per output
//! channel, first and last included. Activations are quantized per tensor directly after each ReLU, and likewise after other
//! nonlinearities (ours). Logits and biases stay float, and so does the input unless `input_bits` is given.

use super::super::nodes::FakeQuant;
use super::super::{Graph, InputKind, Node, NodeId, NodeKind, WeightQuant};
use crate::ops::activation::Activation;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Bit widths.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QuantizeSpec {
    pub wbits: u8,
    pub abits: u8,
    /// Weight bits of the first and last layer, when they differ.
    pub first_bits: Option<u8>,
    pub last_bits: Option<u8>,
    /// Bits of the network's input, which GDFQ leaves as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_bits: Option<u8>,
    /// Bits of single nodes by name: of a layer's weights, or of a ReLU's output. They count more than all of the above.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub layer_bits: BTreeMap<String, u8>,
}

impl QuantizeSpec {
    /// The same width everywhere.
    pub fn new(wbits: u8, abits: u8) -> Self {
        Self { wbits, abits, first_bits: None, last_bits: None, input_bits: None, layer_bits: BTreeMap::new() }
    }
}

/// Returns whether a quantizer follows node `id`: behind every nonlinearity that lets large values pass. Functions with a
/// bounded output (sigmoid, hard sigmoid, tanh) mostly make gates, and get one only where a layer reads them.
fn places_quantizer(graph: &Graph, id: NodeId) -> bool {
    match &graph.nodes[id].kind {
        NodeKind::PRelu(_) => true,
        kind => match kind.activation() {
            Some(Activation::Sigmoid | Activation::HardSigmoid { .. } | Activation::Tanh) => graph.feeds_layer(id),
            function => function.is_some(),
        },
    }
}

/// The student: `graph` with quantizers. Parameter and buffer names stay the same.
///
/// Errors: a width outside 2..=8, a graph without weights to quantize, or `layer_bits` of a node that has neither weights nor a
/// quantized output.
pub fn quantize(graph: &Graph, spec: QuantizeSpec) -> Result<Graph> {
    let widths = [
        ("--wbits", Some(spec.wbits)),
        ("--abits", Some(spec.abits)),
        ("--first-bits", spec.first_bits),
        ("--last-bits", spec.last_bits),
        ("--input-bits", spec.input_bits),
    ];
    for (key, bits) in widths {
        if let Some(b) = bits.filter(|b| !(2..=8).contains(b)) {
            return Err(Error::config(key, format!("{b} bits are not supported; use 2 to 8")));
        }
    }
    let has_weights = |kind: &NodeKind| kind.layer().is_some();
    for (name, bits) in &spec.layer_bits {
        let key = || format!("layer_bits of '{name}'");
        if !(2..=8).contains(bits) {
            return Err(Error::config(key(), format!("{bits} bits are not supported; use 2 to 8")));
        }
        let offered = |id: &NodeId| has_weights(&graph.nodes[*id].kind) || places_quantizer(graph, *id);
        let known = || (0..graph.nodes.len()).filter(offered).map(|id| &graph.nodes[id].name[..]);
        if !known().any(|n| n == name) {
            let nearest = known().max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
            let nearest = nearest.map_or_else(String::new, |n| format!("; the nearest is '{n}'"));
            return Err(Error::config(key(), format!("no layer or ReLU of '{}' has that name{nearest}", graph.name)));
        }
    }
    let weighted: Vec<NodeId> = (0..graph.nodes.len()).filter(|&i| has_weights(&graph.nodes[i].kind)).collect();
    let (Some(&first), Some(&last)) = (weighted.first(), weighted.last()) else {
        return Err(Error::network(&graph.name, "has no convolution or linear layer to quantize"));
    };
    let named = |node: &Node| spec.layer_bits.get(&node.name).copied();
    let mut out = graph.without_nodes();
    let mut moved: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for (id, node) in graph.nodes.iter().enumerate() {
        let mut kind = node.kind.clone();
        if has_weights(&kind) {
            let end = if id == first {
                spec.first_bits
            } else if id == last {
                spec.last_bits
            } else {
                None
            };
            kind.set_quant(Some(WeightQuant { bits: named(node).or(end).unwrap_or(spec.wbits) }));
        }
        let inputs: Vec<NodeId> = node.inputs.iter().map(|&i| moved[i]).collect();
        let mut new = out.push(node.name.clone(), kind.clone(), &inputs);
        let image = match &kind {
            NodeKind::Input(input) => matches!(graph.inputs[input.index], InputKind::Real(_)),
            _ => false,
        };
        let activation = || places_quantizer(graph, id).then(|| named(node).unwrap_or(spec.abits));
        if let Some(bits) = if image { spec.input_bits } else { activation() } {
            new = out.push(format!("{}.quant", node.name), FakeQuant { bits }, &[new]);
        }
        moved.push(new);
    }
    Ok(out)
}
