//! One student iteration: the recipe's loss terms, SGD on the weights, Adam on the ranges when they are learned.

use super::synthetic::Synthetic;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::{Forward, Graph, Network, RangeMode, Taps};
use crate::methods::terms::{Heads, StudentView};
use crate::methods::{Losses, Recipe, SteName, Total, WeightRanges};
use crate::ops::fake_quant::Ste;
use crate::ops::low_pass::low_pass;
use crate::optim::{Adam, Schedule, Sgd};
use crate::tensor::Tensor;

/// A quantized student and its optimizers.
pub struct StudentStep {
    pub network: Network,
    pub sgd: Sgd,
    pub adam: Option<Adam>,
    schedule: Schedule,
    recipe: Recipe,
}

impl StudentStep {
    pub fn new(mut network: Network, recipe: &Recipe) -> Result<Self> {
        network.params.train()?;
        let s = &recipe.student;
        let sgd = Sgd::new(network.params.values(), s.momentum, s.weight_decay, true)?;
        let mut adam = None;
        if recipe.ranges.lr > 0.0 {
            network.ranges.train()?;
            adam = Some(Adam::new(network.ranges.values(), 0.9, 0.999, 1e-8)?);
        }
        let schedule = recipe.student.schedule.over(recipe.iters - recipe.warmup);
        Ok(Self { network, sgd, adam, schedule, recipe: recipe.clone() })
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

    /// What the loss looks at besides the logits: residual bodies, then the last feature map.
    fn taps(&self, graph: &Graph) -> Result<Taps> {
        let loss = &self.recipe.student_loss;
        let mut nodes = if loss.needs_bodies() { graph.residual_bodies() } else { Vec::new() };
        if loss.needs_head() {
            nodes.push(graph.head("the student's loss")?.map);
        }
        Ok(Taps { bn_stats: false, nodes })
    }

    /// The teacher's pass over `images`, unless its `logits` are known and nothing else of it is wanted.
    fn lesson(&self, teacher: &mut Network, images: &Tensor, logits: Option<&Tensor>) -> Result<Lesson> {
        let taps = self.taps(&teacher.graph)?;
        if let (Some(logits), true) = (logits, taps.nodes.is_empty()) {
            return Ok(Lesson { logits: logits.clone(), bodies: Vec::new(), head: None });
        }
        let mut tape = Tape::inference(&self.network.device());
        let out = teacher.forward(&mut tape, &[Var::constant(images.clone())], Forward::eval(), &taps)?;
        let mut bodies: Vec<Tensor> = out.taps.into_iter().map(|v| v.value).collect();
        let mut head = None;
        if self.recipe.student_loss.needs_head() {
            let weight = teacher.graph.head("the student's loss")?.weight;
            head = bodies.pop().zip(Some(teacher.linear_weight(&weight, Forward::eval())?));
        }
        Ok(Lesson { logits: logits.cloned().unwrap_or(out.output.value), bodies, head })
    }

    /// One step on a batch.
    pub fn step(&mut self, teacher: &mut Network, batch: &Synthetic, it: u64) -> Result<Losses> {
        let filter = self.recipe.student.low_pass > 0.0;
        let images = if filter { self.filtered(&batch.images)? } else { batch.images.clone() };
        let logits = (!filter).then_some(&batch.teacher_logits);
        let lesson = self.lesson(teacher, &images, logits)?;
        let mut tape = Tape::new(&self.network.device());
        let how = self.forward_mode(RangeMode::Frozen);
        let taps = self.taps(&self.network.graph)?;
        let out = self.network.forward(&mut tape, &[Var::constant(images)], how, &taps)?;
        let mut bodies = out.taps;
        let mut heads = None;
        if let Some((teacher_map, teacher_weight)) = &lesson.head {
            let weight = self.network.graph.head("the student's loss")?.weight;
            let weight = self.network.linear_weight(&weight, how)?;
            let map = bodies.pop().expect("tapped last");
            heads = Some(Heads { map, weight, teacher_map, teacher_weight: teacher_weight.clone() });
        }
        let view = StudentView {
            logits: out.output,
            labels: &Var::constant(batch.labels.clone()),
            teacher_logits: &lesson.logits,
            bodies,
            teacher_bodies: &lesson.bodies,
            heads,
        };
        let mut terms = Vec::new();
        for term in self.recipe.student_loss.terms() {
            terms.push((term.name(), term.weight(), term.loss(&mut tape, &view)?));
        }
        let total = Total::new(&mut tape, terms)?;
        let losses = total.read()?;
        tape.backward(&total.loss)?;
        let rate = self.schedule.factor(it.saturating_sub(self.recipe.warmup + 1));
        let (values, grads) = self.network.params.flat()?;
        self.sgd.step(values, grads, self.recipe.student.lr * rate)?;
        if let Some(adam) = &mut self.adam {
            let (values, grads) = self.network.ranges.flat()?;
            adam.step(values, grads, self.recipe.ranges.lr * rate)?;
        }
        Ok(losses)
    }
}

/// The teacher's side of a batch.
struct Lesson {
    logits: Tensor,
    bodies: Vec<Tensor>,
    /// Last feature map and the linear layer's weight.
    head: Option<(Tensor, Tensor)>,
}
