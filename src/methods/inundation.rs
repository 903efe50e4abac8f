//! Settings of gradient inundation.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Gradient inundation (AIT, Choi et al., CVPR 2022): see `optim::inundation`. Absent, or with `tau = 0`, it is off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InundationRecipe {
    /// Share of each weight tensor's codes that a step must flip. Released code: 1e-3 for CIFAR, 1e-4 for ImageNet, divided
    /// by ten where the rate is. Here it falls with the student's schedule.
    pub tau: f32,
    /// During the first `cap_steps` student steps doubling ends when the factor on the rate exceeds this; 0 for never.
    /// Released code: 100 during the first epoch after warm-up, 200 steps.
    pub cap: f32,
    pub cap_steps: u64,
    /// Halvings of the interval after doubling; released code: 5.
    pub bisections: u32,
}

impl Default for InundationRecipe {
    fn default() -> Self {
        Self { tau: 1e-3, cap: 100.0, cap_steps: 200, bisections: 5 }
    }
}

impl InundationRecipe {
    /// Refuses settings that make no sense, and a weight decay beside them.
    pub(super) fn check(&self, weight_decay: f32) -> Result<()> {
        let require = |key: &str, ok: bool, what: &str| if ok { Ok(()) } else { Err(Error::config(key, what)) };
        require("student.inundation.tau", (0.0..1.0).contains(&self.tau), "must lie in 0..1 (0: off)")?;
        require(
            "student.inundation.cap",
            self.cap == 0.0 || (self.cap.is_finite() && self.cap >= 1.0),
            "must be at least 1, or 0 for none",
        )?;
        require("student.inundation.bisections", self.bisections <= 32, "more than 32 halvings find nothing new")?;
        require(
            "student.weight_decay",
            weight_decay == 0.0 || self.tau == 0.0,
            "must be 0 with student.inundation, which would lengthen the decay with the step",
        )
    }
}
