//! One generator iteration (GDFQ's loop): noise and labels -> images -> frozen teacher -> the recipe's loss terms -> Adam
//! on the generator.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::graph::{Forward, Network, Taps};
use crate::methods::terms::TeacherView;
use crate::methods::{GeneratorLoss, GeneratorRecipe, Losses, Recipe, Total};
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
}

/// Stream number of a draw in iteration `it`.
pub(super) fn stream(it: u64, draw: Draw) -> u64 {
    it * 8 + draw as u64
}

/// A generator and its optimizer.
pub struct GeneratorStep {
    pub network: Network,
    pub adam: Adam,
    recipe: GeneratorRecipe,
    loss: GeneratorLoss,
    seed: u64,
    classes: usize,
}

/// What one iteration produced for the student: images, their labels, the teacher's logits.
pub struct Synthetic {
    pub images: Tensor,
    pub labels: Tensor,
    pub teacher_logits: Tensor,
}

impl GeneratorStep {
    pub fn new(device: &Device, classes: usize, recipe: &Recipe) -> Result<Self> {
        let (loss, seed, recipe) = (recipe.generator_loss.clone(), recipe.seed, recipe.generator.clone());
        // The generator's initial values and the noise come from different keys.
        let graph = crate::models::generator::gdfq_c32(classes, recipe.latent);
        let mut network = Network::new(device, graph, seed ^ 0x67_65_6e)?;
        network.params.train()?;
        let adam = Adam::new(network.params.values(), recipe.beta1, recipe.beta2, 1e-8)?;
        Ok(Self { network, adam, recipe, loss, seed, classes })
    }

    fn inputs(&self, n: usize, it: u64, noise: Draw, labels: Draw) -> Result<(Var, Var)> {
        let device = self.network.device();
        let z = random::normal(&device, [n, self.recipe.latent], self.seed, stream(it, noise))?;
        let y = random::labels(&device, n, self.classes, self.seed, stream(it, labels))?;
        Ok((Var::constant(z), Var::constant(y)))
    }

    /// Images without a step, for calibration (`it` selects the draw).
    pub fn sample(&mut self, n: usize, it: u64, held_out: bool) -> Result<(Tensor, Tensor)> {
        let (noise, labels) = if held_out { (Draw::Held, Draw::Pick) } else { (Draw::Noise, Draw::Labels) };
        let (z, y) = self.inputs(n, it, noise, labels)?;
        let mut tape = Tape::inference(&self.network.device());
        let out = self.network.forward(&mut tape, &[z, y.clone()], Forward::batch(), &Taps::default())?;
        Ok((out.output.value, y.value))
    }

    /// One step. The images handed out were made before the step, as in the released code.
    pub fn step(&mut self, teacher: &mut Network, n: usize, it: u64) -> Result<(Synthetic, Losses)> {
        let (z, y) = self.inputs(n, it, Draw::Noise, Draw::Labels)?;
        let mut tape = Tape::new(&self.network.device());
        let images = self.network.forward(&mut tape, &[z, y.clone()], Forward::batch(), &Taps::default())?.output;
        let (total, logits) = teacher_loss(&mut tape, teacher, &self.loss, &images, &y)?;
        let synthetic = Synthetic { images: images.value.clone(), labels: y.value.clone(), teacher_logits: logits };
        let losses = total.read()?;
        tape.backward(&total.loss)?;
        let (values, grads) = self.network.params.flat()?;
        self.adam.step(values, grads, self.recipe.lr)?;
        Ok((synthetic, losses))
    }
}

/// The frozen teacher's pass over `images` and the terms of `loss` on it; also the teacher's logits.
pub(super) fn teacher_loss(
    tape: &mut Tape,
    teacher: &mut Network,
    loss: &GeneratorLoss,
    images: &Var,
    labels: &Var,
) -> Result<(Total, Tensor)> {
    let needs = loss.needs();
    let taps = Taps { bn_stats: needs.bn_stats, nodes: Vec::new() };
    let out = teacher.forward(tape, std::slice::from_ref(images), Forward::eval(), &taps)?;
    let view = TeacherView { teacher, images, labels, logits: out.output, bn_stats: out.bn_stats };
    let mut terms = Vec::new();
    for term in loss.terms() {
        terms.push((term.name(), term.weight(), term.loss(tape, &view)?));
    }
    Ok((Total::new(tape, terms)?, view.logits.value))
}
