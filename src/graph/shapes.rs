//! Shapes and work of a graph's values. A node's own rule is in its file ([`super::nodes`]).

use super::nodes::MAX_VALUE;
use super::{Graph, NodeId, NodeKind};
use crate::tensor::Shape;
use crate::{Error, Result};

impl Graph {
    /// Returns the shape of every node's output for batch size `n`. Errors name the node.
    pub fn shapes(&self, n: usize) -> Result<Vec<Shape>> {
        let mut shapes = Vec::with_capacity(self.nodes.len());
        for id in 0..self.nodes.len() {
            shapes.push(self.shape(id, &shapes, n)?);
        }
        Ok(shapes)
    }

    /// Returns the shape of node `id`, given those before it. Errors name the node; nothing large is allocated.
    pub fn shape(&self, id: NodeId, shapes: &[Shape], n: usize) -> Result<Shape> {
        let node = &self.nodes[id];
        let wrong =
            |what: String| Error::network(&self.name, format!("node '{}' ({}): {what}", node.name, node.kind.name()));
        let rules = node.kind.rules();
        rules.arity().check(node.inputs.len()).map_err(wrong)?;
        let inputs: Option<Vec<Shape>> = node.inputs.iter().map(|&i| shapes.get(i).copied()).collect();
        let Some(inputs) = inputs else { return Err(wrong("reads a node that does not come before it".into())) };
        let shape = rules.shape(self, n, &inputs).map_err(wrong)?;
        let sample = shape.get(1..).unwrap_or(&[]);
        let elements = sample.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        if !elements.is_some_and(|e| (1..=MAX_VALUE).contains(&e)) {
            return Err(wrong(format!("its output {sample:?} is empty or has more than {MAX_VALUE} numbers")));
        }
        Ok(shape)
    }

    /// Returns the multiply-adds of one sample's forward pass in node `id`, given all `shapes` for batch 1.
    pub fn macs(&self, id: NodeId, shapes: &[Shape]) -> f64 {
        self.nodes[id].kind.rules().macs(self, shapes[id])
    }

    /// Returns whether node `id` is an input of the network.
    pub fn is_input(&self, id: NodeId) -> bool {
        matches!(self.nodes[id].kind, NodeKind::Input(_))
    }
}
