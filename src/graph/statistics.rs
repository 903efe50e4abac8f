//! Batch statistics as they are found in a pass, and as they are handed out.

use super::NodeId;
use super::forward::BnStatistics;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::ops::conv_bn_tune::TuneNorm;
use crate::ops::tune_stats::{Behind, tune_stats};
use crate::tensor::Tensor;

/// Statistics of what a batch norm is given; of what it gives, where it is one with its convolution.
pub(super) struct Found {
    node: NodeId,
    stats: [Var; 2],
    /// Of the batch norm that they are found behind.
    behind: Option<Norm>,
}

struct Norm {
    gamma: Option<Var>,
    beta: Option<Var>,
    mean: Tensor,
    var: Tensor,
    eps: f32,
}

impl Found {
    pub fn before(node: NodeId, (mean, var): (Var, Var)) -> Self {
        Self { node, stats: [mean, var], behind: None }
    }

    pub fn behind(node: NodeId, (mean, var): (Var, Var), norm: TuneNorm) -> Self {
        let TuneNorm { gamma, beta, mean: m, var: v, eps, .. } = norm;
        let (gamma, beta) = (gamma.cloned(), beta.cloned());
        let behind = Norm { gamma, beta, mean: m.clone(), var: v.clone(), eps };
        Self { node, stats: [mean, var], behind: Some(behind) }
    }

    fn layer(&self) -> Option<Behind<'_>> {
        let n = self.behind.as_ref()?;
        let (gamma, beta) = (n.gamma.as_ref(), n.beta.as_ref());
        let norm = TuneNorm { gamma, beta, mean: &n.mean, var: &n.var, eps: n.eps, scaled: None };
        Some(Behind { stats: [&self.stats[0], &self.stats[1]], norm })
    }
}

/// All of a pass in the order of nodes. Those found behind batch norms are taken back through them together, because on a GPU
/// a launch for each layer costs more than its few channels.
pub(super) fn collect(tape: &mut Tape, mut found: Vec<Found>) -> Result<Vec<BnStatistics>> {
    // A block's are found where it ends.
    found.sort_by_key(|f| f.node);
    let layers: Vec<Behind> = found.iter().filter_map(Found::layer).collect();
    let mut before = tune_stats(tape, &layers)?.into_iter();
    let statistics = |f: &Found| {
        let own = || (f.stats[0].clone(), f.stats[1].clone());
        let taken = f.behind.as_ref().and_then(|_| before.next());
        let (mean, var) = taken.unwrap_or_else(own);
        BnStatistics { node: f.node, mean, var }
    };
    Ok(found.iter().map(statistics).collect())
}
