//! Distillation of the teacher's logits.

use super::{OfLogits, StudentTerm, StudentView, not_negative};
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::loss::{KlReduction, kl_distill};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `T^2 KL(softmax(teacher / T) || softmax(student / T))` (Hinton et al. 2015; GDFQ with T = 20).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kl {
    pub weight: f32,
    pub temperature: f32,
    pub reduction: KlReductionName,
}

/// What the sum over batch and classes is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlReductionName {
    /// By the batch (the textbook mean; IntraQ, HAST, ClusterQ, SynQ).
    BatchMean,
    /// Also by the number of classes (PyTorch's default; the released code of GDFQ and AIT).
    ElementMean,
}

impl From<KlReductionName> for KlReduction {
    fn from(name: KlReductionName) -> Self {
        match name {
            KlReductionName::BatchMean => Self::BatchMean,
            KlReductionName::ElementMean => Self::ElementMean,
        }
    }
}

impl Default for Kl {
    fn default() -> Self {
        Self { weight: 1.0, temperature: 20.0, reduction: KlReductionName::BatchMean }
    }
}

impl StudentTerm for Kl {
    fn name(&self) -> &'static str {
        "kl"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative("kl", "weight", self.weight)?;
        if self.temperature.is_finite() && self.temperature > 0.0 {
            return Ok(());
        }
        Err(Error::config("kl.temperature", format!("{} must be finite and positive", self.temperature)))
    }
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var> {
        kl_distill(tape, &view.logits, view.teacher_logits, self.temperature, self.reduction.into())
    }
    fn of_logits(&self) -> Option<OfLogits> {
        Some(OfLogits::Kl { temperature: self.temperature, reduction: self.reduction.into() })
    }
}
