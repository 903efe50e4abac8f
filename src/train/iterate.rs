//! One iteration of a run. On the CPU it is simply done. On a GPU it is queued, and nobody waits: kinds of iterations are
//! recorded as graphs and replayed ([`Repeats`]). What differs between iterations of one kind lies in device memory
//! ([`ControlBlock`]).

use super::calibrate::follow;
use super::control::{ControlBlock, Cropping, Moment, Place, tossed};
use super::images::{self, cropped};
use super::loss_log::{Loss, LossLog, READ_EVERY, finite};
use super::repeats::Repeats;
use super::run::{Event, QuantizeRun};
use super::synthetic::Synthetic;
use crate::Result;
use crate::device::Device;
use crate::methods::{Recipe, Total};

/// Everything that iterations do or do not do: what graphs are kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    warmup: bool,
    /// The generator makes a step.
    generator: bool,
    /// The student's batch is stored images.
    stored: bool,
    /// The generator's images are cropped; the stored ones are.
    fresh_crop: bool,
    stored_crop: bool,
}

impl Kind {
    fn losses(self) -> impl Iterator<Item = Loss> {
        let student = (!self.warmup).then_some(Loss::Student);
        self.generator.then_some(Loss::Generator).into_iter().chain(student)
    }

    /// For errors.
    fn name(self) -> String {
        let parts = [
            (self.warmup, "warm-up"),
            (self.generator, "generator step"),
            (!self.warmup, "student step"),
            (self.stored, "stored images"),
            (self.fresh_crop || self.stored_crop, "crops"),
        ];
        parts.into_iter().filter(|p| p.0).map(|p| p.1).collect::<Vec<_>>().join(", ")
    }
}

/// What a run on a GPU has besides its state.
pub(super) struct Queue {
    control: ControlBlock,
    log: LossLog,
    repeats: Repeats<Kind>,
    /// It was said, or is known, why nothing is recorded.
    told: bool,
    /// Nothing at all is to be recorded.
    plain: bool,
}

impl Queue {
    /// `None` on the CPU.
    pub fn new(device: &Device, recipe: &Recipe) -> Result<Option<Self>> {
        if device.is_cpu() {
            return Ok(None);
        }
        let eager = recipe.needs_host().map(|key| format!("{key} needs the host in every step"));
        Ok(Some(Self {
            control: ControlBlock::new(device, recipe.batch)?,
            log: LossLog::new(device, recipe)?,
            repeats: Repeats::new(eager),
            told: false,
            plain: false,
        }))
    }

    /// Records no graphs.
    pub fn stay_eager(&mut self) {
        self.repeats = Repeats::new(Some("asked for".into()));
        (self.told, self.plain) = (true, true);
    }

    /// Whether other work of the run than iterations may be recorded.
    pub fn records(&self) -> bool {
        !self.plain
    }

    /// Forgets all graphs: what they write to is about to be replaced.
    pub fn forget(&mut self) {
        self.repeats.forget();
    }

    /// Number of graphs recorded.
    pub fn recorded(&self) -> usize {
        self.repeats.recorded()
    }
}

impl QuantizeRun {
    /// Does iteration `it`, or queues it.
    pub(super) fn iterate(&mut self, it: u64, report: &mut dyn FnMut(Event) -> Result<()>) -> Result<()> {
        let kind = self.kind(it)?;
        if let Some(mut queue) = self.queue.take() {
            let done = self.enqueue(&mut queue, kind, it);
            if let (Some(why), false) = (queue.repeats.eager(), queue.told) {
                queue.told = true;
                report(Event::Eager { why })?;
            }
            self.queue = Some(queue);
            done?;
            return if it % READ_EVERY == 0 { self.read_losses(report) } else { Ok(()) };
        }
        let mut seen = |loss: Loss, total: &Total| -> Result<()> {
            let losses = total.read()?;
            finite(it, loss, &losses)?;
            report(event(it, loss, losses))
        };
        self.perform(kind, &Moment::now(it), &mut seen)
    }

    /// The next iteration and nothing else: no calibration after warm-up, no evaluation, no checkpoint (benches, tests). On
    /// a GPU it is queued; losses are reported when they are read.
    pub fn advance(&mut self, report: &mut dyn FnMut(Event) -> Result<()>) -> Result<()> {
        self.iterate(self.it + 1, report)?;
        self.it += 1;
        Ok(())
    }

    /// Reports the losses of all queued iterations; an error if one was not finite. On a GPU it waits if there are any.
    pub fn read_losses(&mut self, report: &mut dyn FnMut(Event) -> Result<()>) -> Result<()> {
        let Some(queue) = &mut self.queue else { return Ok(()) };
        let (found, broken) = queue.log.read()?;
        for (it, loss, losses) in found {
            report(event(it, loss, losses))?;
        }
        broken.map_or(Ok(()), Err)
    }

    fn kind(&self, it: u64) -> Result<Kind> {
        let r = &self.recipe;
        let warmup = it <= r.warmup;
        let mut kind = Kind { warmup, generator: warmup, stored: false, fresh_crop: false, stored_crop: false };
        if !warmup {
            // Low-discrepancy choice between stored and fresh images: exactly `share` of the batches, evenly spread. One
            // ahead, so that fresh batches fall on iterations that step the generator and have made images anyway.
            let share = r.images.as_ref().map_or(0.0, |i| f64::from(i.share));
            let stored = ((it + 1) as f64 * share).floor() > (it as f64 * share).floor();
            kind.stored = stored && self.pool.is_some();
            kind.generator = r.generator.every > 0 && it % r.generator.every == 0;
        }
        let crops = self.crops(kind, it);
        for (place, how, draws) in crops {
            let tossed = tossed(how, r.seed, draws)?;
            if place == Place::Fresh { kind.fresh_crop = tossed } else { kind.stored_crop = tossed }
        }
        Ok(kind)
    }

    /// What might be cropped, how, and the draws that decide it.
    fn crops(&self, kind: Kind, it: u64) -> Vec<(Place, Cropping, u64)> {
        let g = &self.recipe.generator;
        let mut crops = Vec::new();
        if kind.generator || !kind.stored {
            crops.push((Place::Fresh, (g.augment, g.augment_scale), it));
        }
        if let (true, Some(i)) = (kind.stored, &self.recipe.images) {
            crops.push((Place::Stored, (i.train_augment, i.augment_scale), images::crop_draws(it)));
        }
        crops
    }

    fn enqueue(&mut self, queue: &mut Queue, kind: Kind, it: u64) -> Result<()> {
        queue.log.expect(it, kind.losses());
        let Queue { control, log, repeats, .. } = queue;
        if repeats.eager().is_some() {
            let moment = Moment::now(it);
            return self.perform(kind, &moment, &mut |loss, total| log.record(loss, total, &moment));
        }
        let mut crops = self.crops(kind, it);
        crops.retain(|c| if c.0 == Place::Fresh { kind.fresh_crop } else { kind.stored_crop });
        let [h, w, _] = images::image_size(&self.teacher.graph)?;
        control.publish(it, self.student.rates(it), self.recipe.seed, [h, w], &crops)?;
        let moment = Moment::stored(it, control);
        let device = self.teacher.device();
        repeats.run(
            &device,
            kind,
            || kind.name(),
            || self.perform(kind, &moment, &mut |loss, total| log.record(loss, total, &moment)),
        )
    }

    /// The iteration itself: generator step; ranges tracked along in warm-up, or the student's step.
    fn perform(&mut self, kind: Kind, moment: &Moment, seen: &mut dyn FnMut(Loss, &Total) -> Result<()>) -> Result<()> {
        let n = self.recipe.batch;
        let mut fresh = None;
        if kind.generator {
            let (made, total) = self.generator.run(&mut self.teacher, &mut self.student, n, moment)?;
            seen(Loss::Generator, &total)?;
            fresh = Some(made);
        }
        if kind.warmup {
            return match fresh {
                Some(made) if self.recipe.ranges.batches == 0 => follow(&mut self.student, &made.images, &self.recipe),
                _ => Ok(()),
            };
        }
        let batch = match (&self.pool, fresh) {
            (Some(pool), _) if kind.stored => {
                cropped(pool.batch_at(n, self.recipe.seed, moment)?, &self.recipe, moment)?
            }
            (_, Some(made)) => made,
            _ => {
                let (images, labels) = self.generator.sample_at(n, moment, false)?;
                Synthetic { images, labels, teacher_logits: None }
            }
        };
        let total = self.student.run(&mut self.teacher, &batch, moment)?;
        seen(Loss::Student, &total)
    }
}

fn event(it: u64, loss: Loss, losses: crate::methods::Losses) -> Event<'static> {
    match loss {
        Loss::Generator => Event::Generator { it, losses },
        Loss::Student => Event::Student { it, losses },
    }
}
