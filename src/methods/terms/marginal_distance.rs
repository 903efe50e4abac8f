//! IntraQ's marginal distance constraint: images of a class neither all alike nor strangers.

use super::{GeneratorTerm, Memory, Needs, TeacherView, not_negative, served};
use crate::autograd::{Tape, Var};
use crate::graph::{Forward, Graph, Network, Taps};
use crate::ops::marginal_distance::{ClassMeans, marginal_distance};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `mean_b [max(lower - d_b, 0) + max(d_b - upper, 0)]`, `d_b` the cosine distance of an image's pooled features from the
/// mean of its class over the batches of stored images made before; images of classes without a mean yet do not count
/// (IntraQ, Zhong et al., CVPR 2022, released code: 0.05 and 0.8 for CIFAR-10, 0.02 and 1 for CIFAR-100, 0 and 2, which is
/// no bound, for ImageNet). Of stored images only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MarginalDistance {
    pub weight: f32,
    pub lower: f32,
    pub upper: f32,
}

impl Default for MarginalDistance {
    fn default() -> Self {
        Self { weight: 1.0, lower: 0.05, upper: 0.8 }
    }
}

impl MarginalDistance {
    /// Takes finished `images` of classes `labels` into the means that later batches are compared with.
    pub fn remember(memory: &mut Memory, teacher: &mut Network, images: &Tensor, labels: &Tensor) -> Result<()> {
        let features = teacher.graph.last_features("marginal_distance")?;
        let taps = Taps { bn_stats: false, nodes: vec![features] };
        let mut tape = Tape::inference(&teacher.device());
        let out = teacher.forward(&mut tape, &[Var::constant(images.clone())], Forward::eval(), &taps)?;
        let features = &out.taps[0].value;
        let means = match &mut memory.class_means {
            Some(means) => means,
            none => none.insert(ClassMeans::new(&teacher.device(), teacher.graph.classes, features.dim(1))?),
        };
        means.add(features, labels)
    }
}

impl GeneratorTerm for MarginalDistance {
    fn name(&self) -> &'static str {
        "marginal_distance"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { head: true, ..Needs::default() }
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        not_negative(self.name(), "weight", self.weight)?;
        not_negative(self.name(), "lower", self.lower)?;
        not_negative(self.name(), "upper", self.upper)?;
        if self.lower > self.upper {
            let detail = format!("{} is below marginal_distance.lower, {}", self.upper, self.lower);
            return Err(Error::config("marginal_distance.upper", detail));
        }
        teacher.map_or(Ok(()), |g| served(self.name(), g.last_features(self.name())))
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let features = view.features.clone().expect("asked for by needs");
        let means = match &view.memory.class_means {
            Some(means) => means.clone(),
            None => ClassMeans::new(tape.device(), view.teacher.graph.classes, features.shape()[1])?,
        };
        let bounds = [self.lower, self.upper];
        marginal_distance(tape, &features, &view.conditions.labels, &means.mean, &means.seen, bounds)
    }
}
