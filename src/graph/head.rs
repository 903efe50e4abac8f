//! The classifier's end, found in any graph: last feature map, features in front of the last layer, that layer.

use super::{Graph, NodeId, NodeKind};
use crate::{Error, Result};

/// Nodes that loss terms look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last feature map `[n h w c]`, where attention is taken (in a student: behind its quantizer).
    pub map: NodeId,
    /// Features `[n c]` in front of the last layer; absent if that layer reads a map.
    pub features: Option<NodeId>,
    /// The last layer's weight, of a linear layer `[classes c]`.
    pub weight: String,
    /// Its bias `[classes]`.
    pub bias: Option<String>,
    pub form: HeadForm,
}

/// How logits come from the last features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadForm {
    /// `weight mean(map) + bias`: the weight's rows are the class centres, and class activation maps have a closed form.
    Pooled,
    /// `weight features + bias`: the weight's rows are the class centres.
    Linear,
    /// Anything else, such as a convolution in front of the pooling.
    Other,
}

/// Returns whether the node hands its input on, in another shape or in codes.
fn hands_on(kind: &NodeKind) -> bool {
    matches!(kind, NodeKind::Reshape(_) | NodeKind::FakeQuant(_))
}

impl Graph {
    /// Finds the classifier's end, whatever the classifier is. The map is the nearest one of more than one pixel in front
    /// of the last layer. Errors, naming the term that wants it, if there is no layer or no map.
    pub fn head(&self, wanted_by: &str) -> Result<Head> {
        let none = |what: &str| Err(Error::network(&self.name, format!("{wanted_by} looks at the last map; {what}")));
        let shapes = self.shapes(1)?;
        let before = |id: NodeId| self.nodes[id].inputs.first().copied();
        let Some(mut last) = self.nodes.len().checked_sub(1) else { return none("there are no nodes") };
        // Whether the logits are the last layer's output.
        let mut direct = true;
        let (weight, bias) = loop {
            let kind = &self.nodes[last].kind;
            if let Some(layer) = kind.layer() {
                break (layer.weight.clone(), layer.bias.cloned());
            }
            direct &= hands_on(kind);
            match before(last) {
                Some(id) => last = id,
                None => return none("no layer stands in front of the logits"),
            }
        };
        let Some(input) = before(last) else { return none("the last layer reads nothing") };
        let (mut at, mut features) = (input, None);
        loop {
            if shapes[at].len() == 2 {
                features = Some(at);
            }
            match before(at).filter(|_| hands_on(&self.nodes[at].kind)) {
                Some(id) => at = id,
                None => break,
            }
        }
        let linear = direct && features.is_some() && matches!(self.nodes[last].kind, NodeKind::Linear(_));
        if let (true, NodeKind::GlobalAvgPool(_), Some(map)) = (linear, &self.nodes[at].kind, before(at)) {
            return Ok(Head { map, features, weight, bias, form: HeadForm::Pooled });
        }
        let mut map = input;
        while !matches!(shapes[map][..], [_, h, w, _] if h * w > 1) {
            match before(map) {
                Some(id) => map = id,
                None => return none("no layer makes one of more than one pixel"),
            }
        }
        if self.is_input(map) {
            return none("the layers have none");
        }
        let form = if linear { HeadForm::Linear } else { HeadForm::Other };
        Ok(Head { map, features, weight, bias, form })
    }

    /// The head of a network whose logits are a linear layer of the pooled last map, or an error naming the term that
    /// wants it.
    pub fn pooled_head(&self, wanted_by: &str) -> Result<Head> {
        let head = self.head(wanted_by)?;
        if head.form == HeadForm::Pooled {
            return Ok(head);
        }
        let detail = "needs a global average pool and one linear layer at the end, which this network has not";
        Err(Error::network(&self.name, format!("{wanted_by} {detail}")))
    }

    /// The head of a network whose logits are a linear layer of features `[n c]`, or an error naming the term that wants it.
    pub fn linear_head(&self, wanted_by: &str) -> Result<Head> {
        let head = self.head(wanted_by)?;
        if head.form != HeadForm::Other {
            return Ok(head);
        }
        let detail = "needs a linear layer of features at the end, which this network has not";
        Err(Error::network(&self.name, format!("{wanted_by} {detail}")))
    }

    /// The features `[n c]` in front of the last layer, or an error naming the term that wants them.
    pub fn last_features(&self, wanted_by: &str) -> Result<NodeId> {
        let detail = || format!("{wanted_by} needs features in front of the last layer; it reads a map");
        self.head(wanted_by)?.features.ok_or_else(|| Error::network(&self.name, detail()))
    }

    /// Inputs of all batch norms, in order.
    pub fn batch_norm_inputs(&self) -> Vec<NodeId> {
        let norms = self.nodes.iter().filter(|n| matches!(n.kind, NodeKind::BatchNorm(_)));
        norms.map(|n| n.inputs[0]).collect()
    }

    /// Outputs of the residual bodies, in order: of every addition the first input, or the second where it is computed from
    /// the first.
    pub fn residual_bodies(&self) -> Vec<NodeId> {
        let additions = self.nodes.iter().filter(|n| matches!(n.kind, NodeKind::Add(_)));
        let body = |inputs: &[NodeId]| match *inputs {
            [first, second] if self.depends_on(second, first) => second,
            _ => inputs[0],
        };
        additions.filter(|n| !n.inputs.is_empty()).map(|n| body(&n.inputs)).collect()
    }

    /// Whether `later` is computed from `earlier`, another node.
    fn depends_on(&self, later: NodeId, earlier: NodeId) -> bool {
        let mut reached = vec![false; self.nodes.len()];
        reached[later] = true;
        for id in (earlier + 1..=later).rev().filter(|&id| id > earlier) {
            if reached[id] {
                self.nodes[id].inputs.iter().for_each(|&i| reached[i] = true);
            }
        }
        later != earlier && reached[earlier]
    }

    /// The values that terms compare between student and teacher, in the same order in both: outputs of the residual
    /// bodies; in a network without any the maps that its blocks end in ([`Graph::block_outputs`]).
    pub fn compared_maps(&self) -> Result<Vec<NodeId>> {
        let shapes = self.shapes(1)?;
        let maps = |ids: Vec<NodeId>| -> Vec<NodeId> { ids.into_iter().filter(|&id| shapes[id].len() == 4).collect() };
        let bodies = maps(self.residual_bodies());
        if bodies.is_empty() { Ok(maps(self.block_outputs()?)) } else { Ok(bodies) }
    }
}
