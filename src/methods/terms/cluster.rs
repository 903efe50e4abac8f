//! ClusterQ: statistics of deep layers gather around a centre per class.

use super::bn_stats::{has_batch_norm, has_sample_stats};
use super::{GeneratorTerm, Needs, TeacherView, not_negative};
use crate::autograd::{Tape, Var};
use crate::graph::Graph;
use crate::ops::cluster_loss::{Centroids, classified, cluster_loss, jitter};
use crate::ops::elementwise::weighted_sum;
use crate::ops::sample_stats::sample_stats;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// `(1/(L-s)) sum_{l >= s} mean_b [MSE(mean_bl, m_{y_b,l} + e1) + MSE(var_bl, v_{y_b,l} + e2)]` over the statistics of
/// each sample in the deep batch norms of maps, with centres that follow correctly classified samples as moving averages, and
/// jitter `e1`, `e2` for diversity (Gao et al., ClusterQ, arXiv 2205.00179). The released code fills its centres from the
/// running statistics, which makes the term nearly inert; this form is RECONSTRUCTED from the paper's intent, its weight,
/// rate, jitter and first layer are the code's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    pub weight: f32,
    /// Of a centre's moving average, in 0..=1.
    pub rate: f32,
    pub jitter_mean: f32,
    pub jitter_var: f32,
    /// First iteration with this loss; centres gather from the start.
    pub start: u64,
    /// Centres are updated every so many iterations.
    pub every: u64,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { weight: 0.9, rate: 0.2, jitter_mean: 0.03, jitter_var: 0.05, start: 50, every: 10 }
    }
}

/// First deep layer of `layers`, as in the released code.
fn first_deep(layers: usize) -> usize {
    layers.div_ceil(2).saturating_sub(2)
}

impl GeneratorTerm for Cluster {
    fn name(&self) -> &'static str {
        "cluster"
    }
    fn weight(&self) -> f32 {
        self.weight
    }
    fn needs(&self) -> Needs {
        Needs { bn_inputs: true, ..Needs::default() }
    }
    fn needs_host(&self) -> bool {
        true
    }
    fn check(&self, teacher: Option<&Graph>) -> Result<()> {
        has_batch_norm(self.name(), teacher)?;
        let spreads = [("jitter_mean", self.jitter_mean), ("jitter_var", self.jitter_var)];
        for (key, v) in [("weight", self.weight), ("rate", self.rate)].into_iter().chain(spreads) {
            not_negative(self.name(), key, v)?;
        }
        let fail = |key: &str, what: &str| Err(Error::config(format!("cluster.{key}"), what));
        if self.rate > 1.0 {
            return fail("rate", "must lie in 0..=1");
        }
        if self.every == 0 { fail("every", "must be at least 1") } else { Ok(()) }
    }
    fn loss(&self, tape: &mut Tape, view: &mut TeacherView) -> Result<Var> {
        let maps: Vec<Var> = view.bn_inputs.iter().filter(|x| has_sample_stats(x)).cloned().collect();
        if maps.is_empty() {
            let detail = "clusters statistics of samples, and no batch norm of this network reads a map; set it to 0";
            return Err(Error::config("cluster.weight", detail));
        }
        let deep = first_deep(maps.len());
        let labels = &view.conditions.labels;
        let classes = view.teacher.graph.classes;
        let active = view.it >= self.start;
        let mut stats = Vec::new();
        for x in &maps[deep..] {
            // Until then centres only gather: no gradient to compute.
            let x = if active { x.clone() } else { x.detach() };
            stats.push(sample_stats(tape, &x)?);
        }
        if view.memory.centroids.is_empty() {
            for (mean, _) in &stats {
                view.memory.centroids.push(Centroids::new(&mean.value.device(), classes, mean.shape()[1])?);
            }
        }
        let first = view.it <= 1;
        if first || view.it % self.every == 0 {
            let host = labels.value.to_vec::<i32>()?;
            let accepted = classified(&view.logits.value, &host)?;
            for ((mean, var), c) in stats.iter().zip(&mut view.memory.centroids) {
                c.update(&mean.value, &var.value, &host, &accepted, self.rate)?;
            }
        }
        let share = if active { 1.0 / stats.len() as f32 } else { 0.0 };
        let mut terms = Vec::with_capacity(stats.len());
        for (l, ((mean, var), c)) in stats.iter().zip(&view.memory.centroids).enumerate() {
            let stream = (1 << 51) + view.it * 64 + l as u64;
            let shift = jitter(&mean.value, [self.jitter_mean, self.jitter_var], view.seed, stream)?;
            terms.push(cluster_loss(tape, mean, var, labels, c, Some(&shift))?);
        }
        let weighted: Vec<(f32, &Var)> = terms.iter().map(|t| (share, t)).collect();
        weighted_sum(tape, &weighted)
    }
}
