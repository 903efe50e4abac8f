//! ACQ's consistency penalty: attention of one sample with the teacher in eval and in training mode.

use super::{AttentionName, GeneratorTerm, Needs, TeacherView, not_negative};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::attention_map::{AttentionKind, attention_map};
use crate::ops::mse::mean_squared_distance;
use serde::{Deserialize, Serialize};

/// `mean_b |a_eval(x_b) - a_train(x_b)|^2` of L2-normalised spatial attention maps of the last feature map; `a_train`
/// from a second pass that normalises with the batch's own statistics and leaves the running ones alone. That there is
/// such a penalty: ACQ (Li et al., arXiv 2301.07266), abstract; the map, its layer and the distance: RECONSTRUCTED.
/// Gradients flow through both passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttentionConsistency {
    pub weight: f32,
    pub attention: AttentionName,
}

impl Default for AttentionConsistency {
    fn default() -> Self {
        Self { weight: 1.0, attention: AttentionName::Activation }
    }
}

impl GeneratorTerm for AttentionConsistency {
    fn name(&self) -> &'static str {
        "attention_consistency"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { head: true, batch_map: true, ..Needs::default() }
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)?;
        self.attention.check(self.name(), teacher)
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let mut attention = |features: &Option<Var>| {
            let source = self.attention.of(tape, features.as_ref().expect("asked for by needs"), view)?;
            attention_map(tape, &source, AttentionKind::Spatial, 2.0)
        };
        let (eval, train) = (attention(&view.map)?, attention(&view.batch_map)?);
        mean_squared_distance(tape, &eval, &train)
    }
}
