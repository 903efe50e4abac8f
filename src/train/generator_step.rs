//! One generator iteration (GDFQ, methods 1.6): noise and labels -> images -> frozen teacher -> label cross-entropy and
//! distance of batch statistics -> Adam on the generator.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::graph::{BnStatistics, Forward, Network, NodeKind, Taps};
use crate::methods::GeneratorRecipe;
use crate::ops::{bn_stats_loss::bn_stats_loss, elementwise::weighted_sum, loss::softmax_cross_entropy, random};
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

/// Losses of one iteration.
#[derive(Clone, Copy, Debug)]
pub struct GeneratorLosses {
    pub total: f32,
    pub ce: f32,
    pub bn_stats: f32,
}

/// A generator and its optimizer.
pub struct GeneratorStep {
    pub network: Network,
    pub adam: Adam,
    recipe: GeneratorRecipe,
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
    pub fn new(device: &Device, classes: usize, recipe: &GeneratorRecipe, seed: u64) -> Result<Self> {
        // The generator's initial values and the noise come from different keys.
        let graph = crate::models::generator::gdfq_c32(classes, recipe.latent);
        let mut network = Network::new(device, graph, seed ^ 0x67_65_6e)?;
        network.params.train()?;
        let adam = Adam::new(network.params.values(), recipe.beta1, recipe.beta2, 1e-8)?;
        Ok(Self { network, adam, recipe: recipe.clone(), seed, classes })
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
    pub fn step(&mut self, teacher: &mut Network, n: usize, it: u64) -> Result<(Synthetic, GeneratorLosses)> {
        let (z, y) = self.inputs(n, it, Draw::Noise, Draw::Labels)?;
        let mut tape = Tape::new(&self.network.device());
        let images = self.network.forward(&mut tape, &[z, y.clone()], Forward::batch(), &Taps::default())?.output;
        let taps = Taps { bn_stats: true, nodes: Vec::new() };
        let out = teacher.forward(&mut tape, std::slice::from_ref(&images), Forward::eval(), &taps)?;
        let ce = softmax_cross_entropy(&mut tape, &out.output, &y)?;
        let bns = bn_stats_loss_of(&mut tape, teacher, &out.bn_stats)?;
        let total = weighted_sum(&mut tape, &[(self.recipe.ce, &ce), (self.recipe.bn_stats, &bns)])?;
        let synthetic =
            Synthetic { images: images.value.clone(), labels: y.value.clone(), teacher_logits: out.output.value.clone() };
        drop(out);
        let losses = GeneratorLosses {
            total: total.value.item()? as f32,
            ce: ce.value.item()? as f32,
            bn_stats: bns.value.item()? as f32,
        };
        tape.backward(&total)?;
        let (values, grads) = self.network.params.flat()?;
        self.adam.step(values, grads, self.recipe.lr)?;
        Ok((synthetic, losses))
    }
}

/// `(1/L) sum_l [MSE(mean_l, running_mean_l) + MSE(var_l, running_var_l)]` (GDFQ equation of L_BNS; methods 1.4).
pub fn bn_stats_loss_of(tape: &mut Tape, teacher: &Network, stats: &[BnStatistics]) -> Result<Var> {
    if stats.is_empty() {
        return Err(crate::Error::network(
            &teacher.graph.name,
            "has no batch normalisation: there are no statistics to match; use a checkpoint with unfolded BN",
        ));
    }
    let mut terms = Vec::with_capacity(stats.len());
    for s in stats {
        let NodeKind::BatchNorm { mean, var, .. } = &teacher.graph.nodes[s.node].kind else {
            unreachable!("statistics come from batch norms")
        };
        terms.push(bn_stats_loss(tape, &s.mean, &s.var, &teacher.buffers[mean], &teacher.buffers[var])?);
    }
    let share = 1.0 / terms.len() as f32;
    let weighted: Vec<(f32, &Var)> = terms.iter().map(|t| (share, t)).collect();
    weighted_sum(tape, &weighted)
}
