//! Top-1 accuracy.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::data::{Dataset, Normalization};
use crate::graph::{Forward, Network, Taps};
use crate::ops::accuracy::correct;
use serde::{Deserialize, Serialize};

/// A count, not a rounded percentage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuracy {
    pub correct: usize,
    pub total: usize,
}

impl Accuracy {
    /// Percent.
    pub fn top1(&self) -> f64 {
        100.0 * self.correct as f64 / self.total.max(1) as f64
    }
}

/// Runs `network` over all of `data`.
pub fn evaluate(network: &mut Network, data: &Dataset, norm: &Normalization, how: Forward) -> Result<Accuracy> {
    const BATCH: usize = 250;
    let device = network.device();
    let total = data.labels.len();
    let mut hits = 0;
    for start in (0..total).step_by(BATCH) {
        let (x, y) = data.batch(&device, start..(start + BATCH).min(total), norm)?;
        let mut tape = Tape::inference(&device);
        let logits = network.forward(&mut tape, &[Var::constant(x)], how, &Taps::default())?.output.value;
        hits += correct(&logits, &y)?;
    }
    Ok(Accuracy { correct: hits, total })
}
