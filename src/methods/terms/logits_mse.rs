//! Squared distance of the logits.

use super::{StudentTerm, StudentView, not_negative};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::mse::mse;
use serde::{Deserialize, Serialize};

/// `MSE(S(x), T(x))` over batch and classes: KMDFQ (Xu et al., TCSVT 2023, released code), in place of GDFQ's KL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogitsMse {
    pub weight: f32,
}

impl Default for LogitsMse {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl StudentTerm for LogitsMse {
    fn name(&self) -> &'static str {
        "logits_mse"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var> {
        mse(tape, &view.logits, &Var::constant(view.teacher_logits.clone()))
    }
}
