//! How good the student is, and which one is kept: chosen without data, counted on test sets.

use super::evaluate::{Accuracy, evaluate};
use super::run::{QuantizeRun, Summary, TestSet};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::deploy::settle;
use crate::graph::{Network, RangeMode};
use crate::methods::WeightRanges;
use crate::ops::accuracy::argmax;
use crate::ops::loss::{KlReduction, kl_distill};
use serde::{Deserialize, Serialize};

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub it: u64,
    /// Per test set, in order.
    pub accuracy: Vec<Accuracy>,
    /// Share of held-out synthetic images on which student and teacher agree: the data-free criterion.
    pub agreement: f64,
    /// KL divergence on the same images; breaks ties.
    pub divergence: f64,
}

/// The student that a run ends with.
pub struct Selected {
    pub network: Network,
    /// Of this very network.
    pub tally: Tally,
    /// Channels that [`settle`] moved.
    pub settled: usize,
}

impl QuantizeRun {
    /// Accuracy on the test sets, and agreement with the teacher on synthetic images nobody trained on.
    pub(super) fn tally(&mut self, tests: &[TestSet]) -> Result<Tally> {
        let how = self.student.forward_mode(RangeMode::Frozen);
        let mut accuracy = Vec::with_capacity(tests.len());
        for t in tests {
            accuracy.push(evaluate(&mut self.student.network, &t.data, &self.norm, how)?);
        }
        let (mut same, mut count, mut divergence) = (0, 0, 0.0);
        for (x, t) in &self.held_out {
            let s = self.student.observe(x, RangeMode::Frozen)?;
            same += argmax(&s)?.iter().zip(argmax(t)?).filter(|(a, b)| **a == *b).count();
            count += s.dim(0);
            let mut tape = Tape::inference(&x.device());
            divergence += kl_distill(&mut tape, &Var::constant(s), t, 1.0, KlReduction::BatchMean)?.value.item()?;
        }
        let agreement = same as f64 / count.max(1) as f64;
        Ok(Tally { it: self.it, accuracy, agreement, divergence: divergence / self.held_out.len().max(1) as f64 })
    }

    /// Keeps the student with the smallest divergence from the teacher, and the best test figures.
    pub(super) fn consider(&mut self, tally: &Tally) -> Result<()> {
        let better = self.progress.selected.as_ref().is_none_or(|s| tally.divergence < s.divergence);
        if better {
            let net = &self.student.network;
            self.selected = Some((net.params.values().duplicate()?, net.ranges.values().duplicate()?));
            self.progress.selected = Some(tally.clone());
        }
        if self.progress.best.is_empty() {
            self.progress.best = tally.accuracy.clone();
        }
        for (best, now) in self.progress.best.iter_mut().zip(&tally.accuracy) {
            if now.correct > best.correct {
                *best = *now;
            }
        }
        Ok(())
    }

    /// The selected student, made fit for integer biases, and what it scores then. `summary` is the run's.
    pub fn into_selected(mut self, tests: &[TestSet], summary: &Summary) -> Result<Selected> {
        if let Some((params, ranges)) = &self.selected {
            self.student.network.params.values_mut().copy_from(params)?;
            self.student.network.ranges.values_mut().copy_from(ranges)?;
        }
        if self.recipe.ranges.weights == WeightRanges::MinMax {
            self.student.network.weight_ranges_min_max()?;
        }
        let settled = settle(&mut self.student.network)?;
        let mut tally = summary.selected.clone();
        if settled > 0 {
            tally = Tally { it: tally.it, ..self.tally(tests)? };
        }
        Ok(Selected { network: self.student.network, tally, settled })
    }
}
