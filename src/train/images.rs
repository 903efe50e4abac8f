//! Images optimised directly through the teacher (after ZeroQ, Cai et al. 2020: the images are the parameters), kept and
//! drawn from at random. Ours: they start from a trained generator's images, which shortens the optimisation.

use super::control::{Moment, Place};
use super::generator_step::{Draw, GeneratorStep, Surroundings, stream, teacher_loss};
use super::synthetic::Synthetic;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::graph::{Forward, Graph, InputKind, Network, Swing, Taps};
use crate::methods::terms::{Conditions, MarginalDistance, Memory};
use crate::methods::{ImagesRecipe, ImagesSchedule, Recipe};
use crate::ops::{embedding::embedding, random, roll::roll};
use crate::optim::{Adam, Plateau, Schedule};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Iteration numbers of the pool's own draws start here, away from the loop's.
const DRAW_BASE: u64 = 1 << 40;
/// Those of crops of stored images for the student.
const CROP_BASE: u64 = 1 << 43;
/// And those of swing convolutions, of which each node of an iteration has one.
const SWING: u64 = 1 << 61;

/// `[h, w, c]` of the images that `network` takes. Errors if it takes none, or none of one or three channels.
pub(super) fn image_size(network: &Graph) -> Result<[usize; 3]> {
    match &network.inputs[..] {
        [InputKind::Real(sample)] => match sample[..] {
            [h, w, c @ (1 | 3)] => Ok([h, w, c]),
            _ => {
                let detail = format!("takes inputs of shape {sample:?}; images have 1 or 3 channels");
                Err(Error::network(&network.name, detail))
            }
        },
        _ => Err(Error::network(&network.name, "does not take one image")),
    }
}

/// Stored images `[count, h*w*c]`, their labels and the teacher's logits.
pub struct ImagePool {
    pub images: Tensor,
    pub labels: Tensor,
    pub teacher_logits: Tensor,
    shape: [usize; 3],
}

impl ImagePool {
    /// Optimises `count` images (rounded up to whole batches); `progress(done, of, loss)` after each batch.
    pub fn make(
        device: &Device,
        teacher: &mut Network,
        generator: &mut GeneratorStep,
        recipe: &Recipe,
        r: &ImagesRecipe,
        count: usize,
        mut progress: impl FnMut(usize, usize, f32) -> Result<()>,
    ) -> Result<Self> {
        let n = recipe.batch;
        let batches = count.div_ceil(n);
        let classes = teacher.graph.classes;
        let shape = image_size(&teacher.graph)?;
        let row = shape.iter().product::<usize>();
        let images = Tensor::empty(device, [batches * n, row], DType::F32)?;
        let labels = Tensor::empty(device, [batches * n], DType::I32)?;
        let logits = Tensor::empty(device, [batches * n, classes], DType::F32)?;
        let mut memory = Memory::default();
        for b in 0..batches {
            let it = DRAW_BASE + b as u64;
            let (start, y) = if r.from_generator {
                generator.sample(n, it, false)?
            } else {
                let noise =
                    random::normal(device, [n, shape[0], shape[1], shape[2]], recipe.seed, stream(it, Draw::Noise))?;
                (noise, random::labels(device, n, classes, recipe.seed, stream(it, Draw::Labels))?)
            };
            let conditions =
                Conditions { labels: Var::constant(y.clone()), noise: None, centers: None, center_input: None };
            let mut x = start;
            let mut adam = Adam::new(&x, 0.9, 0.999, 1e-8)?;
            let mut grad = Tensor::zeros(device, x.shape(), DType::F32)?;
            let mut rate = Rate::new(r);
            let mut last = f32::NAN;
            for k in 0..r.iters {
                let mut tape = Tape::new(device);
                let leaf = tape.parameter(x.clone(), grad.clone());
                let seen = if r.roll > 0 { roll(&mut tape, &leaf, jitter(r.roll, recipe.seed, it, k)?)? } else { leaf };
                let (how, draws) = ((r.augment, r.augment_scale), (it << 20) + k);
                let moment = Moment::now(it);
                let seen = moment.augment(&mut tape, seen, Place::Stored, how, recipe.seed, draws)?;
                let swing =
                    r.swing.then_some(Swing { seed: recipe.seed, stream: SWING + ((b as u64) << 36) + (k << 12) });
                let rest =
                    Surroundings { student: None, memory: &mut memory, seed: recipe.seed, moment: &moment, swing };
                let total = teacher_loss(&mut tape, teacher, &r.loss, &seen, &conditions, rest)?.0;
                // Reading the loss waits for the device.
                if k + 1 == r.iters || rate.listens() {
                    last = total.loss.value.item()? as f32;
                }
                tape.backward(&total.loss)?;
                adam.step(&mut x, &grad, rate.of(k))?;
                rate.observe(last);
            }
            grad.fill_zero()?;
            if r.loss.marginal_distance.as_ref().is_some_and(|t| t.weight > 0.0) {
                MarginalDistance::remember(&mut memory, teacher, &x, &y)?;
            }
            images.view(b * n * row, [n, row])?.copy_from(&x.reshape([n, row])?)?;
            labels.view(b * n, [n])?.copy_from(&y)?;
            logits.view(b * n * classes, [n, classes])?.copy_from(&infer(teacher, &x)?)?;
            progress(b + 1, batches, last)?;
        }
        Ok(Self { images, labels, teacher_logits: logits, shape })
    }

    /// Takes the last `batches` batches of `n` images out of the pool: images `[n h w c]` and the teacher's logits.
    pub fn set_aside(&mut self, batches: usize, n: usize) -> Result<Vec<(Tensor, Tensor)>> {
        let all = self.labels.len();
        crate::ensure_op!(batches * n < all, "images", "{batches} batches of {n} cannot be set aside of {all} images");
        let [h, w, c] = self.shape;
        let (left, row, classes) = (all - batches * n, h * w * c, self.teacher_logits.dim(1));
        let batch = |b: usize| {
            let at = left + b * n;
            Ok((self.images.view(at * row, [n, h, w, c])?, self.teacher_logits.view(at * classes, [n, classes])?))
        };
        let aside = (0..batches).map(batch).collect::<Result<_>>()?;
        self.images = self.images.view(0, [left, row])?;
        self.labels = self.labels.view(0, [left])?;
        self.teacher_logits = self.teacher_logits.view(0, [left, classes])?;
        Ok(aside)
    }

    /// A pool from stored tensors (resume); `shape` of an image, `[h, w, c]`.
    pub fn restore(images: Tensor, labels: Tensor, teacher_logits: Tensor, shape: [usize; 3]) -> Self {
        Self { images, labels, teacher_logits, shape }
    }

    /// `n` images drawn with replacement for iteration `it`.
    pub fn batch(&self, n: usize, seed: u64, it: u64) -> Result<Synthetic> {
        self.batch_at(n, seed, &Moment::now(it))
    }

    /// The same in iteration `moment`.
    pub(super) fn batch_at(&self, n: usize, seed: u64, moment: &Moment) -> Result<Synthetic> {
        let device = self.images.device();
        let pick = random::labels(&device, n, self.labels.len(), seed, moment.stream(Draw::Pick)?)?;
        let mut tape = Tape::inference(&device);
        // Gathering rows is what an embedding does.
        let rows = embedding(&mut tape, &Var::constant(self.images.clone()), &pick)?.value;
        let logits = embedding(&mut tape, &Var::constant(self.teacher_logits.clone()), &pick)?.value;
        // Gathering only copies bits.
        let all = self.labels.reinterpret(DType::F32).reshape([self.labels.len(), 1])?;
        let labels = embedding(&mut tape, &Var::constant(all), &pick)?.value.reshape([n])?.reinterpret(DType::I32);
        let [h, w, c] = self.shape;
        Ok(Synthetic { images: rows.reshape([n, h, w, c])?, labels, teacher_logits: Some(logits) })
    }

    /// All of them, `[count h w c]`.
    pub fn all(&self) -> Result<Tensor> {
        let [h, w, c] = self.shape;
        self.images.reshape([self.labels.len(), h, w, c])
    }

    /// Stored batch `b` of size `n` in order, and its labels.
    pub fn in_order(&self, b: usize, n: usize) -> Result<(Tensor, Tensor)> {
        let [h, w, c] = self.shape;
        let first = b % (self.labels.len() / n).max(1) * n;
        Ok((self.images.view(first * h * w * c, [n, h, w, c])?, self.labels.view(first, [n])?))
    }
}

/// The draws of a stored batch's crops in iteration `it`.
pub(super) fn crop_draws(it: u64) -> u64 {
    CROP_BASE + it
}

/// `batch` cropped and flipped for iteration `moment` where the recipe says so; what the teacher says of it is then not
/// known.
pub(super) fn cropped(batch: Synthetic, recipe: &Recipe, moment: &Moment) -> Result<Synthetic> {
    let Some(r) = recipe.images.as_ref().filter(|r| r.train_augment > 0.0) else { return Ok(batch) };
    let mut tape = Tape::inference(&batch.images.device());
    let whole = Var::constant(batch.images.clone());
    let (how, draws) = ((r.train_augment, r.augment_scale), crop_draws(moment.it));
    let images = moment.augment(&mut tape, whole, Place::Stored, how, recipe.seed, draws)?.value;
    Ok(Synthetic { images, teacher_logits: None, ..batch })
}

/// The learning rate of a batch's iterations.
enum Rate {
    /// To zero: the last iterations settle the statistics.
    Cosine(f32, Schedule),
    Plateau(Plateau),
}

impl Rate {
    fn new(r: &ImagesRecipe) -> Self {
        match r.schedule {
            ImagesSchedule::Cosine => Self::Cosine(r.lr, Schedule::Cosine { warmup: 0, total: r.iters, floor: 0.0 }),
            ImagesSchedule::Plateau => Self::Plateau(Plateau::new(r.lr, r.patience, r.min_lr)),
        }
    }
    fn listens(&self) -> bool {
        matches!(self, Self::Plateau(_))
    }
    fn of(&self, k: u64) -> f32 {
        match self {
            Self::Cosine(lr, schedule) => lr * schedule.factor(k),
            Self::Plateau(p) => p.rate(),
        }
    }
    fn observe(&mut self, loss: f32) {
        if let Self::Plateau(p) = self {
            p.observe(loss.into());
        }
    }
}

/// The shift of iteration `k` of batch `it`: both axes uniform in `-reach..reach`.
fn jitter(reach: usize, seed: u64, it: u64, k: u64) -> Result<[i64; 2]> {
    let both = random::labels(&Device::cpu(), 2, 2 * reach, seed, stream((it << 20) + k, Draw::Roll))?;
    let both = both.to_vec::<i32>()?;
    Ok([0, 1].map(|i| i64::from(both[i]) - reach as i64))
}

/// The float network's logits.
pub(super) fn infer(network: &mut Network, x: &Tensor) -> Result<Tensor> {
    let mut tape = Tape::inference(&network.device());
    let how = Forward { float: true, ..Forward::eval() };
    Ok(network.forward(&mut tape, &[Var::constant(x.clone())], how, &Taps::default())?.output.value)
}
