//! A network cut into blocks at the places that all values pass through, and what a cut needs.

use super::{Graph, NodeId, NodeKind};
use crate::{Error, Result};

/// Consecutive nodes with one value going in and one coming out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The node whose value goes in (it belongs to the block before, or is the network's input).
    pub from: NodeId,
    /// The node whose value comes out.
    pub to: NodeId,
}

impl Graph {
    /// The smallest blocks that hold quantized weights each, in order: a residual block with its branches is one, a
    /// convolution outside of them is one, so is the classifier. A block ends behind the normalisation and activation of
    /// its last layer; quantizers and pooling begin the next one. Together they lead from the input to the output.
    ///
    /// Errors if the graph has several inputs, or none that anything is computed from.
    pub fn blocks(&self) -> Result<Vec<Block>> {
        self.cut(|kind| kind.weight_bits().is_some())
    }

    /// The nodes that the smallest blocks with a convolution or linear layer each end in, in order, without the output. The
    /// student's are the teacher's: quantizers count for nothing.
    ///
    /// Errors as [`Graph::blocks`] does.
    pub fn block_outputs(&self) -> Result<Vec<NodeId>> {
        let mut ends: Vec<NodeId> = self.cut(|kind| kind.layer().is_some())?.iter().map(|b| b.to).collect();
        ends.pop();
        Ok(ends)
    }

    /// The smallest blocks that hold a node each that `counts`.
    fn cut(&self, counts: impl Fn(&NodeKind) -> bool) -> Result<Vec<Block>> {
        let inputs: Vec<NodeId> = (0..self.nodes.len()).filter(|&i| self.is_input(i)).collect();
        let ([start], true) = (inputs.as_slice(), self.nodes.len() > 1) else {
            let detail =
                format!("cannot be cut into blocks: it has {} inputs, {} nodes", inputs.len(), self.nodes.len());
            return Err(Error::network(&self.name, detail));
        };
        let output = self.nodes.len() - 1;
        // Behind a narrow node, nothing older than the node is read again.
        let mut last_use = vec![0; self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate() {
            for &i in &node.inputs {
                last_use[i] = id;
            }
        }
        let mut reach = 0;
        let mut narrow = vec![false; self.nodes.len()];
        for id in 0..self.nodes.len() {
            narrow[id] = id >= *start && reach <= id;
            reach = reach.max(last_use[id]);
        }
        let (mut blocks, mut from, mut has_weights) = (Vec::new(), *start, false);
        for id in start + 1..=output {
            has_weights |= counts(&self.nodes[id].kind);
            // Behind quantizers too, so that student and teacher are cut at the same places.
            let mut behind = self.nodes[id + 1..].iter().filter(|n| !matches!(n.kind, NodeKind::FakeQuant(_)));
            let goes_on = behind.next().is_some_and(|n| n.kind.pointwise());
            if narrow[id] && has_weights && !goes_on && id < output {
                blocks.push(Block { from, to: id });
                (from, has_weights) = (id, false);
            }
        }
        // What follows the last weights belongs to their block.
        match blocks.last_mut() {
            Some(last) if !has_weights => last.to = output,
            _ => blocks.push(Block { from, to: output }),
        }
        Ok(blocks)
    }

    /// Which nodes must be computed for the `wanted` ones when the `given` ones are known (they count as needed only if
    /// something reads them). Errors if an input of the network is needed and not given.
    pub fn needed(&self, wanted: &[NodeId], given: impl IntoIterator<Item = NodeId>) -> Result<Vec<bool>> {
        let mut known = vec![false; self.nodes.len()];
        for id in given {
            known[id] = true;
        }
        let mut needed = vec![false; self.nodes.len()];
        for &id in wanted {
            needed[id] = true;
        }
        for id in (0..self.nodes.len()).rev() {
            if !needed[id] || known[id] {
                continue;
            }
            let node = &self.nodes[id];
            if self.is_input(id) {
                let detail = format!("the wanted values depend on input '{}', which is not given", node.name);
                return Err(Error::network(&self.name, detail));
            }
            for &i in &node.inputs {
                needed[i] = true;
            }
        }
        Ok(needed)
    }
}
