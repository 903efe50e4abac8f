//! Label cross-entropy: the images must be what the teacher calls their class; the student must agree with the labels.

use super::{GeneratorTerm, Needs, OfLogits, StudentTerm, StudentView, TeacherView, not_negative, served};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::gated_cross_entropy::{Focal, difficulty_gate, gated_cross_entropy};
use crate::ops::loss::softmax_cross_entropy;
use crate::ops::margin_cross_entropy::angular_margin;
use serde::{Deserialize, Serialize};

/// `CE(T(x), y)`, mean over the batch (GDFQ, paper and released code), made harder on request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrossEntropy {
    pub weight: f32,
    /// Radians added to the angle between a sample's features and its class centre: LRQ's adversarial margin add (arXiv
    /// 2211.06816), of which the abstract says this much; its form and place are RECONSTRUCTED.
    pub margin: f32,
    /// Exponent of the focal factor `(1 - p_y)^gamma`: HAST's hard samples (2 for CIFAR, 0.5 for ImageNet in its code).
    pub gamma: f32,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0, margin: 0.0, gamma: 0.0 }
    }
}

impl GeneratorTerm for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { head: self.margin > 0.0, ..Needs::default() }
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        for (key, v) in [("weight", self.weight), ("margin", self.margin), ("gamma", self.gamma)] {
            not_negative("cross_entropy", key, v)?;
        }
        match teacher {
            Some(g) if self.margin > 0.0 => served("cross_entropy", g.linear_head("cross_entropy.margin")),
            _ => Ok(()),
        }
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let labels = &view.conditions.labels;
        let mut logits = view.logits.clone();
        if self.margin > 0.0 {
            let head = view.teacher.graph.linear_head("cross_entropy.margin")?;
            let centres = view.teacher.params.get(&head.weight)?;
            let bias = head.bias.as_ref().map(|b| view.teacher.params.get(b)).transpose()?;
            let features = view.features.clone().expect("asked for by needs");
            logits = angular_margin(tape, &logits, &features, &centres, bias.as_ref(), labels, self.margin)?;
        }
        if self.gamma > 0.0 {
            let focal = Focal { gamma: self.gamma, stop: false };
            return gated_cross_entropy(tape, &logits, labels, None, Some(focal));
        }
        softmax_cross_entropy(tape, &logits, labels)
    }
}

/// `CE(S(x), y)`, mean over the batch. GDFQ, paper and released code; AIT (Choi et al., CVPR 2022) drops it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StudentCrossEntropy {
    pub weight: f32,
    /// Only samples whose teacher difficulty `1 - p_y` lies below it count: SynQ (Kim et al., ICLR 2025), 0.5 there, 0.7
    /// for CIFAR-10. 1 lets all pass.
    pub gate: f32,
}

impl Default for StudentCrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0, gate: 1.0 }
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
        not_negative("cross_entropy", "weight", self.weight)?;
        not_negative("cross_entropy", "gate", self.gate)
    }
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var> {
        if self.gate < 1.0 {
            let weights = difficulty_gate(view.teacher_logits, &view.labels.value, self.gate)?;
            return gated_cross_entropy(tape, &view.logits, view.labels, Some(&weights), None);
        }
        softmax_cross_entropy(tape, &view.logits, view.labels)
    }
    fn of_logits(&self) -> Option<OfLogits> {
        (self.gate >= 1.0).then_some(OfLogits::CrossEntropy)
    }
}
