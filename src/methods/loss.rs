//! Sums of terms: one table per term in a recipe, `[generator_loss.bn_stats]`. A term that is absent or has weight 0 is
//! not computed.

use super::terms::{
    Adaptability, AttentionCenter, AttentionConsistency, BnStats, Cam, Cluster, Correlation, CrossEntropy, Dkd,
    EntropyDifference, FeatureAlignment, FeatureMse, GeneratorTerm, InputStats, Kl, L2, LogitsMse, MarginalDistance,
    Needs, OfLogits, Pair, SlackStats, SoftLabel, StudentCrossEntropy, StudentTerm, StudentView, TotalVariation,
};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::elementwise::weighted_sum;
use crate::ops::logits_loss::{Hard, LogitsLoss, Soft, logits_loss};
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What a generator, or stored images themselves, are trained for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorLoss {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<CrossEntropy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bn_stats: Option<BnStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slack_stats: Option<SlackStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_label: Option<SoftLabel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marginal_distance: Option<MarginalDistance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_center: Option<AttentionCenter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention_consistency: Option<AttentionConsistency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<Pair>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<Correlation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptability: Option<Adaptability>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_stats: Option<InputStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_variation: Option<TotalVariation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l2: Option<L2>,
}

/// What the student is trained for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StudentLoss {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_entropy: Option<StudentCrossEntropy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<Kl>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits_mse: Option<LogitsMse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_alignment: Option<FeatureAlignment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_mse: Option<FeatureMse>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dkd: Option<Dkd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy_difference: Option<EntropyDifference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cam: Option<Cam>,
}

fn generator_term<T: GeneratorTerm>(t: &Option<T>) -> Option<&dyn GeneratorTerm> {
    t.as_ref().map(|t| t as &dyn GeneratorTerm)
}

fn student_term<T: StudentTerm>(t: &Option<T>) -> Option<&dyn StudentTerm> {
    t.as_ref().map(|t| t as &dyn StudentTerm)
}

impl GeneratorLoss {
    /// Every term with its default settings: what a recipe may contain.
    pub fn full() -> Self {
        Self {
            cross_entropy: Some(CrossEntropy::default()),
            bn_stats: Some(BnStats::default()),
            slack_stats: Some(SlackStats::default()),
            soft_label: Some(SoftLabel::default()),
            marginal_distance: Some(MarginalDistance::default()),
            cluster: Some(Cluster::default()),
            attention_center: Some(AttentionCenter::default()),
            attention_consistency: Some(AttentionConsistency::default()),
            pair: Some(Pair::default()),
            correlation: Some(Correlation::default()),
            adaptability: Some(Adaptability::default()),
            input_stats: Some(InputStats::default()),
            total_variation: Some(TotalVariation::default()),
            l2: Some(L2::default()),
        }
    }

    /// All terms of the recipe, active or not.
    fn all(&self) -> impl Iterator<Item = &dyn GeneratorTerm> {
        // Named in full, so that a new field cannot be forgotten here.
        let Self {
            cross_entropy,
            bn_stats,
            slack_stats,
            soft_label,
            marginal_distance,
            cluster,
            attention_center,
            attention_consistency,
            pair,
            correlation,
            adaptability,
            input_stats,
            total_variation,
            l2,
        } = self;
        let list = [
            generator_term(cross_entropy),
            generator_term(bn_stats),
            generator_term(slack_stats),
            generator_term(soft_label),
            generator_term(marginal_distance),
            generator_term(cluster),
            generator_term(attention_center),
            generator_term(attention_consistency),
            generator_term(pair),
            generator_term(correlation),
            generator_term(adaptability),
            generator_term(input_stats),
            generator_term(total_variation),
            generator_term(l2),
        ];
        list.into_iter().flatten()
    }

    /// The terms that count.
    pub fn terms(&self) -> Vec<&dyn GeneratorTerm> {
        self.all().filter(|t| t.weight() != 0.0).collect()
    }

    /// What they want from the teacher together.
    pub fn needs(&self) -> Needs {
        self.terms().iter().fold(Needs::default(), |n, t| n.and(t.needs()))
    }

    /// Refuses settings that make no sense, and with a teacher also terms that it cannot serve.
    pub fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        self.all().try_for_each(|t| t.check(teacher.filter(|_| t.weight() != 0.0)))
    }
}

impl StudentLoss {
    /// Every term with its default settings: what a recipe may contain.
    pub fn full() -> Self {
        Self {
            cross_entropy: Some(StudentCrossEntropy::default()),
            kl: Some(Kl::default()),
            logits_mse: Some(LogitsMse::default()),
            feature_alignment: Some(FeatureAlignment::default()),
            feature_mse: Some(FeatureMse::default()),
            dkd: Some(Dkd::default()),
            entropy_difference: Some(EntropyDifference::default()),
            cam: Some(Cam::default()),
        }
    }

    fn all(&self) -> impl Iterator<Item = &dyn StudentTerm> {
        let Self { cross_entropy, kl, logits_mse, feature_alignment, feature_mse, dkd, entropy_difference, cam } = self;
        let list = [
            student_term(cross_entropy),
            student_term(kl),
            student_term(logits_mse),
            student_term(feature_alignment),
            student_term(feature_mse),
            student_term(dkd),
            student_term(entropy_difference),
            student_term(cam),
        ];
        list.into_iter().flatten()
    }

    /// The terms that count.
    pub fn terms(&self) -> Vec<&dyn StudentTerm> {
        self.all().filter(|t| t.weight() != 0.0).collect()
    }

    /// Whether a term compares maps inside the networks.
    pub fn needs_bodies(&self) -> bool {
        self.terms().iter().any(|t| t.needs_bodies())
    }

    /// Whether a term compares the networks' last feature maps.
    pub fn needs_head(&self) -> bool {
        self.terms().iter().any(|t| t.needs_head())
    }

    /// The terms of a batch and their sum, all times `factor`. Those over the logits are computed together.
    pub fn total(&self, tape: &mut Tape, view: &StudentView, factor: f32) -> Result<Total> {
        let terms = self.terms();
        let (mut hard, mut soft) = (None, None);
        for term in &terms {
            let weight = factor * term.weight();
            match term.of_logits() {
                Some(OfLogits::CrossEntropy) => hard = Some(Hard { weight, labels: &view.labels.value }),
                Some(OfLogits::Kl { temperature, reduction }) => {
                    soft = Some(Soft { weight, teacher: view.teacher_logits, temperature, reduction });
                }
                None => {}
            }
        }
        let joint =
            if hard.is_none() && soft.is_none() { None } else { Some(logits_loss(tape, &view.logits, hard, soft)?) };
        let (mut parts, mut rest) = (Vec::with_capacity(terms.len()), Vec::new());
        for term in terms {
            let own = match (term.of_logits(), &joint) {
                (Some(OfLogits::CrossEntropy), Some(LogitsLoss { hard: Some(own), .. }))
                | (Some(OfLogits::Kl { .. }), Some(LogitsLoss { soft: Some(own), .. })) => own.clone(),
                _ => {
                    let own = term.loss(tape, view)?;
                    rest.push((factor * term.weight(), own.clone()));
                    own.value
                }
            };
            parts.push((term.name(), own));
        }
        let loss = match joint {
            Some(joint) if rest.is_empty() => joint.total,
            joint => {
                let joint = joint.map(|j| (1.0, j.total));
                let all: Vec<(f32, &Var)> = joint.iter().chain(&rest).map(|(w, v)| (*w, v)).collect();
                weighted_sum(tape, &all)?
            }
        };
        Ok(Total { loss, parts })
    }

    /// As [`GeneratorLoss::check`].
    pub fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        self.all().try_for_each(|t| t.check(teacher.filter(|_| t.weight() != 0.0)))
    }
}

/// A weighted sum on the tape and its parts.
pub struct Total {
    pub loss: Var,
    parts: Vec<(&'static str, Tensor)>,
}

impl Total {
    /// Adds up `(name, weight, value)`.
    pub fn new(tape: &mut Tape, terms: Vec<(&'static str, f32, Var)>) -> Result<Self> {
        let weighted: Vec<(f32, &Var)> = terms.iter().map(|(_, w, v)| (*w, v)).collect();
        let loss = weighted_sum(tape, &weighted)?;
        Ok(Self { loss, parts: terms.into_iter().map(|(name, _, v)| (name, v.value)).collect() })
    }

    /// The terms' values, then their sum: one element each.
    pub fn values(&self) -> impl Iterator<Item = &Tensor> {
        self.parts.iter().map(|(_, v)| v).chain([&self.loss.value])
    }

    /// Adds a further loss to the sum, whose terms are not told apart; no gradients flow through the result.
    pub fn and(mut self, further: &Self) -> Result<Self> {
        let mut tape = Tape::inference(&self.loss.value.device());
        self.loss = weighted_sum(&mut tape, &[(1.0, &self.loss), (1.0, &further.loss)])?;
        Ok(self)
    }

    /// Reads the values (waits for the device).
    pub fn read(&self) -> Result<Losses> {
        let parts = self.parts.iter().map(|(n, v)| Ok((*n, v.item()? as f32))).collect::<Result<_>>()?;
        Ok(Losses { total: self.loss.value.item()? as f32, terms: parts })
    }
}

/// Values of a loss and of its terms, the latter without their weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    pub total: f32,
    pub terms: Vec<(&'static str, f32)>,
}
