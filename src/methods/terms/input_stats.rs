//! Statistics of the image itself.

use super::{GeneratorTerm, TeacherView, not_negative};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::sample_stats::sample_stats;
use crate::ops::slack_stats_loss::{ChannelReduction, SlackSpec, slack_sample_stats_loss};
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// `mean_b sum_c [mean_bc^2 + (std_bc - 1)^2]` over the pixels of every normalised image: a layer 0 of the batch-norm
/// statistics, whose target is what normalisation gives real images. ZeroQ (Cai et al. 2020), DSG's PTQ code and Genie,
/// released codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputStats {
    pub weight: f32,
}

impl Default for InputStats {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl GeneratorTerm for InputStats {
    fn name(&self) -> &'static str {
        "input_stats"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let (mean, var) = sample_stats(tape, view.images)?;
        let (device, c) = (mean.value.device(), mean.shape()[1]);
        let zero = Tensor::zeros(&device, [c], mean.dtype())?;
        let mut one = Tensor::empty(&device, [c], mean.dtype())?;
        one.fill(1.0)?;
        let spec = SlackSpec { reduction: ChannelReduction::Sum, ..SlackSpec::default() };
        slack_sample_stats_loss(tape, &mean, &var, &zero, &one, None, spec)
    }
}
