//! Layers with what follows them: nodes that can be computed as one, by an integer network and by a student's training step.

use super::super::{Graph, NodeId, NodeKind};
use crate::ops::activation::Activation;

/// Which nodes each layer takes up: batch norm, sum with an earlier value, ReLU, quantizer, in this order, each at most once,
/// as long as nothing else reads what lies between.
pub struct Chains {
    chain: Vec<Vec<NodeId>>,
    /// By node: the layer whose chain ends there; itself if it is in none, `None` inside of one.
    ends: Vec<Option<NodeId>>,
}

impl Chains {
    pub fn of(graph: &Graph) -> Self {
        let mut readers: Vec<Vec<NodeId>> = vec![Vec::new(); graph.nodes.len()];
        for (id, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&i| readers[i].push(id));
        }
        let mut chain = vec![Vec::new(); graph.nodes.len()];
        let mut ends: Vec<Option<NodeId>> = (0..graph.nodes.len()).map(Some).collect();
        let mut taken = vec![false; graph.nodes.len()];
        for (head, node) in graph.nodes.iter().enumerate() {
            let fused = matches!(node.kind, NodeKind::ConvBn { .. });
            let layer = |k: &NodeKind| {
                matches!(k, NodeKind::Conv2d { .. } | NodeKind::Conv2dDepthwise { .. } | NodeKind::Linear { .. })
            };
            if !fused && !layer(&node.kind) {
                continue;
            }
            let (mut last, mut stage) = (head, if fused { 1 } else { 0 });
            while let [next] = readers[last][..] {
                let step = match graph.nodes[next].kind {
                    NodeKind::BatchNorm { .. } => 1,
                    NodeKind::Add => 2,
                    NodeKind::Activation(Activation::Relu) => 3,
                    NodeKind::FakeQuant { .. } => 4,
                    _ => break,
                };
                if step <= stage || taken[next] {
                    break;
                }
                taken[next] = true;
                chain[head].push(next);
                ends[last] = None;
                (last, stage) = (next, step);
            }
            ends[last] = Some(head);
        }
        Self { chain, ends }
    }

    /// The node that is computed when a walk comes to `id`: a layer where its chain ends, `None` inside of a chain.
    pub fn head_of_end(&self, id: NodeId) -> Option<NodeId> {
        self.ends[id]
    }

    /// The nodes behind layer `head` that become part of it.
    pub fn behind(&self, head: NodeId) -> &[NodeId] {
        &self.chain[head]
    }

    /// Takes the chains of layers that `keep` refuses apart.
    pub fn retain(&mut self, keep: impl Fn(NodeId, &[NodeId]) -> bool) {
        for head in 0..self.chain.len() {
            if !self.chain[head].is_empty() && !keep(head, &self.chain[head]) {
                self.ends[head] = Some(head);
                for id in std::mem::take(&mut self.chain[head]) {
                    self.ends[id] = Some(id);
                }
            }
        }
    }
}
