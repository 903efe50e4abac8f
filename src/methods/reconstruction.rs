//! Settings of block reconstruction: after calibration each block of the student learns its rounding.

use super::recipe::{Recipe, WeightRanges};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Genie-M (Jeon et al., CVPR 2023, released code): AdaRound's learned rounding (Nagel et al. 2020) with learned steps and
/// activation ranges and QDrop (Wei et al. 2022), block after block. The defaults are ours, for some hundred iterations;
/// Genie's 20000 have `rounding_lr` 1e-3, `step_lr` 1e-4 and `range_lr` 4e-5 (absolute both), `penalty` 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReconstructionRecipe {
    /// Adam iterations per block.
    pub iters: u64,
    /// Stored images per iteration, drawn with replacement.
    pub batch: usize,
    /// Of the rounding variables; constant.
    pub rounding_lr: f32,
    /// Of the weights' steps, relative to each; half a cosine to 0.
    pub step_lr: f32,
    /// Of the ends of activation ranges, in units of the activations; half a cosine to 0.
    pub range_lr: f32,
    /// Part of a block's input elements that come from the quantized blocks before it; the rest are the teacher's.
    pub mix: f32,
    /// Part of the activations inside a block that are not quantized (QDrop).
    pub drop: f32,
    /// Weight of `sum(1 - |2h - 1|^beta)` beside the block's error (summed over channels, mean over the rest).
    pub penalty: f32,
    /// Part of the iterations before the penalty sets in.
    pub penalty_start: f32,
    /// `beta` falls from the first to the second, linearly.
    pub beta_first: f32,
    pub beta_last: f32,
}

impl Default for ReconstructionRecipe {
    fn default() -> Self {
        Self {
            iters: 400,
            batch: 32,
            rounding_lr: 1e-2,
            step_lr: 1e-3,
            range_lr: 5e-3,
            mix: 0.5,
            drop: 0.5,
            penalty: 0.01,
            penalty_start: 0.2,
            beta_first: 20.0,
            beta_last: 2.0,
        }
    }
}

impl ReconstructionRecipe {
    /// Refuses what cannot work in `recipe`, naming the key.
    pub(super) fn check(&self, recipe: &Recipe) -> Result<()> {
        let need = |key: &str, ok: bool, what: &str| {
            if ok { Ok(()) } else { Err(Error::config(format!("reconstruction.{key}"), what)) }
        };
        need("iters", (1..=10_000_000).contains(&self.iters), "must be in 1..=10000000")?;
        need("batch", (1..=65_535).contains(&self.batch), "must be in 1..=65535")?;
        for (key, v) in [
            ("rounding_lr", self.rounding_lr),
            ("step_lr", self.step_lr),
            ("range_lr", self.range_lr),
            ("penalty", self.penalty),
        ] {
            need(key, v.is_finite() && v >= 0.0, "must be finite and not negative")?;
        }
        for (key, v) in [("mix", self.mix), ("drop", self.drop)] {
            need(key, (0.0..=1.0).contains(&v), "must lie in 0..=1")?;
        }
        need("penalty_start", (0.0..1.0).contains(&self.penalty_start), "must lie in 0..1")?;
        need("beta_last", self.beta_last >= 1.0, "must be at least 1")?;
        need(
            "beta_first",
            self.beta_first >= self.beta_last && self.beta_first <= 100.0,
            "must lie between beta_last and 100",
        )?;
        let images = recipe.images.as_ref().is_some_and(|i| i.count > 0);
        need("iters", images, "blocks are rebuilt on stored images; set images.count")?;
        let search = recipe.ranges.weights == WeightRanges::Search;
        need("iters", search, "learned rounding belongs to stored ranges; set ranges.weights = \"search\"")?;
        let calibrated = recipe.ranges.batches > 0;
        need("iters", calibrated, "blocks start from calibrated ranges; set ranges.batches")?;
        let alike = recipe.student.bn == recipe.teacher_bn;
        need("iters", alike, "compares blocks of student and teacher; set student.bn and teacher_bn alike")
    }
}
