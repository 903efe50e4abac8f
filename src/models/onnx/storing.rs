//! Parameters of the graph under construction, and what may be allocated for them.

use super::Outcome;
use super::build::Build;
use crate::graph::{Graph, Init, NodeId};
use crate::tensor::io::{Checkpoint, HostTensor};
use std::collections::HashSet;

/// Bounds of what is allocated beyond what the file holds.
pub struct Limits {
    /// Numbers of parameters that several nodes share, which are copied.
    pub copied: usize,
    /// Numbers of parameters that the file asks for without holding them.
    pub filled: usize,
    /// Numbers written while constants are evaluated.
    pub evaluated: usize,
}

impl Limits {
    /// Takes `n` numbers that the file does not hold.
    pub fn fill(&mut self, n: usize) -> Outcome<()> {
        let rest = self.filled.checked_sub(n);
        self.filled = rest.ok_or("is more than a file may ask for that does not hold it")?;
        self.copied = self.copied.saturating_add(n);
        Ok(())
    }
}

impl Build<'_> {
    /// Declares a parameter of `shape` (ours) with the values of `t` (as checkpoints hold it); its name.
    pub fn param(&mut self, wanted: &str, shape: &[usize], t: HostTensor) -> Outcome<String> {
        let name = self.stored(wanted, t)?;
        Ok(self.graph.param(name, shape, Init::Zeros))
    }

    /// Declares a parameter that the file does not hold.
    pub fn made_param(&mut self, wanted: &str, shape: &[usize], t: HostTensor) -> Outcome<String> {
        self.limits.fill(t.values.len()).map_err(|e| format!("'{wanted}' {e}"))?;
        self.param(wanted, shape, t)
    }

    /// Declares running statistics; their name.
    pub fn buffer(&mut self, wanted: &str, t: HostTensor) -> Outcome<String> {
        let shape = t.shape.clone();
        let name = self.stored(wanted, t)?;
        Ok(self.graph.buffer(name, &shape, 0.0))
    }

    fn stored(&mut self, wanted: &str, t: HostTensor) -> Outcome<String> {
        if let Some(v) = t.values.iter().find(|v| !v.is_finite()) {
            return Err(format!("'{wanted}' holds {v}; weights must be finite"));
        }
        let rest = self.limits.copied.checked_sub(t.values.len());
        self.limits.copied = rest.ok_or("more weights are shared between nodes than can be copied")?;
        let name = self.names.take(wanted);
        self.weights.tensors.insert(name.clone(), t);
        Ok(name)
    }

    /// The values of parameter `name`, to be changed.
    pub fn stored_values(&mut self, name: &str) -> Outcome<&mut Vec<f32>> {
        let t = self.weights.tensors.get_mut(name).ok_or_else(|| format!("'{name}' is not held"))?;
        Ok(&mut t.values)
    }

    /// The graph whose output is node `last`, a row of logits per image, and its weights.
    pub fn finished(mut self, last: NodeId) -> Outcome<(Graph, Checkpoint)> {
        self.graph.classes = self.channels(last);
        let mut kept = vec![false; self.graph.nodes.len()];
        kept[last] = true;
        for id in (0..=last).rev() {
            if kept[id] {
                self.graph.nodes[id].inputs.iter().for_each(|&i| kept[i] = true);
            }
        }
        // What a shape was asked of, or what was taken into other nodes.
        let nodes = std::mem::take(&mut self.graph.nodes);
        let mut moved = vec![NodeId::MAX; nodes.len()];
        for (id, mut node) in nodes.into_iter().enumerate().filter(|(id, _)| kept[*id]) {
            node.inputs.iter_mut().for_each(|i| *i = moved[*i]);
            moved[id] = self.graph.nodes.len();
            self.graph.nodes.push(node);
        }
        if !self.graph.is_input(0) {
            return Err("the output does not depend on the input".into());
        }
        let used: HashSet<&String> = self.graph.nodes.iter().flat_map(|n| n.kind.tensors()).collect();
        self.graph.params.retain(|p| used.contains(&p.name));
        self.graph.buffers.retain(|b| used.contains(&b.name));
        self.weights.tensors.retain(|name, _| used.contains(name));
        Ok((self.graph, self.weights))
    }
}
