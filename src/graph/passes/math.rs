//! In what precision a GPU multiplies: set on every convolution of a graph.

use super::super::nodes::ConvBn;
use super::super::{Graph, NodeKind};
use crate::ops::conv2d::Math;

/// `graph` with `math` in all its convolutions but depthwise ones, which tensor cores do not serve. A CPU computes in f32
/// whatever it says.
pub fn with_math(graph: &Graph, to: Math) -> Graph {
    let mut out = graph.clone();
    for node in &mut out.nodes {
        match &mut node.kind {
            NodeKind::Conv2d(conv) | NodeKind::ConvBn(ConvBn { conv, .. }) => conv.params.math = to,
            NodeKind::UpsampleConv2d(conv) => conv.math = to,
            _ => {}
        }
    }
    out
}
