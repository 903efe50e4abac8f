//! The quantization run: warm-up, images, calibration, student steps, evaluation, selection without data, checkpoints.

use super::calibrate::{calibrate, clip, set_weight_ranges};
use super::checkpoint;
use super::diagnosis::{Diagnosis, diagnose};
use super::evaluate::{Accuracy, evaluate};
use super::generator_step::GeneratorStep;
use super::images::{ImagePool, image_size, infer};
use super::iterate::Queue;
use super::reconstruct::{BlockReport, Rebuilding, reconstruct};
use super::select::Tally;
use super::student_step::StudentStep;
use crate::autograd::{Tape, Var};
use crate::data::{Dataset, Normalization};
use crate::device::Device;
use crate::graph::passes::{quantize, tune_bn, with_math};
use crate::graph::{Forward, Network, RangeMode, Taps};
use crate::methods::{BnMode, Losses, Recipe};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A labelled test set, for reporting only: nothing in the run depends on it.
pub struct TestSet {
    pub name: String,
    pub data: Dataset,
}

/// What a run reports while it goes.
pub enum Event<'a> {
    /// Losses of steps come when somebody looks at them: on the CPU at once, on a GPU together after some iterations.
    Generator {
        it: u64,
        losses: Losses,
    },
    Images {
        done: usize,
        of: usize,
        loss: f32,
    },
    Student {
        it: u64,
        losses: Losses,
    },
    Block {
        report: &'a BlockReport,
        done: usize,
        of: usize,
    },
    Evaluated {
        tally: &'a Tally,
        phase: &'a str,
    },
    /// On a GPU: steps are not recorded as graphs, and why. Once, before the first of them is reported.
    Eager {
        why: &'a str,
    },
}

/// Results of a finished run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    pub fp: Vec<Accuracy>,
    pub ptq: Tally,
    pub last: Tally,
    pub selected: Tally,
    /// Best on each test set, chosen on the test set as papers do.
    pub best: Vec<Accuracy>,
}

/// A run with all its state.
pub struct QuantizeRun {
    pub recipe: Recipe,
    pub teacher: Network,
    pub student: StudentStep,
    pub generator: GeneratorStep,
    pub pool: Option<ImagePool>,
    pub norm: Normalization,
    /// Last finished iteration.
    pub it: u64,
    pub(super) progress: Progress,
    /// Parameters and ranges of the selected student.
    pub(super) selected: Option<(Tensor, Tensor)>,
    /// Synthetic images that nobody trains on, and the teacher's logits: made once after warm-up (the generator's, or
    /// stored images set aside), so that all evaluations of a run are compared on the same images although the generator
    /// moves on.
    pub held_out: Vec<(Tensor, Tensor)>,
    pub(super) queue: Option<Queue>,
    /// Images of the caller, `[n h w c]`, until they become the pool.
    given: Option<Tensor>,
}

/// The part of the state that is plain data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    pub fp: Vec<Accuracy>,
    pub ptq: Option<Tally>,
    pub last: Option<Tally>,
    pub selected: Option<Tally>,
    pub best: Vec<Accuracy>,
}

/// Draws of the images of the data-free criterion, away from the loop's.
const HELD_OUT_BASE: u64 = 1 << 42;
/// Stored images of a diagnosis, at most, and the draws of one.
const DIAGNOSED: usize = 512;
const DIAGNOSED_BASE: u64 = 1 << 43;

impl QuantizeRun {
    /// A run at its start. The teacher is frozen from here on.
    pub fn new(device: &Device, mut teacher: Network, norm: Normalization, recipe: Recipe) -> Result<Self> {
        recipe.validate()?;
        recipe.check_teacher(&teacher.graph)?;
        teacher.params.freeze();
        teacher.graph = Arc::new(with_math(&teacher.graph, recipe.math.into()));
        let mut graph = quantize(&teacher.graph, recipe.quantize_spec())?;
        if recipe.student.bn == BnMode::Tune {
            graph = tune_bn(&graph);
        }
        let mut student = Network::new(device, graph, recipe.seed)?;
        student.copy_from(&teacher)?;
        let mut student = StudentStep::new(student, &recipe)?;
        set_weight_ranges(&mut student, &recipe)?;
        if recipe.teacher_bn == BnMode::Tune {
            teacher.graph = Arc::new(tune_bn(&teacher.graph));
        }
        let generator = GeneratorStep::new(device, image_size(&teacher.graph)?, teacher.graph.classes, &recipe)?;
        let queue = Queue::new(device, &recipe)?;
        Ok(Self {
            recipe,
            teacher,
            student,
            generator,
            pool: None,
            norm,
            it: 0,
            progress: Progress::default(),
            selected: None,
            held_out: Vec::new(),
            queue,
            given: None,
        })
    }

    /// Uses `images` `[n h w c]`, normalized, on the teacher's device, in place of synthetic ones: for a recipe with
    /// `images.given`. A part is set aside for the data-free criterion.
    ///
    /// Errors if the recipe does not take them, their shape is another, or there are fewer than two batches.
    pub fn give_images(&mut self, images: Tensor) -> Result<()> {
        let fail = |detail: String| Err(Error::config("--images", detail));
        if !self.recipe.images.as_ref().is_some_and(|i| i.given) {
            return fail("the recipe makes its own images; Recipe::take_images changes that".into());
        }
        let size = image_size(&self.teacher.graph)?;
        if images.shape().len() != 4 || images.shape()[1..] != size {
            return fail(format!("{} are not images of {size:?}", images.shape()));
        }
        let (n, batch) = (images.dim(0), self.recipe.batch);
        if n < 2 * batch {
            let detail = format!("{n} images; two batches of {batch} are needed: one to train on, one to compare on");
            return fail(format!("{detail}. Give more images, or lower --batch"));
        }
        self.given = Some(images);
        Ok(())
    }

    /// Whether the recipe waits for [`QuantizeRun::give_images`].
    pub fn wants_images(&self) -> bool {
        self.recipe.images.as_ref().is_some_and(|i| i.given) && self.pool.is_none() && self.given.is_none()
    }

    /// On a GPU, steps are launched kernel by kernel instead of being recorded as graphs. Results are the same.
    pub fn without_graphs(mut self) -> Self {
        if let Some(queue) = &mut self.queue {
            queue.stay_eager();
        }
        self
    }

    /// Number of kinds of iterations that are recorded as graphs now.
    pub fn graphs(&self) -> usize {
        self.queue.as_ref().map_or(0, Queue::recorded)
    }

    /// Runs to the end, or until `stop` is set: then a checkpoint is written to `folder` and the error says how to go on.
    /// A loss that is not finite ends the run too, and no checkpoint is written after it; on a GPU this is noticed up to 50
    /// iterations later, when losses are read.
    pub fn run(
        &mut self,
        tests: &[TestSet],
        folder: &Path,
        checkpoint_every: u64,
        stop: &AtomicBool,
        report: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<Summary> {
        if self.progress.fp.is_empty() {
            for t in tests {
                let how = Forward { float: true, ..Forward::eval() };
                self.progress.fp.push(evaluate(&mut self.teacher, &t.data, &self.norm, how)?);
            }
        }
        while self.it < self.recipe.iters {
            if stop.load(Ordering::Relaxed) {
                self.read_losses(report)?;
                checkpoint::save(self, folder)?;
                return Err(Error::Interrupted { step: self.it, run: folder.to_path_buf() });
            }
            if self.it == self.recipe.warmup && self.progress.ptq.is_none() {
                self.finish_warmup(tests, folder, stop, report)?;
            }
            let it = self.it + 1;
            self.iterate(it, report)?;
            self.it = it;
            let due = it > self.recipe.warmup && (it % self.recipe.eval_every == 0 || it == self.recipe.iters);
            let save = checkpoint_every > 0 && it % checkpoint_every == 0 && it < self.recipe.iters;
            if due || save {
                self.read_losses(report)?;
            }
            if due {
                let tally = self.tally(tests)?;
                self.consider(&tally)?;
                report(Event::Evaluated { tally: &tally, phase: "student" })?;
                self.progress.last = Some(tally);
            }
            if save {
                checkpoint::save(self, folder)?;
            }
        }
        if self.progress.ptq.is_none() {
            self.finish_warmup(tests, folder, stop, report)?;
        }
        let ptq = self.progress.ptq.clone().expect("set by finish_warmup");
        Ok(Summary {
            fp: self.progress.fp.clone(),
            last: self.progress.last.clone().unwrap_or_else(|| ptq.clone()),
            selected: self.progress.selected.clone().unwrap_or_else(|| ptq.clone()),
            best: self.progress.best.clone(),
            ptq,
        })
    }

    /// Stored images, calibration, reconstruction, and the first evaluations.
    fn finish_warmup(
        &mut self,
        tests: &[TestSet],
        folder: &Path,
        stop: &AtomicBool,
        report: &mut dyn FnMut(Event) -> Result<()>,
    ) -> Result<()> {
        self.read_losses(report)?;
        if let Some(queue) = &mut self.queue {
            // Their kinds do not come again, and what they write to is set anew.
            queue.forget();
        }
        if let (Some(images), None) = (self.recipe.images.as_ref().filter(|i| i.count > 0), &self.pool) {
            let graphs = self.queue.as_ref().is_some_and(Queue::records);
            let (teacher, generator) = (&mut self.teacher, &mut self.generator);
            let n = self.recipe.batch;
            let mut aside = if self.recipe.sets_images_aside() { self.recipe.held_out() / n } else { 0 };
            let mut pool = if images.given {
                let Some(given) = self.given.take() else {
                    return Err(Error::config("images.given", "the run was given no images; start it with --images"));
                };
                // Of fewer images than the recipe has room for, a fifth.
                aside = aside.min(given.dim(0) / (5 * n)).max(1);
                ImagePool::of(teacher, &given, n)?
            } else {
                let count = self.recipe.stored_images();
                ImagePool::make(teacher, generator, &self.recipe, images, count, graphs, report)?
            };
            self.held_out = pool.set_aside(aside, n)?;
            self.pool = Some(pool);
        }
        if self.held_out.is_empty() {
            for b in 0..(self.recipe.held_out() / self.recipe.batch) as u64 {
                let (x, _) = self.generator.sample(self.recipe.batch, HELD_OUT_BASE + b, true)?;
                let t = infer(&mut self.teacher, &x)?;
                self.held_out.push((x, t));
            }
        }
        if self.recipe.ranges.batches > 0 {
            calibrate(&mut self.student, &mut self.generator, self.pool.as_ref(), &self.recipe)?;
        }
        clip(&mut self.student, &self.recipe)?;
        let tally = self.tally(tests)?;
        self.consider(&tally)?;
        report(Event::Evaluated { tally: &tally, phase: "calibrated" })?;
        if let (Some(r), Some(pool)) = (&self.recipe.reconstruction, &self.pool) {
            let (student, teacher) = (&mut self.student.network, &mut self.teacher);
            let graphs = self.queue.as_ref().is_some_and(Queue::records);
            let how = Rebuilding { recipe: r, seed: self.recipe.seed, graphs, stop };
            if !reconstruct(student, teacher, pool, how, report)? {
                // Without `ptq` the resumed run calibrates and rebuilds anew.
                checkpoint::save(self, folder)?;
                return Err(Error::Interrupted { step: self.it, run: folder.to_path_buf() });
            }
            let rebuilt = self.tally(tests)?;
            self.consider(&rebuilt)?;
            report(Event::Evaluated { tally: &rebuilt, phase: "reconstructed" })?;
            self.progress.last = Some(rebuilt);
        }
        self.progress.ptq = Some(tally);
        Ok(())
    }

    /// Writes a checkpoint that [`QuantizeRun::resume`] continues from bit for bit. Errors if a loss since the last reading
    /// was not finite.
    pub fn checkpoint(&mut self, folder: &Path) -> Result<()> {
        self.read_losses(&mut |_| Ok(()))?;
        checkpoint::save(self, folder)
    }

    /// Whether warm-up is over and its students were evaluated.
    pub fn calibrated(&self) -> bool {
        self.progress.ptq.is_some()
    }

    /// Restores the state of `folder`'s checkpoint into a fresh run of the same recipe and teacher.
    pub fn resume(&mut self, folder: &Path) -> Result<()> {
        if let Some(queue) = &mut self.queue {
            queue.forget();
        }
        checkpoint::load(self, folder)
    }

    /// Current synthetic samples, for pictures: stored images where the generator is not trained.
    pub fn samples(&mut self, n: usize) -> Result<Tensor> {
        if let (Some(pool), false) = (&self.pool, self.recipe.trains_generator()) {
            return Ok(pool.in_order(0, n.clamp(1, pool.labels.len()))?.0);
        }
        Ok(self.generator.sample(n.max(2), HELD_OUT_BASE - 1, true)?.0)
    }

    /// What the images are like that the student was fed at the end: `generator` (as it stands) and `stored`.
    pub fn diagnose(&mut self) -> Result<Vec<(&'static str, Diagnosis)>> {
        let n = self.recipe.batch;
        let mut found = Vec::new();
        if self.recipe.trains_generator() {
            // As many as students are compared on.
            let draws = 0..self.held_out.len() as u64;
            let fresh =
                draws.map(|b| self.generator.sample(n, DIAGNOSED_BASE + b, true)).collect::<Result<Vec<_>>>()?;
            found.push(("generator", diagnose(&mut self.teacher, &fresh)?));
        }
        if let Some(pool) = &self.pool {
            let batches = pool.labels.len().min(DIAGNOSED) / n;
            let stored = (0..batches.max(1)).map(|b| pool.in_order(b, n)).collect::<Result<Vec<_>>>()?;
            found.push(("stored", diagnose(&mut self.teacher, &stored)?));
        }
        Ok(found)
    }

    /// Student logits, for tests.
    pub fn student_logits(&mut self, x: &Tensor) -> Result<Tensor> {
        self.student.observe(x, RangeMode::Frozen)
    }

    /// Teacher logits, for tests.
    pub fn teacher_logits(&mut self, x: &Tensor) -> Result<Tensor> {
        let mut tape = Tape::inference(&x.device());
        Ok(self
            .teacher
            .forward(&mut tape, &[Var::constant(x.clone())], Forward::eval(), &Taps::default())?
            .output
            .value)
    }
}
