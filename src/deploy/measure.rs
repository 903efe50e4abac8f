//! Accuracy and speed of an integer network.

use super::Engine;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::data::Dataset;
use crate::graph::{Forward, Network, Taps};
use crate::ops::accuracy::correct;
use crate::ops::random;
use crate::tensor::{Shape, Tensor};
use std::time::Instant;

/// Number of images of `data` whose label the engine finds, and the logits `[n classes]` of all.
pub fn hits(engine: &Engine, data: &Dataset) -> Result<(usize, Vec<f32>)> {
    const BATCH: usize = 256;
    let device = engine.device();
    let (mut sum, mut all) = (0, Vec::new());
    for start in (0..data.n).step_by(BATCH) {
        let end = (start + BATCH).min(data.n);
        let (x, y) = data.batch(device, start..end, &engine.network().normalization)?;
        let logits = engine.logits(&x)?;
        sum += correct(&logits, &y)?;
        all.extend(logits.to_vec::<f32>()?);
    }
    Ok((sum, all))
}

/// Seconds of one batch, medians.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    pub batch: usize,
    pub integer: f64,
    /// Of the float network in evaluation, on the same device.
    pub float: f64,
}

/// Times the engine and `network` without its quantizers, in turn, on batches of drawn images. Both lie on one device.
pub fn compare(engine: &Engine, network: &mut Network, batch: usize, rounds: usize) -> Result<Speed> {
    let device = network.device();
    let x = random::normal(&device, Shape::new(&[&[batch], engine.network().input()].concat()), 1, 0)?;
    let how = Forward { float: true, ..Forward::eval() };
    let mut seconds = [Vec::new(), Vec::new()];
    // The first round fills the memory pools.
    for round in 0..=rounds.max(1) {
        let start = Instant::now();
        engine.logits(&x)?;
        device.synchronize()?;
        let integer = start.elapsed().as_secs_f64();
        let start = Instant::now();
        forward(network, &x, how)?;
        device.synchronize()?;
        if round > 0 {
            seconds[0].push(integer);
            seconds[1].push(start.elapsed().as_secs_f64());
        }
    }
    let [integer, float] = seconds.map(|mut v| {
        v.sort_by(f64::total_cmp);
        v[v.len() / 2]
    });
    Ok(Speed { batch, integer, float })
}

fn forward(network: &mut Network, x: &Tensor, how: Forward) -> Result<Tensor> {
    let mut tape = Tape::inference(&network.device());
    Ok(network.forward(&mut tape, &[Var::constant(x.clone())], how, &Taps::default())?.output.value)
}
