//! Decoupled distillation.

use super::{StudentTerm, StudentView, not_negative};
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::dkd::{DkdSpec, dkd};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `T^2 mean_b(alpha TCKD + beta NCKD)`: target class against the rest, and the rest among themselves (Zhao et al., CVPR
/// 2022; used by LRQ, arXiv 2211.06816, abstract). Defaults are those of its authors' code for CIFAR-100 ResNets; LRQ's own
/// values are not public.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dkd {
    pub weight: f32,
    pub alpha: f32,
    pub beta: f32,
    pub temperature: f32,
}

impl Default for Dkd {
    fn default() -> Self {
        Self { weight: 1.0, alpha: 1.0, beta: 2.0, temperature: 4.0 }
    }
}

impl StudentTerm for Dkd {
    fn name(&self) -> &'static str {
        "dkd"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        for (key, v) in [("weight", self.weight), ("alpha", self.alpha), ("beta", self.beta)] {
            not_negative(self.name(), key, v)?;
        }
        if self.temperature.is_finite() && self.temperature > 0.0 {
            return Ok(());
        }
        Err(Error::config("dkd.temperature", format!("{} must be positive", self.temperature)))
    }
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var> {
        let spec = DkdSpec { alpha: self.alpha, beta: self.beta, temperature: self.temperature };
        dkd(tape, &view.logits, view.teacher_logits, view.labels, spec)
    }
}
