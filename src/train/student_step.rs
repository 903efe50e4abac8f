//! One student iteration: the recipe's loss terms, SGD on the weights, Adam on the ranges when they are learned.

use super::control::Moment;
use super::synthetic::Synthetic;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::{Forward, Graph, Network, RangeMode, Taps};
use crate::methods::terms::{Heads, StudentView};
use crate::methods::{Losses, Recipe, SteName, StudentLoss, StudentOptimizer, Total, WeightRanges};
use crate::ops::elementwise::add;
use crate::ops::fake_quant::Ste;
use crate::ops::low_pass::low_pass;
use crate::ops::sign_step::sign_step;
use crate::optim::inundation::{Inundation, inundation_factor};
use crate::optim::{Adam, Schedule, Sgd};
use crate::tensor::Tensor;

/// What steps the student's weights.
pub enum WeightOptimizer {
    Sgd(Sgd),
    Adam(Adam),
}

/// A quantized student and its optimizers.
pub struct StudentStep {
    pub network: Network,
    pub weights: WeightOptimizer,
    /// Of the ranges, when they are learned.
    pub adam: Option<Adam>,
    schedule: Schedule,
    recipe: Recipe,
}

impl StudentStep {
    pub fn new(mut network: Network, recipe: &Recipe) -> Result<Self> {
        network.params.train()?;
        let s = &recipe.student;
        let values = network.params.values();
        let weights = match s.optimizer {
            StudentOptimizer::Sgd => WeightOptimizer::Sgd(Sgd::new(values, s.momentum, s.weight_decay, true)?),
            StudentOptimizer::Adam => WeightOptimizer::Adam(Adam::new(values, 0.9, 0.999, 1e-8)?),
        };
        let mut adam = None;
        if recipe.ranges.lr > 0.0 {
            network.ranges.train()?;
            adam = Some(Adam::new(network.ranges.values(), 0.9, 0.999, 1e-8)?);
        }
        let schedule = recipe.student.schedule.over(recipe.iters - recipe.warmup);
        Ok(Self { network, weights, adam, schedule, recipe: recipe.clone() })
    }

    /// How the student runs under this recipe, with the given treatment of activation ranges.
    pub fn forward_mode(&self, ranges: RangeMode) -> Forward {
        let ste = match self.recipe.student.ste {
            SteName::Identity => Ste::Identity,
            SteName::Clipped => Ste::Clipped,
            SteName::Lsq => Ste::Lsq,
        };
        Forward { ranges, ste, weight_min_max: self.recipe.ranges.weights == WeightRanges::MinMax, ..Forward::eval() }
    }

    /// Logits without gradients; ranges tracked if `ranges` says so.
    pub fn observe(&mut self, images: &Tensor, ranges: RangeMode) -> Result<Tensor> {
        let mut tape = Tape::inference(&self.network.device());
        let how = self.forward_mode(ranges);
        Ok(self.network.forward(&mut tape, &[Var::constant(images.clone())], how, &Taps::default())?.output.value)
    }

    /// The images as both networks see them in training.
    fn filtered(&self, images: &Tensor) -> Result<Tensor> {
        let mut tape = Tape::inference(&self.network.device());
        Ok(low_pass(&mut tape, &Var::constant(images.clone()), self.recipe.student.low_pass)?.value)
    }

    /// Lists what `loss` looks at besides the logits: the maps that are compared, then the last feature map.
    fn taps(graph: &Graph, loss: &StudentLoss) -> Result<Taps> {
        let mut nodes = if loss.needs_bodies() { graph.compared_maps()? } else { Vec::new() };
        if loss.needs_head() {
            nodes.push(graph.pooled_head("the student's loss")?.map);
        }
        Ok(Taps { bn_stats: false, nodes })
    }

    /// The teacher's pass over `images`, unless its `logits` are known and nothing else of it is wanted.
    fn lesson(
        &self,
        teacher: &mut Network,
        loss: &StudentLoss,
        images: &Tensor,
        logits: Option<&Tensor>,
    ) -> Result<Lesson> {
        let taps = Self::taps(&teacher.graph, loss)?;
        if let (Some(logits), true) = (logits, taps.nodes.is_empty()) {
            return Ok(Lesson { logits: logits.clone(), bodies: Vec::new(), head: None });
        }
        let mut tape = Tape::inference(&self.network.device());
        let out = teacher.forward(&mut tape, &[Var::constant(images.clone())], Forward::eval(), &taps)?;
        let mut bodies: Vec<Tensor> = out.taps.into_iter().map(|v| v.value).collect();
        let mut head = None;
        if loss.needs_head() {
            let weight = teacher.graph.pooled_head("the student's loss")?.weight;
            head = bodies.pop().zip(Some(teacher.linear_weight(&weight, Forward::eval())?));
        }
        Ok(Lesson { logits: logits.cloned().unwrap_or(out.output.value), bodies, head })
    }

    /// The terms of `loss`, times `factor`, of `images` on the tape.
    fn total(
        &mut self,
        tape: &mut Tape,
        loss: &StudentLoss,
        factor: f32,
        images: &Var,
        labels: &Tensor,
        lesson: &Lesson,
    ) -> Result<Total> {
        let how = self.forward_mode(RangeMode::Frozen);
        let taps = Self::taps(&self.network.graph, loss)?;
        let out = self.network.forward(tape, std::slice::from_ref(images), how, &taps)?;
        let mut bodies = out.taps;
        let mut heads = None;
        if let Some((teacher_map, teacher_weight)) = &lesson.head {
            let weight = self.network.graph.pooled_head("the student's loss")?.weight;
            let weight = self.network.linear_weight(&weight, how)?;
            let map = bodies.pop().expect("tapped last");
            heads = Some(Heads { map, weight, teacher_map, teacher_weight: teacher_weight.clone() });
        }
        let view = StudentView {
            logits: out.output,
            labels: &Var::constant(labels.clone()),
            teacher_logits: &lesson.logits,
            bodies,
            teacher_bodies: &lesson.bodies,
            heads,
        };
        loss.total(tape, &view, factor)
    }

    /// Learning rates of weights and ranges in iteration `it`.
    pub(super) fn rates(&self, it: u64) -> [f32; 2] {
        let rate = self.schedule.factor(self.done(it));
        [self.recipe.student.lr * rate, self.recipe.ranges.lr * rate]
    }

    /// Student steps before iteration `it`.
    fn done(&self, it: u64) -> u64 {
        it.saturating_sub(self.recipe.warmup + 1)
    }

    /// One step on a batch, and its losses.
    pub fn step(&mut self, teacher: &mut Network, batch: &Synthetic, it: u64) -> Result<Losses> {
        self.run(teacher, batch, &Moment::now(it))?.read()
    }

    /// The same in iteration `moment`; nothing is waited for unless the recipe inundates.
    pub(super) fn run(&mut self, teacher: &mut Network, batch: &Synthetic, moment: &Moment) -> Result<Total> {
        let filter = self.recipe.student.low_pass > 0.0;
        let images = if filter { self.filtered(&batch.images)? } else { batch.images.clone() };
        let logits = batch.teacher_logits.as_ref().filter(|_| !filter);
        let loss = self.recipe.student_loss.clone();
        let lesson = self.lesson(teacher, &loss, &images, logits)?;
        let mut tape = Tape::new(&self.network.device());
        let copy = self.recipe.student.perturb > 0.0 && self.recipe.student.perturb_weight > 0.0;
        let x = if copy { tape.leaf(images) } else { Var::constant(images) };
        let mut total = self.total(&mut tape, &loss, 1.0, &x, &batch.labels, &lesson)?;
        let gradients = tape.backward(&total.loss)?;
        let (mut grads, mut range_grads) = self.gradients()?;
        if copy {
            // The second backward pass overwrites the first one's.
            let first = (grads.duplicate()?, range_grads.map(|g| g.duplicate()).transpose()?);
            let slope = gradients.of(&x).expect("every loss depends on the images");
            total = total.and(&self.copy(teacher, &x.value, &slope, &batch.labels)?)?;
            let (second, range_second) = self.gradients()?;
            grads = sum(first.0, second)?;
            range_grads = first.1.zip(range_second).map(|(a, b)| sum(a, b)).transpose()?;
        }
        let [lr, ranges_lr] = self.rates(moment.it);
        let factors = self.inundate(&grads, lr, self.done(moment.it))?;
        let (lr, ranges_lr) = (moment.weights_rate(lr)?, moment.ranges_rate(ranges_lr)?);
        let values = self.network.params.values_mut();
        match &mut self.weights {
            WeightOptimizer::Sgd(sgd) => sgd.step_scaled(values, &grads, lr, &factors)?,
            WeightOptimizer::Adam(adam) => adam.step(values, &grads, lr)?,
        }
        if let (Some(adam), Some(grads)) = (&mut self.adam, range_grads) {
            adam.step(self.network.ranges.values_mut(), &grads, ranges_lr)?;
        }
        Ok(total)
    }

    /// Factors on the rate `lr` of the quantized weights, in the order of the flat buffer, after `done` student steps: none
    /// unless the recipe inundates.
    fn inundate(&self, grads: &Tensor, lr: f32, done: u64) -> Result<Vec<(usize, usize, f32)>> {
        let Some(r) = self.recipe.student.inundation.as_ref().filter(|r| r.tau > 0.0) else { return Ok(Vec::new()) };
        let WeightOptimizer::Sgd(sgd) = &self.weights else { return Ok(Vec::new()) };
        let spec = Inundation {
            target: r.tau * self.schedule.factor(done),
            cap: (r.cap > 0.0 && done < r.cap_steps).then_some(r.cap),
            bisections: r.bisections,
        };
        let Network { graph, params, ranges, .. } = &self.network;
        let next = sgd.next_step(params.values(), grads, lr)?;
        let mut parts = Vec::new();
        for q in graph.quantizers().into_iter().filter(|q| q.weight) {
            let (start, length) = params.span(&q.name)?;
            let weights = params.get(&q.name)?;
            let step = next.view(start, weights.shape())?;
            let factor = if self.recipe.ranges.weights == WeightRanges::MinMax {
                inundation_factor(&weights, &step, q.bits, None, spec)?
            } else {
                let (lo, hi) = (ranges.get(&format!("{}.lo", q.name))?, ranges.get(&format!("{}.hi", q.name))?);
                inundation_factor(&weights, &step, q.bits, Some([&lo, &hi]), spec)?
            };
            parts.push((start, length, factor));
        }
        parts.sort_by_key(|p| p.0);
        Ok(parts)
    }

    /// The loss of `x` moved against the student along `slope` (HAST), weighted; its gradients replace those before.
    fn copy(&mut self, teacher: &mut Network, x: &Tensor, slope: &Tensor, labels: &Tensor) -> Result<Total> {
        let images = sign_step(x, slope, self.recipe.student.perturb)?;
        let loss = self.recipe.copy_loss();
        let lesson = self.lesson(teacher, &loss, &images, None)?;
        let mut tape = Tape::new(&self.network.device());
        let weight = self.recipe.student.perturb_weight;
        let total = self.total(&mut tape, &loss, weight, &Var::constant(images), labels, &lesson)?;
        tape.backward(&total.loss)?;
        Ok(total)
    }

    /// What the last backward pass left: for the parameters and, where they are trained, the ranges. Overwritten by the next.
    fn gradients(&mut self) -> Result<(Tensor, Option<Tensor>)> {
        let params = self.network.params.flat()?.1.clone();
        let ranges = if self.adam.is_some() { Some(self.network.ranges.flat()?.1.clone()) } else { None };
        Ok((params, ranges))
    }
}

fn sum(a: Tensor, b: Tensor) -> Result<Tensor> {
    let mut tape = Tape::inference(&a.device());
    Ok(add(&mut tape, &Var::constant(a), &Var::constant(b))?.value)
}

/// The teacher's side of a batch.
struct Lesson {
    logits: Tensor,
    bodies: Vec<Tensor>,
    /// Last feature map and the linear layer's weight.
    head: Option<(Tensor, Tensor)>,
}
