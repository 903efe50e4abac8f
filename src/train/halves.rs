//! An iteration in two halves, generator step and student step, for benches and counts: launched one by one.

use super::calibrate::tracking;
use super::run::QuantizeRun;
use crate::Result;
use crate::device::KernelWork;
use std::collections::BTreeMap;
use std::time::Instant;

impl QuantizeRun {
    /// A generator step and a student step, and what `after` says after each. The first call sets the ranges.
    fn halves<R>(&mut self, it: u64, mut after: impl FnMut() -> Result<R>) -> Result<[R; 2]> {
        let (made, _) = self.generator.step(&mut self.teacher, &mut self.student, self.recipe.batch, it)?;
        let generator = after()?;
        if it == 1 {
            self.student.observe(&made.images, tracking(&self.recipe))?;
        }
        self.student.step(&mut self.teacher, &made, it + self.recipe.warmup)?;
        Ok([generator, after()?])
    }

    /// One generator and student step with a wait after each: seconds of both (benches). The first call sets the ranges.
    pub fn timed_iteration(&mut self, it: u64) -> Result<(f64, f64)> {
        let device = self.teacher.device();
        let mut start = Instant::now();
        let [generator, student] = self.halves(it, || {
            device.synchronize()?;
            let seconds = start.elapsed().as_secs_f64();
            start = Instant::now();
            Ok(seconds)
        })?;
        Ok((generator, student))
    }

    /// What a generator step and a student step ask of each kernel, once everything is warm: the third of three iterations.
    /// Empty unless the run's device counts ([`crate::device::Device::counting`]).
    pub fn work_by_kernel(&mut self) -> Result<[BTreeMap<&'static str, KernelWork>; 2]> {
        let device = self.teacher.device();
        let take = || Ok(device.gpu().map_or(BTreeMap::new(), |g| g.take_census()));
        for it in 1..3 {
            self.halves(it, take)?;
        }
        self.halves(3, take)
    }
}
