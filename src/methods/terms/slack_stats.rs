//! DSG's slack distribution alignment: batch-norm statistics may differ within a margin.

use super::bn_stats::{has_batch_norm, has_sample_stats};
use super::{GeneratorTerm, Needs, TeacherView, not_negative};
use crate::autograd::{Tape, Var};
use crate::graph::{Forward, Graph, Network, Taps};
use crate::ops::channel_stats::channel_stats;
use crate::ops::elementwise::weighted_sum;
use crate::ops::random;
use crate::ops::sample_stats::sample_stats;
use crate::ops::slack_stats_loss::{
    ChannelReduction, SlackForm, SlackSpec, sample_weights, slack_margins, slack_sample_stats_loss, slack_stats_loss,
};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `(1/L) sum_l [hinge(|mean_l - running_mean_l| - delta_l)^2 + hinge(|std_l - running_std_l| - gamma_l)^2]`. The margins
/// are the `percentile` of these gaps for Gaussian images (DSG, Zhang et al., CVPR 2021; extended TPAMI 2023). Mean over
/// channels, so that GDFQ's weight keeps its meaning: RECONSTRUCTED scaling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlackStats {
    pub weight: f32,
    /// In 0..=1; 0 leaves no slack.
    pub percentile: f32,
    /// Layer-wise sample enhancement: statistics per sample, and sample `b` counts layer `b mod L` twice.
    pub enhance: bool,
    /// Statistics of every sample, also without enhancement (ZeroQ).
    pub per_sample: bool,
    pub form: SlackFormName,
    /// How channels and layers are combined; `form = "released"` always sums channels.
    pub reduction: SlackReductionName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlackReductionName {
    /// Means over channels and layers.
    Mean,
    /// Sums over both (ZeroQ; DSG's released PTQ code).
    Sum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlackFormName {
    /// The paper's.
    Hinge,
    /// The released training code's: variances, no hinge, sum over channels, channel `l` of layer `l` twice, statistics
    /// of the batch.
    Released,
}

impl Default for SlackStats {
    fn default() -> Self {
        Self {
            weight: 0.1,
            percentile: 0.9,
            enhance: true,
            per_sample: false,
            form: SlackFormName::Hinge,
            reduction: SlackReductionName::Mean,
        }
    }
}

impl SlackStats {
    fn per_sample(&self) -> bool {
        (self.enhance || self.per_sample) && self.form == SlackFormName::Hinge
    }

    /// Computes the statistics of all batch-norm inputs: per sample `[n c]` or of the batch `[c]`. Rows have only the latter.
    fn stats(&self, tape: &mut Tape, inputs: &[Var]) -> Result<Vec<(Var, Var)>> {
        let per_sample = |x: &Var| self.per_sample() && has_sample_stats(x);
        inputs.iter().map(|x| if per_sample(x) { sample_stats(tape, x) } else { channel_stats(tape, x) }).collect()
    }

    /// The margins of every layer, from one batch of Gaussian images through the teacher.
    fn margins(&self, teacher: &mut Network, images: &Var, seed: u64) -> Result<Vec<(f32, f32)>> {
        let device = teacher.device();
        let x = Var::constant(random::normal(&device, images.shape(), seed, MARGIN_STREAM)?);
        let mut tape = Tape::inference(&device);
        let taps = Taps { bn_stats: false, nodes: teacher.graph.batch_norm_inputs() };
        let out = teacher.forward(&mut tape, &[x], Forward::eval(), &taps)?;
        let stats = self.stats(&mut tape, &out.taps)?;
        let q = f64::from(self.percentile);
        let targets = running(teacher);
        stats
            .iter()
            .zip(&targets)
            .map(|((m, v), (mean, var))| slack_margins(&m.value, &v.value, mean, var, q))
            .collect()
    }
}

/// Draws of the margins' images, away from the loop's.
const MARGIN_STREAM: u64 = 1 << 50;

/// Running mean and variance of every batch norm, in order.
pub(super) fn running(network: &Network) -> Vec<(Tensor, Tensor)> {
    let of = |name: &String| network.buffers[name].clone();
    network.graph.running_statistics().into_iter().map(|(mean, var)| (of(mean), of(var))).collect()
}

impl GeneratorTerm for SlackStats {
    fn name(&self) -> &'static str {
        "slack_stats"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { bn_inputs: true, ..Needs::default() }
    }
    fn needs_host(&self) -> bool {
        self.enhance && self.per_sample()
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        has_batch_norm(self.name(), teacher)?;
        not_negative(self.name(), "weight", self.weight)?;
        if (0.0..=1.0).contains(&self.percentile) {
            return Ok(());
        }
        Err(Error::config("slack_stats.percentile", format!("{} must lie in 0..=1", self.percentile)))
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let margins = match view.memory.margins.take() {
            Some(known) => known,
            None if self.percentile == 0.0 => vec![(0.0, 0.0); view.bn_inputs.len()],
            None => self.margins(view.teacher, view.images, view.seed)?,
        };
        let stats = self.stats(tape, &view.bn_inputs)?;
        let targets = running(view.teacher);
        let layers = stats.len();
        let mut terms = Vec::with_capacity(layers);
        for (l, ((mean, var), (target_mean, target_var))) in stats.iter().zip(&targets).enumerate() {
            let mut spec = SlackSpec { mean: margins[l].0, spread: margins[l].1, ..SlackSpec::default() };
            if self.reduction == SlackReductionName::Sum {
                spec.reduction = ChannelReduction::Sum;
            }
            terms.push(if self.form == SlackFormName::Released {
                spec.reduction = ChannelReduction::Sum;
                spec.form = SlackForm::Released { doubled: Some(l) };
                slack_stats_loss(tape, mean, var, target_mean, target_var, spec)?
            } else if mean.shape().len() == 2 {
                let device = mean.value.device();
                let weights =
                    if self.enhance { Some(sample_weights(&device, mean.shape()[0], l, layers)?) } else { None };
                slack_sample_stats_loss(tape, mean, var, target_mean, target_var, weights.as_ref(), spec)?
            } else {
                slack_stats_loss(tape, mean, var, target_mean, target_var, spec)?
            });
        }
        view.memory.margins = Some(margins);
        let share = if self.reduction == SlackReductionName::Sum { 1.0 } else { 1.0 / layers as f32 };
        let weighted: Vec<(f32, &Var)> = terms.iter().map(|t| (share, t)).collect();
        weighted_sum(tape, &weighted)
    }
}
