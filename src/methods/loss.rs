//! Sums of terms: one table per term in a recipe, `[generator_loss.bn_stats]`. A term that is absent or has weight 0 is
//! not computed.

use super::terms::{BnStats, CrossEntropy, GeneratorTerm, Kl, Needs, StudentCrossEntropy, StudentTerm};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::elementwise::weighted_sum;
use serde::{Deserialize, Serialize};

/// What a generator, or stored images themselves, are trained for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorLoss {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<CrossEntropy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn_stats: Option<BnStats>,
}

/// What the student is trained for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StudentLoss {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<StudentCrossEntropy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<Kl>,
}

impl GeneratorLoss {
    /// Every term with its default settings: what a recipe may contain.
    pub fn full() -> Self {
        Self { cross_entropy: Some(CrossEntropy::default()), bn_stats: Some(BnStats::default()) }
    }

    /// All terms of the recipe, active or not.
    fn all(&self) -> Vec<&dyn GeneratorTerm> {
        let mut list: Vec<&dyn GeneratorTerm> = Vec::new();
        list.extend(self.cross_entropy.as_ref().map(|t| t as &dyn GeneratorTerm));
        list.extend(self.bn_stats.as_ref().map(|t| t as &dyn GeneratorTerm));
        list
    }

    /// The terms that count.
    pub fn terms(&self) -> Vec<&dyn GeneratorTerm> {
        self.all().into_iter().filter(|t| t.weight() != 0.0).collect()
    }

    /// What they want from the teacher together.
    pub fn needs(&self) -> Needs {
        self.terms().iter().fold(Needs::default(), |n, t| n.and(t.needs()))
    }

    /// Refuses settings that make no sense, and with a teacher also terms that it cannot serve.
    pub fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        self.all().iter().try_for_each(|t| t.check(teacher.filter(|_| t.weight() != 0.0)))
    }
}

impl StudentLoss {
    /// Every term with its default settings: what a recipe may contain.
    pub fn full() -> Self {
        Self { cross_entropy: Some(StudentCrossEntropy::default()), kl: Some(Kl::default()) }
    }

    fn all(&self) -> Vec<&dyn StudentTerm> {
        let mut list: Vec<&dyn StudentTerm> = Vec::new();
        list.extend(self.cross_entropy.as_ref().map(|t| t as &dyn StudentTerm));
        list.extend(self.kl.as_ref().map(|t| t as &dyn StudentTerm));
        list
    }

    /// The terms that count.
    pub fn terms(&self) -> Vec<&dyn StudentTerm> {
        self.all().into_iter().filter(|t| t.weight() != 0.0).collect()
    }

    /// As [`GeneratorLoss::check`].
    pub fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        self.all().iter().try_for_each(|t| t.check(teacher.filter(|_| t.weight() != 0.0)))
    }
}

/// A weighted sum on the tape and its parts.
pub struct Total {
    pub loss: Var,
    parts: Vec<(&'static str, Var)>,
}

impl Total {
    /// Adds up `(name, weight, value)`.
    pub fn new(tape: &mut Tape, terms: Vec<(&'static str, f32, Var)>) -> Result<Self> {
        let weighted: Vec<(f32, &Var)> = terms.iter().map(|(_, w, v)| (*w, v)).collect();
        let loss = weighted_sum(tape, &weighted)?;
        Ok(Self { loss, parts: terms.into_iter().map(|(name, _, v)| (name, v.detach())).collect() })
    }

    /// Reads the values (waits for the device).
    pub fn read(&self) -> Result<Losses> {
        let parts = self.parts.iter().map(|(n, v)| Ok((*n, v.value.item()? as f32))).collect::<Result<_>>()?;
        Ok(Losses { total: self.loss.value.item()? as f32, terms: parts })
    }
}

/// Values of a loss and of its terms, the latter without their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    pub total: f32,
    pub terms: Vec<(&'static str, f32)>,
}

impl Losses {
    /// The value of a term, if it was computed.
    pub fn of(&self, term: &str) -> Option<f32> {
        self.terms.iter().find(|(n, _)| *n == term).map(|(_, v)| *v)
    }
}
