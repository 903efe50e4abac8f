//! AdaDFQ's game between generator and student.

use super::{GeneratorTerm, Needs, StudentTerm, StudentView, TeacherView, not_negative};
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::elementwise::{add, sub, weighted_sum};
use crate::ops::entropy::{entropy_margin, mean_entropy};
use crate::ops::loss::softmax_cross_entropy;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Samples between disagreement and agreement: `margin(H'(a - b); low, high) + disagree CE(a - b, y) + agree CE(a + b, y)`
/// of teacher's and student's logits `a`, `b`, `H'` the scaled entropy; gradients through both networks to the images
/// (AdaDFQ, Qian et al., CVPR 2023, released code; AdaSG, AAAI 2023, has 0.3 for `low` and 0.1 for `disagree`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adaptability {
    pub weight: f32,
    pub low: f32,
    pub high: f32,
    pub disagree: f32,
    pub agree: f32,
}

impl Default for Adaptability {
    fn default() -> Self {
        Self { weight: 1.0, low: 0.1, high: 0.8, disagree: 0.2, agree: 0.1 }
    }
}

impl GeneratorTerm for Adaptability {
    fn name(&self) -> &'static str {
        "adaptability"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { student: true, ..Needs::default() }
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        let values = [("weight", self.weight), ("low", self.low), ("high", self.high)];
        for (key, v) in values.into_iter().chain([("disagree", self.disagree), ("agree", self.agree)]) {
            not_negative(self.name(), key, v)?;
        }
        if self.low <= self.high && self.high <= 1.0 {
            return Ok(());
        }
        Err(Error::config("adaptability.low", "needs low <= high <= 1"))
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let Some(student) = view.student_logits.clone() else {
            return Err(Error::config("adaptability", "needs the student in the loop; use it in generator_loss"));
        };
        let labels = &view.conditions.labels;
        let difference = sub(tape, &view.logits, &student)?;
        let sum = add(tape, &view.logits, &student)?;
        let margin = entropy_margin(tape, &difference, self.low, self.high)?;
        let disagree = softmax_cross_entropy(tape, &difference, labels)?;
        let agree = softmax_cross_entropy(tape, &sum, labels)?;
        weighted_sum(tape, &[(1.0, &margin), (self.disagree, &disagree), (self.agree, &agree)])
    }
}

/// `-T^2 mean_b H(softmax((T(x) - S(x)) / T))`: the student maximises the entropy of the difference (AdaDFQ, released code;
/// temperature 20 for CIFAR, 5 for ImageNet). Up to a constant that is negative.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntropyDifference {
    pub weight: f32,
    pub temperature: f32,
}

impl Default for EntropyDifference {
    fn default() -> Self {
        Self { weight: 1.0, temperature: 20.0 }
    }
}

impl StudentTerm for EntropyDifference {
    fn name(&self) -> &'static str {
        "entropy_difference"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn check(&self, _: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)?;
        if self.temperature.is_finite() && self.temperature > 0.0 {
            return Ok(());
        }
        Err(Error::config("entropy_difference.temperature", format!("{} must be positive", self.temperature)))
    }
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var> {
        let teacher = Var::constant(view.teacher_logits.clone());
        let difference = sub(tape, &teacher, &view.logits)?;
        let entropy = mean_entropy(tape, &difference, self.temperature)?;
        weighted_sum(tape, &[(-self.temperature * self.temperature, &entropy)])
    }
}
