//! ACQ's adversarial loss of two samples made under one condition.

use super::{AttentionName, GeneratorTerm, Needs, TeacherView, not_negative, served};
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::attention_map::{AttentionKind, attention_map};
use crate::ops::pair_loss::{PairForm, pair_loss};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Pushes the two halves of a batch apart, which share labels and centres (`generator.paired`). That samples of one
/// condition are set against each other, so that the generator does not lean on the condition alone: ACQ (Li et al.),
/// abstracts of both versions; the forms are RECONSTRUCTED.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pair {
    pub weight: f32,
    pub form: PairFormName,
    pub on: PairSource,
    /// Of the cosine form: pairs cost while their cosine exceeds it.
    pub margin: f32,
    /// Of the ratio: bounds the loss by its inverse.
    pub epsilon: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairFormName {
    /// `1 / (D + eps)`, `D` the distance of the samples over the distance of their noises (after Mao et al. 2019).
    ModeSeeking,
    /// `max(cos - margin, 0)`.
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairSource {
    /// Pooled features.
    Features,
    /// Spatial attention of the last feature map.
    Attention,
    /// Grad-CAM map of the condition's class.
    GradCam,
}

impl Default for Pair {
    fn default() -> Self {
        Self { weight: 0.1, form: PairFormName::Cosine, on: PairSource::Features, margin: 0.5, epsilon: 0.01 }
    }
}

impl GeneratorTerm for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { head: true, ..Needs::default() }
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)?;
        if !(-1.0..=1.0).contains(&self.margin) {
            return Err(Error::config("pair.margin", format!("{} is no cosine", self.margin)));
        }
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Error::config("pair.epsilon", format!("{} must be positive", self.epsilon)));
        }
        match (self.on, teacher) {
            (PairSource::Features, Some(g)) => served("pair", g.last_features("pair.on = \"features\"")),
            (PairSource::Attention, _) => AttentionName::Activation.check(self.name(), teacher),
            (PairSource::GradCam, Some(g)) => served("pair", g.pooled_head("pair.on = \"grad_cam\"")),
            (_, None) => Ok(()),
        }
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let wanted = |v: &Option<Var>| v.clone().expect("asked for by needs");
        let source = match self.on {
            PairSource::Features => wanted(&view.features),
            PairSource::Attention => attention_map(tape, &wanted(&view.map), AttentionKind::Spatial, 2.0)?,
            PairSource::GradCam => {
                let map = AttentionName::GradCam.of(tape, &wanted(&view.map), view)?;
                attention_map(tape, &map, AttentionKind::Spatial, 2.0)?
            }
        };
        let form = match self.form {
            PairFormName::ModeSeeking => PairForm::ModeSeeking { eps: self.epsilon },
            PairFormName::Cosine => PairForm::CosineHinge { margin: self.margin },
        };
        let Some(noise) = &view.conditions.noise else {
            return Err(Error::config("pair", "stored images have no noise and no pairs; use it in generator_loss"));
        };
        pair_loss(tape, &source, noise, form)
    }
}
