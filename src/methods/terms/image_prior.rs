//! What images look like without any network: neighbouring pixels are alike, and values small.

use super::{GeneratorTerm, TeacherView, not_negative};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::{sample_norm::sample_norm, total_variation::total_variation};
use serde::{Deserialize, Serialize};

/// `sum_o |d_o|`, the L2 norms of all differences of neighbours in four directions, of the whole batch: TV2 of DSG's
/// released PTQ code (weight 0.01), after DeepInversion (Yin et al. 2020).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TotalVariation {
    pub weight: f32,
}

/// `mean_b |x_b|`, from the same codes (weight 0.01).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct L2 {
    pub weight: f32,
}

impl Default for TotalVariation {
    fn default() -> Self {
        Self { weight: 0.01 }
    }
}

impl Default for L2 {
    fn default() -> Self {
        Self { weight: 0.01 }
    }
}

impl GeneratorTerm for TotalVariation {
    fn name(&self) -> &'static str {
        "total_variation"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        total_variation(tape, view.images)
    }
}

impl GeneratorTerm for L2 {
    fn name(&self) -> &'static str {
        "l2"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        sample_norm(tape, view.images)
    }
}
