//! Tune-mode ConvBN (You et al., ICLR 2024, arXiv 2305.11624): convolution and batch normalization become one node, which
//! under running statistics convolves with scaled filters and saves only its input; outputs and gradients are those of
//! the two nodes. Under batch statistics it runs as the two nodes.

use super::super::nodes::ConvBn;
use super::super::{Graph, Node, NodeId, NodeKind};

/// `graph` with every batch norm fused into the convolution before it, where nothing else reads that convolution.
/// Parameter and buffer names stay; a fused node has the convolution's name.
pub fn tune_bn(graph: &Graph) -> Graph {
    let mut readers = vec![0; graph.nodes.len()];
    for node in &graph.nodes {
        for &i in &node.inputs {
            readers[i] += 1;
        }
    }
    // The last node is the output: read from outside.
    if let Some(last) = readers.last_mut() {
        *last += 1;
    }
    let fuses = |id: NodeId| -> Option<NodeId> {
        let conv = *graph.nodes[id].inputs.first()?;
        let pair = (&graph.nodes[conv].kind, &graph.nodes[id].kind);
        let fits = matches!(pair, (NodeKind::Conv2d(_), NodeKind::BatchNorm(_)));
        (fits && readers[conv] == 1).then_some(conv)
    };
    let absorbed: Vec<NodeId> = (0..graph.nodes.len()).filter_map(fuses).collect();
    let mut out = graph.without_nodes();
    let mut moved: Vec<NodeId> = vec![NodeId::MAX; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().enumerate() {
        if absorbed.contains(&id) {
            continue;
        }
        let (name, kind, inputs) = match fuses(id) {
            Some(conv) => {
                let conv = &graph.nodes[conv];
                (&conv.name, fused(&conv.kind, node), &conv.inputs)
            }
            None => (&node.name, node.kind.clone(), &node.inputs),
        };
        let inputs: Vec<NodeId> = inputs.iter().map(|&i| moved[i]).collect();
        moved[id] = out.push(name.clone(), kind, &inputs);
    }
    out
}

fn fused(conv: &NodeKind, norm: &Node) -> NodeKind {
    match (conv.clone(), norm.kind.clone()) {
        (NodeKind::Conv2d(conv), NodeKind::BatchNorm(batch_norm)) => {
            ConvBn { conv, norm: batch_norm, norm_name: norm.name.clone() }.into()
        }
        _ => unreachable!("called for a convolution and its batch norm"),
    }
}

/// `graph` with every fused convolution and batch norm taken apart, as [`tune_bn`] found them.
pub fn untune_bn(graph: &Graph) -> Graph {
    let mut out = graph.without_nodes();
    let mut moved: Vec<NodeId> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let inputs: Vec<NodeId> = node.inputs.iter().map(|&i| moved[i]).collect();
        moved.push(match &node.kind {
            NodeKind::ConvBn(ConvBn { conv, norm, norm_name }) => {
                let conv = out.push(node.name.clone(), conv.clone(), &inputs);
                out.push(norm_name.clone(), norm.clone(), &[conv])
            }
            kind => out.push(node.name.clone(), kind.clone(), &inputs),
        });
    }
    out
}
