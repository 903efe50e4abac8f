//! Images optimised directly through the teacher (after ZeroQ, Cai et al. 2020: the images are the parameters), kept and
//! drawn from at random. Ours: they start from a trained generator's images, which shortens the optimisation.

use super::control::{ControlBlock, Moment, Place, tossed};
use super::generator_step::{DRAWS, Draw, GeneratorStep, Surroundings, stream, teacher_loss};
use super::repeats::Repeats;
use super::run::Event;
use super::synthetic::Synthetic;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::graph::{Forward, Graph, InputKind, Network, STREAMS, Swing, Taps};
use crate::methods::terms::{Conditions, MarginalDistance, Memory};
use crate::methods::{ImagesRecipe, ImagesSchedule, Recipe};
use crate::ops::accuracy::argmax;
use crate::ops::random::{self, Stream};
use crate::ops::{
    embedding::embedding,
    roll::{Shift, roll},
};
use crate::optim::{Adam, Plateau, Schedule};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Iteration numbers of the pool's own draws start here, away from the loop's.
const DRAW_BASE: u64 = 1 << 40;
/// Those of crops of stored images for the student.
const CROP_BASE: u64 = 1 << 43;
/// And those of swing convolutions, of which each node of an iteration has one.
const SWING: u64 = 1 << 61;

/// Returns `[h, w, c]` of the images that `network` takes. Errors if it takes none.
pub(super) fn image_size(network: &Graph) -> Result<[usize; 3]> {
    match &network.inputs[..] {
        [InputKind::Real(sample)] => match sample[..] {
            [h, w, c] => Ok([h, w, c]),
            _ => {
                let detail = format!("takes inputs of shape {sample:?}; images are height, width, channels");
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
    /// Optimises `count` images (rounded up to whole batches) on the teacher's device; reports [`Event::Images`] after each
    /// batch. `graphs`: a GPU records iterations and replays them where nothing stands against it.
    pub fn make(
        teacher: &mut Network,
        generator: &mut GeneratorStep,
        recipe: &Recipe,
        r: &ImagesRecipe,
        count: usize,
        graphs: bool,
        report: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Self> {
        let device = &teacher.device();
        let n = recipe.batch;
        let batches = count.div_ceil(n);
        let classes = teacher.graph.classes;
        let shape @ [h, w, c] = image_size(&teacher.graph)?;
        let row = h * w * c;
        let images = Tensor::empty(device, [batches * n, row], DType::F32)?;
        let labels = Tensor::empty(device, [batches * n], DType::I32)?;
        let logits = Tensor::empty(device, [batches * n, classes], DType::F32)?;
        let mut memory = Memory::default();
        let mut batch = Batch::new(device, [n, h, w, c])?;
        let control = if graphs && !device.is_cpu() && records(r) { Some(ControlBlock::new(device, n)?) } else { None };
        let shifted = control.is_some() && (r.roll > 0 || r.swing);
        let counters = if shifted { Some(Tensor::zeros(device, [4], DType::I32)?) } else { None };
        let mut repeats = Repeats::new(control.is_none().then(|| "the host is needed".into()));
        for b in 0..batches {
            let it = DRAW_BASE + b as u64;
            let (start, y) = if r.from_generator {
                generator.sample(n, it, false)?
            } else {
                let noise = random::normal(device, [n, h, w, c], recipe.seed, stream(it, Draw::Noise))?;
                (noise, random::labels(device, n, classes, recipe.seed, stream(it, Draw::Labels))?)
            };
            batch.begin(&start, &y)?;
            let mut rate = Rate::new(r);
            let mut last = f32::NAN;
            for k in 0..r.iters {
                let (how, draws) = ((r.augment, r.augment_scale), (it << 20) + k);
                let crop = tossed(how, recipe.seed, draws)?;
                let moment = match &control {
                    None => Moment::now(it),
                    Some(control) => {
                        let crops: &[_] = if crop { &[(Place::Stored, how, draws)] } else { &[] };
                        control.publish(it, [rate.of(k), 0.0], recipe.seed, [h, w], crops)?;
                        Moment::stored(it, control)
                    }
                };
                let shifts = Shifts { r, seed: recipe.seed, b: b as u64, k, counters: counters.as_ref() };
                shifts.publish()?;
                let name = || format!("stored images{}", if crop { ", cropped" } else { "" });
                repeats.run(device, crop, name, || {
                    let mut tape = Tape::new(device);
                    let mut seen = tape.parameter(batch.x.clone(), batch.grad.clone());
                    if r.roll > 0 {
                        seen = roll(&mut tape, &seen, shifts.roll()?)?;
                    }
                    let seen = moment.augment(&mut tape, seen, Place::Stored, how, recipe.seed, draws)?;
                    let (student, memory, seed) = (None, &mut memory, recipe.seed);
                    let rest = Surroundings { student, memory, seed, moment: &moment, swing: shifts.swing() };
                    teacher.count_draws(shifts.passes()?);
                    let found = teacher_loss(&mut tape, teacher, &r.loss, &seen, &batch.conditions, rest);
                    teacher.count_draws(None);
                    let total = found?.0;
                    batch.loss.copy_from(&total.loss.value)?;
                    tape.backward(&total.loss)?;
                    batch.adam.step(&mut batch.x, &batch.grad, moment.weights_rate(rate.of(k))?)
                })?;
                if let Some(why) = repeats.failure() {
                    report(Event::Eager { why: &format!("stored images: {why}") })?;
                }
                // Reading the loss waits for the device.
                if k + 1 == r.iters || rate.listens() {
                    last = batch.loss.item()? as f32;
                }
                rate.observe(last);
            }
            if r.loss.marginal_distance.as_ref().is_some_and(|t| t.weight > 0.0) {
                MarginalDistance::remember(&mut memory, teacher, &batch.x, &y)?;
            }
            images.view(b * n * row, [n, row])?.copy_from(&batch.x.reshape([n, row])?)?;
            labels.view(b * n, [n])?.copy_from(&y)?;
            logits.view(b * n * classes, [n, classes])?.copy_from(&infer(teacher, &batch.x)?)?;
            report(Event::Images { done: b + 1, of: batches, loss: last })?;
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

    /// Makes a pool of `images` `[count h w c]` that the caller has, normalized. The labels are what the teacher calls them.
    /// Logits are computed in batches of `n`.
    pub fn of(teacher: &mut Network, images: &Tensor, n: usize) -> Result<Self> {
        let device = teacher.device();
        let shape @ [h, w, c] = image_size(&teacher.graph)?;
        let (count, row) = (images.dim(0), h * w * c);
        crate::ensure_op!(
            images.len() == count * row && count > 0,
            "images",
            "{} are not images of {h}x{w}x{c}",
            images.shape()
        );
        let logits = Tensor::empty(&device, [count, teacher.graph.classes], DType::F32)?;
        let mut labels = Vec::with_capacity(count);
        for start in (0..count).step_by(n.max(1)) {
            let n = n.max(1).min(count - start);
            let found = infer(teacher, &images.view(start * row, [n, h, w, c])?)?;
            labels.extend(argmax(&found)?);
            logits.view(start * teacher.graph.classes, [n, teacher.graph.classes])?.copy_from(&found)?;
        }
        let labels = Tensor::from_slice(&device, [count], &labels)?;
        Ok(Self { images: images.reshape([count, row])?, labels, teacher_logits: logits, shape })
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

/// Whether iterations can be recorded: no term needs the host, and none remembers earlier batches, in tensors that change their
/// places.
fn records(r: &ImagesRecipe) -> bool {
    let remembers = r.loss.marginal_distance.as_ref().is_some_and(|t| t.weight > 0.0);
    !remembers && !r.loss.terms().iter().any(|t| t.needs_host())
}

/// The batch that is optimised: in one place for all batches, as recorded iterations write to it.
struct Batch {
    x: Tensor,
    grad: Tensor,
    adam: Adam,
    conditions: Conditions,
    /// Of the last iteration.
    loss: Tensor,
}

impl Batch {
    fn new(device: &Device, shape: [usize; 4]) -> Result<Self> {
        let x = Tensor::empty(device, shape, DType::F32)?;
        let labels = Var::constant(Tensor::empty(device, [shape[0]], DType::I32)?);
        Ok(Self {
            grad: Tensor::zeros(device, shape, DType::F32)?,
            adam: Adam::new(&x, 0.9, 0.999, 1e-8)?,
            x,
            conditions: Conditions { labels, noise: None, centers: None, center_input: None },
            loss: Tensor::empty(device, [1], DType::F32)?,
        })
    }

    /// A new batch from here.
    fn begin(&mut self, start: &Tensor, labels: &Tensor) -> Result<()> {
        self.x.copy_from(start)?;
        self.conditions.labels.value.copy_from(labels)?;
        self.adam.restart()
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

/// How iteration `k` of batch `b` shifts images and maps.
struct Shifts<'a> {
    r: &'a ImagesRecipe,
    seed: u64,
    b: u64,
    k: u64,
    /// Where recorded iterations find what their draws are formed from: I32 `[4]`, the number of the teacher's pass and that of
    /// the image's shift, low words first.
    counters: Option<&'a Tensor>,
}

impl Shifts<'_> {
    /// Of the teacher's pass, counted in a pass's streams.
    fn pass(&self) -> u64 {
        (self.b << 24) + self.k
    }
    /// Of the shift of images.
    fn shift(&self) -> u64 {
        ((DRAW_BASE + self.b) << 20) + self.k
    }
    /// Queues the numbers to be written.
    fn publish(&self) -> Result<()> {
        let Some(words) = self.counters else { return Ok(()) };
        let [pass, shift] = [self.pass(), self.shift()].map(|v| [v as i32, (v >> 32) as i32]);
        words.clone().write_queued(&[pass, shift].concat())
    }
    /// Both axes uniform in `-reach..reach`.
    fn roll(&self) -> Result<Shift> {
        let reach = self.r.roll;
        if let Some(words) = self.counters {
            let draws = Stream::counted(&words.view(2, [2])?, DRAWS, Draw::Roll as u64);
            return Ok(Shift::Stored(random::labels(&words.device(), 2, 2 * reach, self.seed, draws)?, reach));
        }
        let both = random::labels(&Device::cpu(), 2, 2 * reach, self.seed, stream(self.shift(), Draw::Roll))?;
        let both = both.to_vec::<i32>()?;
        Ok([0, 1].map(|i| i64::from(both[i]) - reach as i64).into())
    }
    fn swing(&self) -> Option<Swing> {
        // Where passes are counted the network adds the pass's streams itself.
        let pass = if self.counters.is_some() { 0 } else { self.pass() };
        self.r.swing.then_some(Swing { seed: self.seed, stream: SWING + pass * STREAMS })
    }
    /// For [`Network::count_draws`].
    fn passes(&self) -> Result<Option<Tensor>> {
        self.counters.map(|words| words.view(0, [2])).transpose()
    }
}

/// The float network's logits.
pub(super) fn infer(network: &mut Network, x: &Tensor) -> Result<Tensor> {
    let mut tape = Tape::inference(&network.device());
    let how = Forward { float: true, ..Forward::eval() };
    Ok(network.forward(&mut tape, &[Var::constant(x.clone())], how, &Taps::default())?.output.value)
}
