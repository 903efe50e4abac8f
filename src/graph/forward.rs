//! How a network is run, what is wanted of it, and what comes out.

use super::NodeId;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::ops::fake_quant::Ste;
use crate::ops::observe::EmaForm;
use crate::ops::random::{self, Stream};
use crate::ops::reflect_shift::{Offset, reflect_shift};

/// Batch normalisation's mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Running statistics.
    Eval,
    /// Statistics of the batch; running buffers untouched (a generator, or a teacher being probed).
    Batch,
    /// Statistics of the batch, running buffers updated with this momentum (supervised training).
    Train { momentum: f32 },
}

/// What happens to activation ranges in this forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RangeMode {
    /// Use the stored ranges.
    Frozen,
    /// Observe minimum and maximum, update the moving average, use the result.
    TrackMinMax(EmaForm),
    /// Search the range of least squared error, update the moving average, use the result.
    TrackSearch(EmaForm),
}

/// How to run a forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    pub mode: Mode,
    pub ranges: RangeMode,
    /// Weight ranges recomputed as min/max of the current weight, as GDFQ does; else the stored ones.
    pub weight_min_max: bool,
    pub ste: Ste,
    /// Skip all fake quantization: the float network.
    pub float: bool,
    /// Parameters and ranges as constants, also where they are trained: gradients to the inputs only.
    pub constant: bool,
    /// Leave activations unquantized at random (QDrop).
    pub drop: Option<Drop>,
    /// Shift the inputs of strided convolutions at random, a whole batch alike (swing convolution).
    pub swing: Option<Swing>,
    /// Compute a student's layers with what follows them as one where that is possible; the same values otherwise.
    pub blocks: bool,
}

/// Shifts by -1, 0 or 1 pixels along both axes, mirrored at the edges, before convolutions with a stride above 1, where no
/// pixel then stays unseen (Genie, Jeon et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Swing {
    /// Of the draws; node `i` takes stream `stream + i`.
    pub seed: u64,
    pub stream: u64,
}

impl Swing {
    /// `x` as node `id`'s convolution sees it. Maps of one pixel along an axis stay. `draws`: of passes that
    /// are counted ([`super::Network::count_draws`]); the device draws then.
    pub(super) fn apply(self, tape: &mut Tape, x: Var, id: NodeId, draws: Option<Stream>) -> Result<Var> {
        let [_, h, w, _] = x.shape().nhwc("swing")?;
        if h < 2 || w < 2 {
            return Ok(x);
        }
        if let Some(draws) = draws {
            let drawn = random::labels(tape.device(), 2, 3, self.seed, draws)?;
            return reflect_shift(tape, &x, Offset::Stored(drawn));
        }
        let drawn = random::labels(&Device::cpu(), 2, 3, self.seed, self.stream + id as u64)?.to_vec::<i32>()?;
        reflect_shift(tape, &x, [drawn[0] - 1, drawn[1] - 1])
    }
}

/// Streams of a pass, of which nodes take the first.
pub const STREAMS: u64 = 1 << 12;

/// Elements of activations that stay as they are behind a quantizer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drop {
    /// Part of the elements, in 0..=1.
    pub share: f32,
    /// Of the draws; node `i` takes stream `stream + i`.
    pub seed: u64,
    pub stream: u64,
}

impl Forward {
    /// Eval-mode batch norm, frozen ranges, identity straight-through gradients.
    pub fn eval() -> Self {
        Self {
            mode: Mode::Eval,
            ranges: RangeMode::Frozen,
            weight_min_max: false,
            ste: Ste::Identity,
            float: false,
            constant: false,
            drop: None,
            swing: None,
            blocks: true,
        }
    }
    /// Batch-statistics normalisation without side effects.
    pub fn batch() -> Self {
        Self { mode: Mode::Batch, ..Self::eval() }
    }
    /// Supervised training.
    pub fn train() -> Self {
        Self { mode: Mode::Train { momentum: 0.1 }, ..Self::eval() }
    }
}

/// What a caller wants to see besides the output.
#[derive(Clone, Debug, Default)]
pub struct Taps {
    /// Mean and biased variance of every batch-norm input.
    pub bn_stats: bool,
    /// Outputs of these nodes.
    pub nodes: Vec<NodeId>,
}

/// Batch statistics of one batch norm's input.
pub struct BnStatistics {
    pub node: NodeId,
    pub mean: Var,
    pub var: Var,
}

/// Result of a forward pass.
pub struct Outputs {
    pub output: Var,
    pub bn_stats: Vec<BnStatistics>,
    /// In the order asked for.
    pub taps: Vec<Var>,
}
