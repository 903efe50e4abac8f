//! The numbers of an iteration: as values, or at fixed places in device memory that are written before it starts, so that
//! a recorded sequence of launches takes them anew whenever it is replayed.

use super::generator_step::{DRAWS, Draw, stream};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::ops::crop_flip::{CropSpec, crop_flip, draw_crops};
use crate::ops::random::{self, Stream};
use crate::optim::Rate;
use crate::tensor::{DType, Tensor};

/// What is cropped: images of the generator, or stored ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Fresh = 0,
    Stored = 1,
}

/// How batches are cropped: the probability that a batch is, and the smallest share of the area that is kept.
pub(super) type Cropping = (f32, f32);

/// Whether the batch with draws of iteration `it` is cropped.
pub(super) fn tossed((chance, _): Cropping, seed: u64, it: u64) -> Result<bool> {
    if chance == 0.0 {
        return Ok(false);
    }
    let coin = random::uniform(&Device::cpu(), [1], seed, stream(it, Draw::Coin))?.item()? as f32;
    Ok(coin < chance)
}

/// Boxes and flips of the batch with draws of iteration `it`.
fn boxes(device: &Device, size: [usize; 3], (_, smallest): Cropping, seed: u64, it: u64) -> Result<(Tensor, Tensor)> {
    draw_crops(device, size, CropSpec::new([smallest, 1.0]), seed, stream(it, Draw::Crops))
}

/// Words of the iteration's number, and those of the rates behind it.
const COUNTER: usize = 2;
const RATES: usize = 2;

/// The numbers of the iteration under way on a device. Clones are the same memory.
#[derive(Clone)]
pub(super) struct ControlBlock {
    /// The iteration's number, low and high word; the rates of weights and ranges; for each [`Place`] boxes `[n 4]` and
    /// flips `[n]`.
    words: Tensor,
    n: usize,
}

impl ControlBlock {
    /// For batches of `n` images.
    pub fn new(device: &Device, n: usize) -> Result<Self> {
        Ok(Self { words: Tensor::zeros(device, [COUNTER + RATES + 10 * n], DType::I32)?, n })
    }

    /// Queues the numbers of iteration `it`: rates, and what is cropped, `(place, how, draws of iteration)`. Images are
    /// `h` x `w`. Nothing is waited for.
    pub fn publish(
        &self,
        it: u64,
        rates: [f32; RATES],
        seed: u64,
        [h, w]: [usize; 2],
        crops: &[(Place, Cropping, u64)],
    ) -> Result<()> {
        let [weights, ranges] = rates.map(|r| r.to_bits() as i32);
        let mut words = vec![it as i32, (it >> 32) as i32, weights, ranges];
        for &(place, how, it) in crops {
            let (boxes, flips) = boxes(&Device::cpu(), [self.n, h, w], how, seed, it)?;
            words.resize(COUNTER + RATES + 5 * self.n * place as usize, 0);
            words.extend(boxes.host::<f32>().iter().map(|v| v.to_bits() as i32));
            words.extend(flips.host::<i32>());
        }
        self.words.view(0, [words.len()])?.write_queued(&words)
    }

    fn counter(&self) -> Result<Tensor> {
        self.words.view(0, [COUNTER])
    }

    fn rate(&self, i: usize) -> Result<Rate> {
        Ok(Rate::Stored(self.words.view(COUNTER + i, [1])?.reinterpret(DType::F32)))
    }

    fn crops(&self, place: Place) -> Result<(Tensor, Tensor)> {
        let start = COUNTER + RATES + 5 * self.n * place as usize;
        let boxes = self.words.view(start, [self.n, 4])?.reinterpret(DType::F32);
        Ok((boxes, self.words.view(start + 4 * self.n, [self.n])?))
    }
}

/// The iteration under way, as draws, optimizers and crops see it.
#[derive(Clone)]
pub(super) struct Moment {
    pub it: u64,
    block: Option<ControlBlock>,
}

impl Moment {
    /// Iteration `it` by its values.
    pub fn now(it: u64) -> Self {
        Self { it, block: None }
    }

    /// Iteration `it`, whose numbers `block` holds when it runs.
    pub fn stored(it: u64, block: &ControlBlock) -> Self {
        Self { it, block: Some(block.clone()) }
    }

    /// The iteration's number in device memory, if that is where it must be read: I32 `[2]`, low word first.
    pub fn counter(&self) -> Result<Option<Tensor>> {
        self.block.as_ref().map(ControlBlock::counter).transpose()
    }

    /// The sequence of a draw.
    pub fn stream(&self, draw: Draw) -> Result<Stream> {
        Ok(match self.counter()? {
            None => stream(self.it, draw).into(),
            Some(counter) => Stream::counted(&counter, DRAWS, draw as u64),
        })
    }

    /// The rate of the student's weights, of value `now`.
    pub fn weights_rate(&self, now: f32) -> Result<Rate> {
        self.block.as_ref().map_or(Ok(now.into()), |b| b.rate(0))
    }

    /// The same of its ranges.
    pub fn ranges_rate(&self, now: f32) -> Result<Rate> {
        self.block.as_ref().map_or(Ok(now.into()), |b| b.rate(1))
    }

    /// Crops and flips the images, each for itself, if the coin of `it` (of the draws; not always the iteration) says so;
    /// gradients flow through.
    pub fn augment(
        &self,
        tape: &mut Tape,
        images: Var,
        place: Place,
        how: Cropping,
        seed: u64,
        it: u64,
    ) -> Result<Var> {
        if !tossed(how, seed, it)? {
            return Ok(images);
        }
        let [n, h, w, _] = images.shape().nhwc("augment")?;
        let (boxes, flips) = match &self.block {
            None => boxes(tape.device(), [n, h, w], how, seed, it)?,
            Some(b) => b.crops(place)?,
        };
        crop_flip(tape, &images, &boxes, &flips, [h, w])
    }
}
