//! Fake quantization as GDFQ places it (methods: Xu et al. 2020, released code): every convolution and linear weight
//! per output channel, first and last included; activations per tensor directly after each ReLU (of any kind); logits and biases stay
//! float, and so does the input unless `input_bits` is given.

use super::super::{Graph, InputKind, NodeId, NodeKind, WeightQuant};
use crate::ops::activation::Activation;
use crate::{Error, Result};

/// Bit widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QuantizeSpec {
    pub wbits: u8,
    pub abits: u8,
    /// Weight bits of the first and last layer, when they differ.
    pub first_bits: Option<u8>,
    pub last_bits: Option<u8>,
    /// Bits of the network's input, which GDFQ leaves as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_bits: Option<u8>,
}

impl QuantizeSpec {
    /// The same width everywhere.
    pub fn new(wbits: u8, abits: u8) -> Self {
        Self { wbits, abits, first_bits: None, last_bits: None, input_bits: None }
    }
}

/// The student: `graph` with quantizers. Parameter and buffer names stay the same.
///
/// Errors: a width outside 2..=8, or a graph without weights to quantize.
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
    let weighted: Vec<NodeId> = (0..graph.nodes.len())
        .filter(|&i| {
            use NodeKind::{Conv2d, Conv2dDepthwise, ConvBn, Linear};
            matches!(graph.nodes[i].kind, Conv2d { .. } | ConvBn { .. } | Conv2dDepthwise { .. } | Linear { .. })
        })
        .collect();
    let (Some(&first), Some(&last)) = (weighted.first(), weighted.last()) else {
        return Err(Error::network(&graph.name, "has no convolution or linear layer to quantize"));
    };
    let mut out = Graph { nodes: Vec::new(), ..graph.clone() };
    let mut moved: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for (id, node) in graph.nodes.iter().enumerate() {
        let mut kind = node.kind.clone();
        if let NodeKind::Conv2d { quant, .. }
        | NodeKind::ConvBn { quant, .. }
        | NodeKind::Conv2dDepthwise { quant, .. }
        | NodeKind::Linear { quant, .. } = &mut kind
        {
            let own = if id == first {
                spec.first_bits
            } else if id == last {
                spec.last_bits
            } else {
                None
            };
            *quant = Some(WeightQuant { bits: own.unwrap_or(spec.wbits) });
        }
        let inputs: Vec<NodeId> = node.inputs.iter().map(|&i| moved[i]).collect();
        let relu =
            matches!(kind, NodeKind::Activation(Activation::Relu | Activation::Relu6 | Activation::LeakyRelu(_)));
        let mut new = out.push(node.name.clone(), kind.clone(), &inputs);
        let image = match &kind {
            NodeKind::Input { index } => matches!(graph.inputs[*index], InputKind::Real(_)),
            _ => false,
        };
        if let Some(bits) = if image { spec.input_bits } else { relu.then_some(spec.abits) } {
            new = out.push(format!("{}.quant", node.name), NodeKind::FakeQuant { bits }, &[new]);
        }
        moved.push(new);
    }
    Ok(out)
}
