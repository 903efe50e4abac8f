//! One generator iteration (GDFQ's loop): noise and labels -> images -> frozen teacher -> the recipe's loss terms -> Adam
//! on the generator.

use super::control::{Moment, Place};
use super::student_step::StudentStep;
use super::synthetic::Synthetic;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::graph::passes::with_math;
use crate::graph::{Forward, Network, RangeMode, Swing, Taps};
use crate::methods::terms::{Conditions, Memory, TeacherView};
use crate::methods::{GeneratorLoss, GeneratorRecipe, Losses, Recipe, Total};
use crate::models::generator::{self, Condition};
use crate::ops::random;
use crate::optim::Adam;
use crate::tensor::Tensor;

/// Philox streams of one iteration: each kind of draw has its own, so that changing one does not shift another.
#[derive(Clone, Copy)]
pub(super) enum Draw {
    Noise = 0,
    Labels = 1,
    Pick = 2,
    Held = 3,
    Centers = 4,
    Crops = 5,
    Coin = 6,
    Roll = 7,
}

/// Streams of an iteration.
pub(super) const DRAWS: u64 = 8;

/// Stream number of a draw in iteration `it`.
pub(super) fn stream(it: u64, draw: Draw) -> u64 {
    it * DRAWS + draw as u64
}

/// A generator and its optimizer.
pub struct GeneratorStep {
    pub network: Network,
    pub adam: Adam,
    pub memory: Memory,
    recipe: GeneratorRecipe,
    loss: GeneratorLoss,
    seed: u64,
    classes: usize,
}

impl GeneratorStep {
    /// For images of `size` `[h, w, c]`.
    pub fn new(device: &Device, [h, w, c]: [usize; 3], classes: usize, recipe: &Recipe) -> Result<Self> {
        let (loss, seed, math) = (recipe.generator_loss.clone(), recipe.seed, recipe.math.into());
        // One that makes no images is as small as it can be.
        let size = if recipe.uses_generator() { [h, w, c] } else { [generator::UNIT, generator::UNIT, c] };
        let recipe = recipe.generator.clone();
        let graph = generator::conditional(recipe.arch, size, classes, recipe.latent, recipe.condition)?;
        let graph = with_math(&graph, math);
        // The generator's initial values and the noise come from different keys.
        let mut network = Network::new(device, graph, seed ^ 0x67_65_6e)?;
        network.params.train()?;
        let adam = Adam::new(network.params.values(), recipe.beta1, recipe.beta2, 1e-8)?;
        Ok(Self { network, adam, memory: Memory::default(), recipe, loss, seed, classes })
    }

    /// What the batch of iteration `moment` is made from.
    fn draw(&self, n: usize, moment: &Moment, noise: Draw, labels: Draw) -> Result<Conditions> {
        let device = self.network.device();
        let z = random::normal(&device, [n, self.recipe.latent], self.seed, moment.stream(noise)?)?;
        let distinct = if self.recipe.paired { n.div_ceil(2) } else { n };
        let y = random::labels(&device, distinct, self.classes, self.seed, moment.stream(labels)?)?;
        // The same uniform draw in two units: where attention shall be, and standardised.
        let uniform = |low: f32, high: f32| -> Result<Var> {
            let stream = moment.stream(Draw::Centers)?;
            let c = random::uniform_in(&device, [distinct, 2], low, high, self.seed, stream)?;
            Ok(Var::constant(cycle(c, n)?))
        };
        let (mut centers, mut center_input) = (None, None);
        if self.recipe.condition.has_center() {
            centers = Some(uniform(self.recipe.center_low, self.recipe.center_high)?);
            center_input = match self.recipe.condition {
                Condition::LabelCenterRaw => centers.clone(),
                _ => Some(uniform(-(3f32.sqrt()), 3f32.sqrt())?),
            };
        }
        Ok(Conditions { labels: Var::constant(cycle(y, n)?), noise: Some(z), centers, center_input })
    }

    fn images(&mut self, tape: &mut Tape, c: &Conditions) -> Result<Var> {
        let z = Var::constant(c.noise.clone().expect("the generator's conditions hold noise"));
        let inputs: Vec<Var> = [z, c.labels.clone()].into_iter().chain(c.center_input.clone()).collect();
        Ok(self.network.forward(tape, &inputs, Forward::batch(), &Taps::default())?.output)
    }

    fn augment(&self, tape: &mut Tape, images: Var, moment: &Moment) -> Result<Var> {
        let how = (self.recipe.augment, self.recipe.augment_scale);
        moment.augment(tape, images, Place::Fresh, how, self.seed, moment.it)
    }

    /// Images without a step, for calibration (`it` selects the draw).
    pub fn sample(&mut self, n: usize, it: u64, held_out: bool) -> Result<(Tensor, Tensor)> {
        self.sample_at(n, &Moment::now(it), held_out)
    }

    /// The same in iteration `moment`.
    pub(super) fn sample_at(&mut self, n: usize, moment: &Moment, held_out: bool) -> Result<(Tensor, Tensor)> {
        let (noise, labels) = if held_out { (Draw::Held, Draw::Pick) } else { (Draw::Noise, Draw::Labels) };
        let c = self.draw(n, moment, noise, labels)?;
        let mut tape = Tape::inference(&self.network.device());
        let mut images = self.images(&mut tape, &c)?;
        if !held_out {
            images = self.augment(&mut tape, images, moment)?;
        }
        Ok((images.value, c.labels.value))
    }

    /// One step, and its losses. The images handed out were made before the step, as in the released code. `student` is
    /// looked at by terms that play against it.
    pub fn step(
        &mut self,
        teacher: &mut Network,
        student: &mut StudentStep,
        n: usize,
        it: u64,
    ) -> Result<(Synthetic, Losses)> {
        let (made, total) = self.run(teacher, student, n, &Moment::now(it))?;
        Ok((made, total.read()?))
    }

    /// The same in iteration `moment`; nothing is waited for.
    pub(super) fn run(
        &mut self,
        teacher: &mut Network,
        student: &mut StudentStep,
        n: usize,
        moment: &Moment,
    ) -> Result<(Synthetic, Total)> {
        let conditions = self.draw(n, moment, Draw::Noise, Draw::Labels)?;
        let mut tape = Tape::new(&self.network.device());
        let images = self.images(&mut tape, &conditions)?;
        let images = self.augment(&mut tape, images, moment)?;
        let rest =
            Surroundings { student: Some(student), memory: &mut self.memory, seed: self.seed, moment, swing: None };
        let (total, logits) = teacher_loss(&mut tape, teacher, &self.loss, &images, &conditions, rest)?;
        let synthetic =
            Synthetic { images: images.value.clone(), labels: conditions.labels.value, teacher_logits: Some(logits) };
        tape.backward(&total.loss)?;
        let (values, grads) = self.network.params.flat()?;
        self.adam.step(values, grads, self.recipe.lr)?;
        Ok((synthetic, total))
    }
}

/// `n` rows that repeat those of `t` in order.
fn cycle(t: Tensor, n: usize) -> Result<Tensor> {
    let rows = t.dim(0);
    if rows == n {
        return Ok(t);
    }
    let row = t.len() / rows;
    let mut shape = t.shape().to_vec();
    shape[0] = n;
    let all = Tensor::empty(&t.device(), shape.as_slice(), t.dtype())?;
    for start in (0..n).step_by(rows) {
        let count = rows.min(n - start);
        all.view(start * row, [count * row])?.copy_from(&t.view(0, [count * row])?)?;
    }
    Ok(all)
}

/// What terms may look at besides the images.
pub(super) struct Surroundings<'a> {
    pub student: Option<&'a mut StudentStep>,
    pub memory: &'a mut Memory,
    pub seed: u64,
    pub moment: &'a Moment,
    /// Of the teacher's pass.
    pub swing: Option<Swing>,
}

/// The frozen teacher's pass over `images` and the terms of `loss` on it; also the teacher's logits.
pub(super) fn teacher_loss(
    tape: &mut Tape,
    teacher: &mut Network,
    loss: &GeneratorLoss,
    images: &Var,
    conditions: &Conditions,
    rest: Surroundings,
) -> Result<(Total, Tensor)> {
    let needs = loss.needs();
    let mut nodes = if needs.bn_inputs { teacher.graph.batch_norm_inputs() } else { Vec::new() };
    let norms = nodes.len();
    let head = (needs.head || needs.batch_map).then(|| teacher.graph.head("the generator's loss")).transpose()?;
    nodes.extend(head.iter().flat_map(|h| [Some(h.map), h.features]).flatten());
    let taps = Taps { bn_stats: needs.bn_stats, nodes };
    let how = Forward { swing: rest.swing, ..Forward::eval() };
    let out = teacher.forward(tape, std::slice::from_ref(images), how, &taps)?;
    let mut batch_map = None;
    if let (true, Some(head)) = (needs.batch_map, &head) {
        let taps = Taps { bn_stats: false, nodes: vec![head.map] };
        let again = teacher.forward(tape, std::slice::from_ref(images), Forward::batch(), &taps)?;
        batch_map = again.taps.into_iter().next();
    }
    let mut student_logits = None;
    if let (true, Some(student)) = (needs.student, rest.student) {
        let how = Forward { constant: true, ..student.forward_mode(RangeMode::Frozen) };
        let out = student.network.forward(tape, std::slice::from_ref(images), how, &Taps::default())?;
        student_logits = Some(out.output);
    }
    let mut bn_inputs = out.taps;
    let mut heads = bn_inputs.split_off(norms).into_iter();
    let mut view = TeacherView {
        teacher,
        images,
        conditions,
        logits: out.output,
        bn_stats: out.bn_stats,
        bn_inputs,
        map: heads.next(),
        features: heads.next(),
        batch_map,
        student_logits,
        memory: rest.memory,
        seed: rest.seed,
        it: rest.moment.it,
        counter: rest.moment.counter()?,
    };
    let mut terms = Vec::new();
    for term in loss.terms() {
        terms.push((term.name(), term.weight(), term.loss(tape, &mut view)?));
    }
    let logits = view.logits.value;
    Ok((Total::new(tape, terms)?, logits))
}
