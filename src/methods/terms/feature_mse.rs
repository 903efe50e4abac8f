//! Squared distance of the compared maps.

use super::feature_alignment::has_maps;
use super::{StudentTerm, StudentView, not_negative};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::elementwise::weighted_sum;
use crate::ops::mse::mse;
use serde::{Deserialize, Serialize};

/// `sum_k MSE(f_k^S, f_k^T)` over the outputs of all residual bodies before they are added, means over all elements. PLF
/// (Fan et al., CVPR 2024), paper; which features are compared is RECONSTRUCTED. Weight there 100 for CIFAR, 4000 for
/// ImageNet. Ours: in a network without residual sums the maps that its blocks end in ([`Graph::compared_maps`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeatureMse {
    pub weight: f32,
}

impl Default for FeatureMse {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl StudentTerm for FeatureMse {
    fn name(&self) -> &'static str {
        "feature_mse"
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
        let pairs = view.bodies.iter().zip(view.teacher_bodies);
        let terms = pairs.map(|(s, t)| mse(tape, s, &Var::constant(t.clone()))).collect::<Result<Vec<_>>>()?;
        let weighted: Vec<(f32, &Var)> = terms.iter().map(|t| (1.0, t)).collect();
        weighted_sum(tape, &weighted)
    }
}
