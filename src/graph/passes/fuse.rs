//! Fused layers: which nodes are computed together with the convolution or linear layer before them. Training, lowering, the
//! engine and the ONNX export all read this one answer.

use super::super::nodes::NodeKind;
use super::super::{Graph, NodeId};
use crate::ops::activation::Activation;

/// Groups each layer with the batch norm, residual sum, ReLU and quantizer behind it. They follow in this order, each at most
/// once, as long as nothing else reads a value in between.
#[derive(Clone, Debug)]
pub struct Fused {
    chain: Vec<Vec<NodeId>>,
    /// By node: the layer whose group ends there, the node itself if it is in none, `None` inside of a group.
    ends: Vec<Option<NodeId>>,
}

/// How far behind its layer a node of that kind stands; `None` if it is not fused.
fn stage(kind: &NodeKind) -> Option<u8> {
    match kind {
        NodeKind::BatchNorm(_) => Some(1),
        NodeKind::Add(_) => Some(2),
        NodeKind::Activate(a) if a.function == Activation::Relu => Some(3),
        NodeKind::FakeQuant(_) => Some(4),
        _ => None,
    }
}

impl Fused {
    /// Finds the groups of `graph`.
    pub fn of(graph: &Graph) -> Self {
        let mut readers: Vec<Vec<NodeId>> = vec![Vec::new(); graph.nodes.len()];
        for (id, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&i| readers[i].push(id));
        }
        let mut chain = vec![Vec::new(); graph.nodes.len()];
        let mut ends: Vec<Option<NodeId>> = (0..graph.nodes.len()).map(Some).collect();
        let mut taken = vec![false; graph.nodes.len()];
        for (head, node) in graph.nodes.iter().enumerate().filter(|(_, n)| n.kind.layer().is_some()) {
            let (mut last, mut reached) = (head, u8::from(matches!(node.kind, NodeKind::ConvBn(_))));
            while let [next] = readers[last][..] {
                let Some(step) = stage(&graph.nodes[next].kind) else { break };
                if step <= reached || taken[next] {
                    break;
                }
                taken[next] = true;
                chain[head].push(next);
                ends[last] = None;
                (last, reached) = (next, step);
            }
            ends[last] = Some(head);
        }
        Self { chain, ends }
    }

    /// Returns the first node of what is computed when a walk comes to `id`: a layer where its group ends, `None` inside of a
    /// group.
    pub fn head_of_end(&self, id: NodeId) -> Option<NodeId> {
        self.ends[id]
    }

    /// Returns the nodes behind layer `head` that are fused into it.
    pub fn behind(&self, head: NodeId) -> &[NodeId] {
        &self.chain[head]
    }

    /// Takes the groups that `keep` refuses apart.
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

    /// Returns what is computed when a walk comes to `id`, in order: a node alone, or a whole group at its end. Empty inside of a
    /// group.
    pub fn computed_at(&self, id: NodeId) -> Vec<NodeId> {
        match self.head_of_end(id) {
            Some(head) => std::iter::once(head).chain(self.behind(head).iter().copied()).collect(),
            None => Vec::new(),
        }
    }
}
