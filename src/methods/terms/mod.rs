//! Loss terms: each file holds one term's settings (a table of a recipe), its equation with source, and its computation.

mod adaptability;
mod attention;
mod attention_center;
mod attention_consistency;
mod bn_stats;
mod cam;
mod cluster;
mod correlation;
mod cross_entropy;
mod dkd;
mod feature_alignment;
mod feature_mse;
mod image_prior;
mod input_stats;
mod kl;
mod logits_mse;
mod marginal_distance;
mod pair;
mod slack_stats;
mod soft_label;

pub use adaptability::{Adaptability, EntropyDifference};
pub use attention::AttentionName;
pub use attention_center::AttentionCenter;
pub use attention_consistency::AttentionConsistency;
pub use bn_stats::BnStats;
pub use cam::{Cam, CamClass};
pub use cluster::Cluster;
pub use correlation::Correlation;
pub use cross_entropy::{CrossEntropy, StudentCrossEntropy};
pub use dkd::Dkd;
pub use feature_alignment::FeatureAlignment;
pub use feature_mse::FeatureMse;
pub use image_prior::{L2, TotalVariation};
pub use input_stats::InputStats;
pub use kl::{Kl, KlReductionName};
pub use logits_mse::LogitsMse;
pub use marginal_distance::MarginalDistance;
pub use pair::{Pair, PairFormName, PairSource};
pub use slack_stats::{SlackFormName, SlackReductionName, SlackStats};
pub use soft_label::SoftLabel;

use crate::autograd::{Tape, Var};
use crate::graph::{BnStatistics, Graph, Network};
use crate::ops::cluster_loss::Centroids;
use crate::ops::loss::KlReduction;
use crate::ops::marginal_distance::ClassMeans;
use crate::ops::random::Stream;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What the terms of a loss want from the teacher's pass besides the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Batch statistics of every batch-norm input.
    pub bn_stats: bool,
    /// The inputs of all batch norms.
    pub bn_inputs: bool,
    /// The last feature map and the pooled features.
    pub head: bool,
    /// The last feature map of a second pass that normalises with the batch's own statistics, running ones untouched.
    pub batch_map: bool,
    /// The student's logits, with gradients to the images only.
    pub student: bool,
}

impl Needs {
    pub fn and(self, other: Self) -> Self {
        Self {
            bn_stats: self.bn_stats || other.bn_stats,
            bn_inputs: self.bn_inputs || other.bn_inputs,
            head: self.head || other.head,
            batch_map: self.batch_map || other.batch_map,
            student: self.student || other.student,
        }
    }
}

/// What a batch of images was made from.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// I32 `[n]`, constant.
    pub labels: Var,
    /// `[n latent]`; stored images have none.
    pub noise: Option<Tensor>,
    /// Attention centres asked for, `[n 2]`, row and column in units of height and width, constant.
    pub centers: Option<Var>,
    /// The same as the generator is told them.
    pub center_input: Option<Var>,
}

/// One batch of synthetic images as the teacher sees it, on the tape that leads back to the generator.
pub struct TeacherView<'a> {
    pub teacher: &'a mut Network,
    /// `[n h w c]`.
    pub images: &'a Var,
    pub conditions: &'a Conditions,
    /// `[n classes]`.
    pub logits: Var,
    /// These as asked for by [`Needs`], else empty or absent.
    pub bn_stats: Vec<BnStatistics>,
    pub bn_inputs: Vec<Var>,
    /// Last feature map `[n h w c]` and pooled features `[n c]`.
    pub map: Option<Var>,
    pub features: Option<Var>,
    pub batch_map: Option<Var>,
    pub student_logits: Option<Var>,
    pub memory: &'a mut Memory,
    /// For draws: of the run, and the iteration.
    pub seed: u64,
    pub it: u64,
    /// Where draws must read the iteration's number, if it may be another when they are made: I32 `[2]`.
    pub counter: Option<Tensor>,
}

impl TeacherView<'_> {
    /// Sequence `base + it` of draws.
    pub fn stream(&self, base: u64) -> Stream {
        self.counter.as_ref().map_or_else(|| (base + self.it).into(), |c| Stream::counted(c, 1, base))
    }
}

/// What terms remember from one iteration to the next. Part of a run's checkpoint, but for what only the making of stored
/// images needs, which no checkpoint interrupts.
#[derive(Default)]
pub struct Memory {
    /// Slack margins per layer; depend on the seed only.
    pub margins: Option<Vec<(f32, f32)>>,
    /// Class centres per deep layer.
    pub centroids: Vec<Centroids>,
    /// Features of the stored images made so far, by class.
    pub class_means: Option<ClassMeans>,
}

/// A term of what images are trained for.
pub trait GeneratorTerm {
    /// Its table's name in a recipe.
    fn name(&self) -> &'static str;
    fn weight(&self) -> f32;
    fn needs(&self) -> Needs {
        Needs::default()
    }
    /// Whether it uploads, downloads or decides something on the host in every step: such steps cannot be recorded.
    fn needs_host(&self) -> bool {
        false
    }
    /// Whether its settings make sense, and whether `teacher` can serve it (absent while only settings are checked).
    fn check(&self, teacher: Option<&Graph>) -> Result<()>;
    /// Its value, without the weight: one element.
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var>;
}

/// One batch as the student sees it.
pub struct StudentView<'a> {
    /// `[n classes]`, on the student's tape.
    pub logits: Var,
    /// I32 `[n]`, constant.
    pub labels: &'a Var,
    /// The teacher's, `[n classes]`.
    pub teacher_logits: &'a Tensor,
    /// The maps `[n h w c]` of [`Graph::compared_maps`], if a term needs them; the teacher's in the same order.
    pub bodies: Vec<Var>,
    pub teacher_bodies: &'a [Tensor],
    /// If a term needs them.
    pub heads: Option<Heads<'a>>,
}

/// The ends of student and teacher.
pub struct Heads<'a> {
    /// What the student pools, `[n h w c]`, behind its quantizer.
    pub map: Var,
    /// Its linear layer's weight `[classes c]` as this pass used it, fake-quantized.
    pub weight: Tensor,
    pub teacher_map: &'a Tensor,
    pub teacher_weight: Tensor,
}

/// A term of what the student is trained for.
pub trait StudentTerm {
    fn name(&self) -> &'static str;
    fn weight(&self) -> f32;
    /// Whether [`StudentView::bodies`] are wanted.
    fn needs_bodies(&self) -> bool {
        false
    }
    /// Whether [`StudentView::heads`] are wanted.
    fn needs_head(&self) -> bool {
        false
    }
    /// As [`GeneratorTerm::needs_host`].
    fn needs_host(&self) -> bool {
        false
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()>;
    /// Its value, without the weight: one element.
    fn loss(&self, tape: &mut Tape, view: &StudentView) -> Result<Var>;
    /// What it is if logits, labels and teacher's logits are all it looks at and [`crate::ops::logits_loss`] has it: such
    /// terms are computed together.
    fn of_logits(&self) -> Option<OfLogits> {
        None
    }
}

/// Terms that are computed together; their [`StudentTerm::loss`] is the same alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OfLogits {
    CrossEntropy,
    Kl { temperature: f32, reduction: KlReduction },
}

/// Turns what a network lacks for `term` into an error that names the term's weight and what to do.
fn served<V>(term: &str, found: Result<V>) -> Result<()> {
    match found {
        Ok(_) => Ok(()),
        Err(Error::Network { network, detail }) => {
            let detail = format!("{network}: {detail}. Set this weight to 0, or take a recipe without it (best, gdfq)");
            Err(Error::config(format!("{term}.weight"), detail))
        }
        Err(other) => Err(other),
    }
}

/// Refuses a setting that is negative or not finite; `key` is relative to the term.
fn not_negative(term: &str, key: &str, v: f32) -> Result<()> {
    if v.is_finite() && v >= 0.0 {
        return Ok(());
    }
    Err(Error::config(format!("{term}.{key}"), format!("{v} must be finite and not negative")))
}
