//! HAST's feature alignment: channel attention of every compared map in student and teacher.

use super::{StudentTerm, StudentView, not_negative};
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::attention_map::{AttentionKind, attention_map};
use crate::ops::elementwise::weighted_sum;
use crate::ops::mse::mse;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `sum_units mean (u_S - u_T)^2`, `u` the L2-normalised vector over channels of `sum_hw f^2`, `f` the output of a residual
/// body before it is added (HAST, Li et al., CVPR 2023, released code; weight 1000 for CIFAR-10, 2000 for CIFAR-100, 4000
/// for ImageNet there). Ours: in a network without residual sums `f` are the maps that its blocks end in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureAlignment {
    pub weight: f32,
}

impl Default for FeatureAlignment {
    fn default() -> Self {
        Self { weight: 1000.0 }
    }
}

impl StudentTerm for FeatureAlignment {
    fn name(&self) -> &'static str {
        "feature_alignment"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs_bodies(&self) -> bool {
        true
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        has_maps(self.name(), teacher)?;
        not_negative(self.name(), "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var> {
        let mut terms = Vec::with_capacity(view.bodies.len());
        for (s, t) in view.bodies.iter().zip(view.teacher_bodies) {
            let u = attention_map(tape, s, AttentionKind::Channel, 2.0)?;
            let target = attention_map(tape, &Var::constant(t.clone()), AttentionKind::Channel, 2.0)?;
            terms.push(mse(tape, &u, &target)?);
        }
        let weighted: Vec<(f32, &Var)> = terms.iter().map(|t| (1.0, t)).collect();
        weighted_sum(tape, &weighted)
    }
}

/// Refuses a teacher with nothing to compare: neither residual additions nor blocks that end in a map.
pub(super) fn has_maps(term: &str, teacher: Option<&Graph>) -> Result<()> {
    let Some(graph) = teacher.filter(|g| g.compared_maps().map_or(true, |maps| maps.is_empty())) else { return Ok(()) };
    let detail = format!(
        "compares maps of student and teacher, but {} has no residual sums and no blocks that end in a map; set it to 0",
        graph.name
    );
    Err(Error::config(format!("{term}.weight"), detail))
}
