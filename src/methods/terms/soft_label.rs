//! IntraQ's soft inception loss: images that the teacher is sure of to different degrees.

use super::{GeneratorTerm, TeacherView, not_negative};
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::graph::Graph;
use crate::ops::random::uniform;
use crate::ops::soft_label::soft_label;
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `mean_b (p_b - t_b)^2`, `p_b` the teacher's probability of the label, `t_b` for every second image (by a draw) uniform in
/// `low..1`, else 1 (IntraQ, Zhong et al., CVPR 2022, released code: `low` 0.95 for CIFAR-10, 0.6 for CIFAR-100, 1 for
/// ImageNet). A stored image keeps its target through all its iterations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoftLabel {
    pub weight: f32,
    pub low: f32,
}

impl Default for SoftLabel {
    fn default() -> Self {
        Self { weight: 1.0, low: 0.95 }
    }
}

/// Draws of targets, away from the loop's.
const TARGET_STREAM: u64 = 1 << 52;

impl GeneratorTerm for SoftLabel {
    fn name(&self) -> &'static str {
        "soft_label"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs_host(&self) -> bool {
        true
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)?;
        if (0.0..=1.0).contains(&self.low) {
            return Ok(());
        }
        Err(Error::config("soft_label.low", format!("{} is no probability; it must lie in 0..=1", self.low)))
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let n = view.logits.shape()[0];
        let draws = uniform(&Device::cpu(), [n, 2], view.seed, TARGET_STREAM + view.it)?;
        let target = |d: &[f32]| if d[0] < 0.5 { self.low + (1.0 - self.low) * d[1] } else { 1.0 };
        let targets: Vec<f32> = draws.host::<f32>().chunks_exact(2).map(target).collect();
        let targets = Tensor::from_slice(&view.logits.value.device(), [n], &targets)?;
        soft_label(tape, &view.logits, &view.conditions.labels, &targets)
    }
}
