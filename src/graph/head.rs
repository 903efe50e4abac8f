//! The classifier's end, found in any graph: feature map -> global average pool -> linear.

use super::nodes::Linear;
use super::{Graph, NodeId, NodeKind};
use crate::{Error, Result};

/// Nodes that loss terms look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last feature map `[n h w c]`, where attention is taken (in a student: behind its quantizer).
    pub map: NodeId,
    /// Pooled features `[n c]`.
    pub features: NodeId,
    /// The classifier's weight `[classes c]`; its rows are the class centres.
    pub weight: String,
    /// Its bias `[classes]`.
    pub bias: Option<String>,
}

impl Graph {
    /// The head, or an error naming the term that wants it.
    pub fn head(&self, wanted_by: &str) -> Result<Head> {
        let none = |what: &str| {
            let detail = format!("{wanted_by} needs a global average pool and a linear layer at the end; {what}");
            Err(Error::network(&self.name, detail))
        };
        let Some(NodeKind::Linear(Linear { weight, bias, .. })) = self.nodes.last().map(|n| &n.kind) else {
            return none("the last node is not linear");
        };
        let mut at = self.nodes[self.nodes.len() - 1].inputs[0];
        while let NodeKind::Reshape(_) = self.nodes[at].kind {
            at = self.nodes[at].inputs[0];
        }
        match self.nodes[at].kind {
            NodeKind::GlobalAvgPool(_) => {
                Ok(Head { map: self.nodes[at].inputs[0], features: at, weight: weight.clone(), bias: bias.clone() })
            }
            _ => none(&format!("'{}' stands before the linear layer", self.nodes[at].name)),
        }
    }

    /// Inputs of all batch norms, in order.
    pub fn batch_norm_inputs(&self) -> Vec<NodeId> {
        let norms = self.nodes.iter().filter(|n| matches!(n.kind, NodeKind::BatchNorm(_)));
        norms.map(|n| n.inputs[0]).collect()
    }

    /// Outputs of the residual bodies: first inputs of all additions, in order.
    pub fn residual_bodies(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|n| matches!(n.kind, NodeKind::Add(_))).map(|n| n.inputs[0]).collect()
    }
}
