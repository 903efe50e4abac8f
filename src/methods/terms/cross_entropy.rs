//! Label cross-entropy: the images must be what the teacher calls their class; the student must agree with the labels.

use super::{GeneratorTerm, StudentTerm, StudentView, TeacherView, not_negative};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::loss::softmax_cross_entropy;
use serde::{Deserialize, Serialize};

/// `CE(T(x), y)`, mean over the batch. GDFQ, paper and released code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrossEntropy {
    pub weight: f32,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl GeneratorTerm for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative("cross_entropy", "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        softmax_cross_entropy(tape, &view.logits, &view.conditions.labels)
    }
}

/// `CE(S(x), y)`, mean over the batch. GDFQ, paper and released code; AIT (Choi et al., CVPR 2022) drops it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StudentCrossEntropy {
    pub weight: f32,
}

impl Default for StudentCrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

impl StudentTerm for StudentCrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative("cross_entropy", "weight", self.weight)
    }
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var> {
        softmax_cross_entropy(tape, &view.logits, view.labels)
    }
}
