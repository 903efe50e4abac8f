//! Distance of a batch's statistics from the teacher's running ones.

use super::{GeneratorTerm, Needs, TeacherView, not_negative};
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::bn_stats_loss::{Pair, bn_stats_loss};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `(1/L) sum_l [MSE(mean_l, running_mean_l) + MSE(var_l, running_var_l)]` over the inputs of the `L` batch norms, with
/// biased variances (not standard deviations). GDFQ (Xu et al., ECCV 2020), paper and released code; weight 0.1 there,
/// 1 in KMDFQ, AdaDFQ, IntraQ and HAST.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BnStats {
    pub weight: f32,
}

impl Default for BnStats {
    fn default() -> Self {
        Self { weight: 0.1 }
    }
}

impl GeneratorTerm for BnStats {
    fn name(&self) -> &'static str {
        "bn_stats"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { bn_stats: true, ..Needs::default() }
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        has_batch_norm(self.name(), teacher)?;
        not_negative(self.name(), "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let targets = |node: usize| {
            let norm = view.teacher.graph.nodes[node].kind.batch_norm().expect("statistics come from batch norms");
            [&view.teacher.buffers[&norm.mean], &view.teacher.buffers[&norm.var]]
        };
        let layers: Vec<Pair> =
            (view.bn_stats.iter()).map(|s| Pair { stats: [&s.mean, &s.var], targets: targets(s.node) }).collect();
        bn_stats_loss(tape, &layers)
    }
}

/// Refuses a teacher without batch norms: there would be no statistics to match.
pub(super) fn has_batch_norm(term: &str, teacher: Option<&Graph>) -> Result<()> {
    let Some(graph) = teacher.filter(|g| g.running_statistics().is_empty()) else { return Ok(()) };
    let detail = format!(
        "matches statistics of batch norms, and {} has none (they may be folded into its convolutions). Leave --method out \
         (the default recipe then does without them), set this weight to 0, or give --images",
        graph.name
    );
    Err(Error::config(format!("{term}.weight"), detail))
}

/// Whether a batch norm's input `x` is a map, so that every sample has statistics of its own. Rows, and maps of one pixel, have
/// them over the batch only.
pub(super) fn has_sample_stats(x: &Var) -> bool {
    matches!(x.shape()[..], [_, h, w, _] if h * w > 1)
}
