//! ACQ's attention-centre matching: the teacher looks where the generator was told to put the object.

use super::{AttentionName, GeneratorTerm, Needs, TeacherView, not_negative};
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::attention_center::attention_center;
use crate::ops::mse::mean_squared_distance_beyond;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `mean_b |c(x_b) - p_b|^2`, `p` the centre that the generator was conditioned on, `c` the centre of mass of the spatial
/// attention `sum_c |f|^power` of the last feature map or of its Grad-CAM map, both in units of height and width. The condition and a
/// matching loss: ACQ (Li et al., arXiv 2301.07266), abstract. The attention, its layer, the centre and the distance are
/// RECONSTRUCTED, and so is `radius`, the reading of the journal version's coarse-grained matching: deviations up to it
/// cost nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttentionCenter {
    pub weight: f32,
    pub radius: f32,
    pub power: f32,
    pub attention: AttentionName,
}

impl Default for AttentionCenter {
    fn default() -> Self {
        Self { weight: 1.0, radius: 0.0, power: 2.0, attention: AttentionName::Activation }
    }
}

impl GeneratorTerm for AttentionCenter {
    fn name(&self) -> &'static str {
        "attention_center"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { head: true, ..Needs::default() }
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)?;
        not_negative(self.name(), "radius", self.radius)?;
        if !(self.power.is_finite() && self.power >= 1.0) {
            return Err(Error::config("attention_center.power", format!("{} must be at least 1", self.power)));
        }
        self.attention.check(self.name(), teacher)
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let Some(wanted) = view.conditions.centers.clone() else {
            return Err(Error::config("attention_center", "stored images have no centres; use it in generator_loss"));
        };
        let map = view.map.clone().expect("asked for by needs");
        let map = self.attention.of(tape, &map, view)?;
        let center = attention_center(tape, &map, self.power)?;
        mean_squared_distance_beyond(tape, &center, &wanted, self.radius)
    }
}
