//! DSG's sample correlation inhibition.

use super::{GeneratorTerm, TeacherView, not_negative};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::correlation_inhibition::correlation_inhibition;
use crate::ops::random;
use serde::{Deserialize, Serialize};

/// Draws of the reference noise, away from the loop's.
const NOISE_STREAM: u64 = 1 << 52;

/// `mean_{i != j} (S_ij - R_ij)^2`, `S` the cosines between images, `R` zero or those of fresh noise. From the extended DSG
/// (Qin et al., TPAMI 2023). RECONSTRUCTED: the released code's form passes no gradient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Correlation {
    pub weight: f32,
    /// Compare with the correlations of noise instead of zero.
    pub noise: bool,
}

impl Default for Correlation {
    fn default() -> Self {
        Self { weight: 1.0, noise: false }
    }
}

impl GeneratorTerm for Correlation {
    fn name(&self) -> &'static str {
        "correlation"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let x = view.images;
        let noise = if self.noise {
            Some(random::normal(&x.value.device(), x.shape(), view.seed, view.stream(NOISE_STREAM))?)
        } else {
            None
        };
        correlation_inhibition(tape, x, noise.as_ref())
    }
}
