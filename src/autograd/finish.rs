//! Gradients that pass a ReLU and statistics on their way back: whoever adds to one last may do so while he has it at hand, for the
//! op whose output it belongs to.

use super::tape::{Backward, Tape, Var};
use crate::Result;
use crate::tensor::Tensor;

/// What an op does first with the gradient `du` of its output 0, of `m` rows of channels:
/// `keep * du + dmean / m + 2 dvar (y - mean) / m`.
pub struct Finish {
    /// Bit `i % 8` of byte `i / 8`: `keep` of element `i`. All pass if absent.
    pub mask: Option<Tensor>,
    /// `y` and its mean `[channels]`. Outputs 1 and 2 are mean and variance of `y`; they must have no other name.
    pub stats: Option<[Tensor; 2]>,
    /// Whether `keep * du` is wanted by itself as well.
    pub split: bool,
}

/// The same with all that it takes.
pub struct Finishing {
    pub mask: Option<Tensor>,
    /// `y`, its mean, and the gradients of mean and variance.
    pub stats: Option<[Tensor; 4]>,
    /// Where `keep * du` goes, if that is wanted and not the gradient itself.
    pub kept: Option<Tensor>,
}

/// What the op finds done.
pub struct Finished {
    /// See [`Finishing::kept`].
    pub kept: Option<Tensor>,
}

/// A [`Finish`] and the slots of the statistics.
pub(super) struct Promise {
    finish: Finish,
    stats: Vec<usize>,
}

impl Tape {
    /// Lets the last op that adds to the gradient of `outputs[0]` do what the op that made it says in `finish`; that op asks
    /// [`Backward::finished`]. Nothing happens where nobody offers to.
    pub fn finish_early(&mut self, outputs: &[Var], finish: Finish) {
        let Some(id) = outputs[0].id() else { return };
        let stats = outputs[1..].iter().filter_map(Var::id).collect();
        self.slots[id].promise = Some(Promise { finish, stats });
    }
}

impl Backward<'_> {
    /// Asks for what there is to do with the gradient of input `i` once this op has added to it, which it then must do. `None` where
    /// there is nothing, or another op may still add to it.
    pub fn finishing(&mut self, i: usize) -> Result<Option<Finishing>> {
        let Some(id) = self.inputs.get(i).copied().flatten() else { return Ok(None) };
        let slot = &self.slots[id];
        let Some(promise) = slot.promise.as_ref().filter(|_| slot.readers == 1 && slot.target.is_none()) else {
            return Ok(None);
        };
        let mut stats = None;
        if let Some([y, mean]) = &promise.finish.stats {
            if promise.stats.iter().any(|&s| self.slots[s].readers > 0) {
                return Ok(None);
            }
            let gradients: Vec<&Tensor> = promise.stats.iter().filter_map(|&s| self.slots[s].grad.as_ref()).collect();
            stats = match gradients[..] {
                [dmean, dvar] => Some([y, mean, dmean, dvar].map(Tensor::clone)),
                [] => None,
                // One of the two alone does not happen in training; the op knows what to do.
                _ => return Ok(None),
            };
        }
        let mask = promise.finish.mask.clone();
        if mask.is_none() && stats.is_none() {
            return Ok(None);
        }
        // Without statistics the gradient itself is what is kept.
        let kept = match &stats {
            Some([y, ..]) if promise.finish.split => Some(Tensor::empty_like(y, y.shape())?),
            _ => None,
        };
        self.slots[id].finished = Some(Finished { kept: kept.clone() });
        Ok(Some(Finishing { mask, stats, kept }))
    }

    /// Whether another op has done what this one asked for by [`Tape::finish_early`]: then the gradient of output 0 is the result.
    pub fn finished(&mut self) -> Option<Finished> {
        self.finished.take()
    }
}
