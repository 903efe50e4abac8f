//! Supervised training with labels: SGD-Nesterov, cosine or multi-step learning rate, random crop and flip. It trained the built-in
//! teacher; data-free quantization never uses it.

use super::evaluate::{Accuracy, evaluate};
use crate::autograd::{Tape, Var};
use crate::data::{Dataset, Normalization};
use crate::device::Device;
use crate::graph::{Forward, Network, Taps};
use crate::ops::loss::softmax_cross_entropy;
use crate::ops::random;
use crate::optim::{Schedule, Sgd};
use crate::tensor::Tensor;
use crate::{Error, Result};
use rayon::prelude::*;
use serde::Serialize;

/// Settings of a supervised run.
#[derive(Clone, Debug, Serialize)]
pub struct SupervisedConfig {
    pub epochs: u64,
    pub batch: usize,
    pub lr: f32,
    /// A tenth of the rate after half and three quarters of the steps (He et al. 2016), instead of a cosine to 0.
    pub multi_step: bool,
    /// Batch norms use and gather the batch's statistics; else the running ones stay as they are.
    pub batch_statistics: bool,
    pub weight_decay: f32,
    /// Pixels of zero padding for the random crop; 0 for none.
    pub crop: usize,
    pub flip: bool,
    pub seed: u64,
}

/// One finished epoch.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SupervisedEpoch {
    pub epoch: u64,
    pub loss: f32,
    pub lr: f32,
    pub test: Accuracy,
}

/// Trains `network` on `data`; `report` sees the network after every epoch.
pub fn train_supervised(
    network: &mut Network,
    data: &Dataset,
    test: &Dataset,
    norm: &Normalization,
    config: &SupervisedConfig,
    mut report: impl FnMut(&Network, SupervisedEpoch) -> Result<()>,
) -> Result<()> {
    if config.batch < 2 || config.batch > data.labels.len() {
        let detail = format!("{} must be between 2 and the {} training images", config.batch, data.labels.len());
        return Err(Error::config("--batch", detail));
    }
    let device = network.device();
    let how = if config.batch_statistics { Forward::train() } else { Forward::eval() };
    network.params.train()?;
    let mut sgd = Sgd::new(network.params.values(), 0.9, config.weight_decay, true)?;
    let per_epoch = (data.labels.len() / config.batch) as u64;
    let total = (per_epoch * config.epochs).max(1);
    let schedule = if config.multi_step {
        Schedule::MultiStep { milestones: vec![total / 2, 3 * total / 4], gamma: 0.1 }
    } else {
        Schedule::Cosine { warmup: 0, total, floor: 0.0 }
    };
    for epoch in 0..config.epochs {
        let order = permutation(data.labels.len(), config.seed, epoch)?;
        let (mut sum, mut lr) = (0.0, 0.0);
        for b in 0..per_epoch {
            let step = epoch * per_epoch + b;
            lr = config.lr * schedule.factor(step);
            let rows = &order[b as usize * config.batch..(b as usize + 1) * config.batch];
            let (x, y) = augmented(&device, data, rows, norm, config, step)?;
            let mut tape = Tape::new(&device);
            let out = network.forward(&mut tape, &[Var::constant(x)], how, &Taps::default())?.output;
            let loss = softmax_cross_entropy(&mut tape, &out, &Var::constant(y))?;
            let value = loss.value.item()? as f32;
            if !value.is_finite() {
                let term = "cross-entropy".into();
                return Err(Error::NonFinite { step, term, value, hint: "; lower --lr" });
            }
            sum += value;
            tape.backward(&loss)?;
            let (values, grads) = network.params.flat()?;
            sgd.step(values, grads, lr)?;
        }
        let test = evaluate(network, test, norm, Forward::eval())?;
        report(network, SupervisedEpoch { epoch: epoch + 1, loss: sum / per_epoch as f32, lr, test })?;
    }
    network.params.freeze();
    Ok(())
}

/// Fisher-Yates with Philox draws.
fn permutation(n: usize, seed: u64, epoch: u64) -> Result<Vec<usize>> {
    let u = random::uniform(&Device::cpu(), [n], seed, (1 << 32) + epoch)?.to_vec::<f32>()?;
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        order.swap(i, ((u[i] * (i + 1) as f32) as usize).min(i));
    }
    Ok(order)
}

/// Normalised images of `rows`, each shifted by up to `crop` pixels (zeros, i.e. black, beyond the edge) and flipped.
fn augmented(
    device: &Device,
    data: &Dataset,
    rows: &[usize],
    norm: &Normalization,
    config: &SupervisedConfig,
    step: u64,
) -> Result<(Tensor, Tensor)> {
    let (h, w, c) = (data.h, data.w, data.c);
    let image = h * w * c;
    let u = random::uniform(&Device::cpu(), [rows.len() * 3], config.seed, (1 << 33) + step)?.to_vec::<f32>()?;
    let span = (2 * config.crop + 1) as f32;
    let mut x = vec![0f32; rows.len() * image];
    x.par_chunks_mut(image).zip(rows).enumerate().for_each(|(i, (out, &row))| {
        let shift = |u: f32| ((u * span) as isize).min(2 * config.crop as isize) - config.crop as isize;
        let (dy, dx) = (shift(u[3 * i]), shift(u[3 * i + 1]));
        let flip = config.flip && u[3 * i + 2] < 0.5;
        let from = &data.images[row * image..][..image];
        for p in 0..h {
            for q in 0..w {
                let y = p as isize + dy;
                let xq = if flip { w - 1 - q } else { q } as isize + dx;
                let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&xq);
                for ch in 0..c {
                    let v = if inside { from[(y as usize * w + xq as usize) * c + ch] } else { 0 };
                    out[(p * w + q) * c + ch] = (f32::from(v) / 255.0 - norm.mean[ch]) / norm.std[ch];
                }
            }
        }
    });
    let labels: Vec<i32> = rows.iter().map(|&r| data.labels[r] as i32).collect();
    Ok((Tensor::from_slice(device, [rows.len(), h, w, c], &x)?, Tensor::from_slice(device, [rows.len()], &labels)?))
}
