//! Images optimised directly through the teacher (after ZeroQ, Cai et al. 2020: the images are the parameters), kept and
//! drawn from at random. Ours: they start from a trained generator's images, which shortens the optimisation.

use super::generator_step::{Draw, GeneratorStep, Surroundings, stream, teacher_loss};
use super::synthetic::Synthetic;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::graph::{Forward, Network, Taps};
use crate::methods::terms::{Conditions, Memory};
use crate::methods::{ImagesRecipe, Recipe};
use crate::ops::{embedding::embedding, random};
use crate::optim::{Adam, Schedule};
use crate::tensor::{DType, Tensor};

/// Iteration numbers of the pool's own draws start here, away from the loop's.
const DRAW_BASE: u64 = 1 << 40;

/// Stored images `[count, h*w*c]`, their labels and the teacher's logits.
pub struct ImagePool {
    pub images: Tensor,
    pub labels: Tensor,
    pub teacher_logits: Tensor,
    shape: [usize; 3],
}

impl ImagePool {
    /// Optimises `r.count` images in batches; `progress(done, of, loss)` after each batch.
    pub fn make(
        device: &Device,
        teacher: &mut Network,
        generator: &mut GeneratorStep,
        recipe: &Recipe,
        r: &ImagesRecipe,
        mut progress: impl FnMut(usize, usize, f32) -> Result<()>,
    ) -> Result<Self> {
        let n = recipe.batch;
        let batches = r.count.div_ceil(n);
        let classes = teacher.graph.classes;
        let shape = [32, 32, 3];
        let row = shape.iter().product::<usize>();
        let images = Tensor::empty(device, [batches * n, row], DType::F32)?;
        let labels = Tensor::empty(device, [batches * n], DType::I32)?;
        let logits = Tensor::empty(device, [batches * n, classes], DType::F32)?;
        // To zero: the last iterations settle the statistics.
        let schedule = Schedule::Cosine { warmup: 0, total: r.iters, floor: 0.0 };
        for b in 0..batches {
            let it = DRAW_BASE + b as u64;
            let (start, y) = if r.from_generator {
                generator.sample(n, it, false)?
            } else {
                let noise =
                    random::normal(device, [n, shape[0], shape[1], shape[2]], recipe.seed, stream(it, Draw::Noise))?;
                (noise, random::labels(device, n, classes, recipe.seed, stream(it, Draw::Labels))?)
            };
            let conditions = Conditions { labels: Var::constant(y.clone()), noise: None, centers: None };
            let mut memory = Memory::default();
            let mut x = start;
            let mut adam = Adam::new(&x, 0.9, 0.999, 1e-8)?;
            let mut grad = Tensor::zeros(device, x.shape(), DType::F32)?;
            let mut last = f32::NAN;
            for k in 0..r.iters {
                let mut tape = Tape::new(device);
                let leaf = tape.parameter(x.clone(), grad.clone());
                let rest = Surroundings { student: None, memory: &mut memory, seed: recipe.seed, it };
                let total = teacher_loss(&mut tape, teacher, &r.loss, &leaf, &conditions, rest)?.0;
                if k + 1 == r.iters {
                    last = total.loss.value.item()? as f32;
                }
                tape.backward(&total.loss)?;
                adam.step(&mut x, &grad, r.lr * schedule.factor(k))?;
            }
            grad.fill_zero()?;
            images.view(b * n * row, [n, row])?.copy_from(&x.reshape([n, row])?)?;
            labels.view(b * n, [n])?.copy_from(&y)?;
            logits.view(b * n * classes, [n, classes])?.copy_from(&infer(teacher, &x)?)?;
            progress(b + 1, batches, last)?;
        }
        Ok(Self { images, labels, teacher_logits: logits, shape })
    }

    /// A pool from stored tensors (resume).
    pub fn restore(images: Tensor, labels: Tensor, teacher_logits: Tensor) -> Self {
        Self { images, labels, teacher_logits, shape: [32, 32, 3] }
    }

    /// `n` images drawn with replacement for iteration `it`.
    pub fn batch(&self, n: usize, seed: u64, it: u64) -> Result<Synthetic> {
        let device = self.images.device();
        let pick = random::labels(&device, n, self.labels.len(), seed, stream(it, Draw::Pick))?;
        let mut tape = Tape::inference(&device);
        // Gathering rows is what an embedding does.
        let rows = embedding(&mut tape, &Var::constant(self.images.clone()), &pick)?.value;
        let logits = embedding(&mut tape, &Var::constant(self.teacher_logits.clone()), &pick)?.value;
        let all = self.labels.to_vec::<i32>()?;
        let chosen: Vec<i32> = pick.to_vec::<i32>()?.into_iter().map(|i| all[i as usize]).collect();
        let labels = Tensor::from_slice(&device, [n], &chosen)?;
        let [h, w, c] = self.shape;
        Ok(Synthetic { images: rows.reshape([n, h, w, c])?, labels, teacher_logits: logits })
    }

    /// Stored batch `b` of size `n` in order (calibration).
    pub fn in_order(&self, b: usize, n: usize) -> Result<Tensor> {
        let [h, w, c] = self.shape;
        let row = h * w * c;
        let batches = (self.labels.len() / n).max(1);
        self.images.view((b % batches) * n * row, [n, h, w, c])
    }
}

/// The float network's logits.
pub(super) fn infer(network: &mut Network, x: &Tensor) -> Result<Tensor> {
    let mut tape = Tape::inference(&network.device());
    let how = Forward { float: true, ..Forward::eval() };
    Ok(network.forward(&mut tape, &[Var::constant(x.clone())], how, &Taps::default())?.output.value)
}
