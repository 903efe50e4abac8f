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

/// Returns how many images of `size` numbers are evaluated together: 250 of CIFAR's size, fewer of larger ones, whose
/// activations would fill the memory.
pub fn evaluation_batch(size: usize) -> usize {
    const BATCH: usize = 250;
    const SIZE: usize = 3 * 32 * 32;
    (BATCH * SIZE / size.max(1)).clamp(8, BATCH)
}

/// Runs `network` over all of `data`.
pub fn evaluate(network: &mut Network, data: &Dataset, norm: &Normalization, how: Forward) -> Result<Accuracy> {
    let batch = evaluation_batch(data.h * data.w * data.c);
    let device = network.device();
    let total = data.labels.len();
    let mut hits = 0;
    for start in (0..total).step_by(batch) {
        let (x, y) = data.batch(&device, start..(start + batch).min(total), norm)?;
        let mut tape = Tape::inference(&device);
        let logits = network.forward(&mut tape, &[Var::constant(x)], how, &Taps::default())?.output.value;
        hits += correct(&logits, &y)?;
    }
    Ok(Accuracy { correct: hits, total })
}
