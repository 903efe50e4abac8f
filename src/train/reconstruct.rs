//! Block reconstruction (Genie-M, Jeon et al., CVPR 2023): block after block, the student's rounding, steps and activation
//! ranges are trained so that the block's output is the teacher's on stored images, then rounded for good.
//!
//! What goes into a block is computed once, by the teacher and by the blocks rebuilt so far. Ours: a block whose error on
//! the quantized inputs did not fall is left as calibration made it.

mod learned;

use super::images::ImagePool;
use super::repeats::Repeats;
use super::run::Event;
use crate::autograd::{Tape, Var};
use crate::graph::{Block, Drop, Forward, Network, NodeId, STREAMS};
use crate::methods::ReconstructionRecipe;
use crate::ops::adaround::{Beta, rounding_penalty};
use crate::ops::elementwise::weighted_sum;
use crate::ops::embedding::embedding;
use crate::ops::fake_quant::Ste;
use crate::ops::mse::mse;
use crate::ops::qdrop::qdrop;
use crate::ops::random::{self, Stream};
use crate::optim::{Rate, Schedule};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};
use learned::Learned;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// A block that is done.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockReport {
    /// Name of its last node.
    pub name: String,
    /// Squared error of its output on the quantized inputs, summed over channels, mean over the rest: with the calibrated
    /// quantizers, and with the learned ones.
    pub before: f64,
    pub after: f64,
    /// Whether the learned ones were taken.
    pub kept: bool,
}

/// Images per pass when whole tables are computed, at most.
const PASS: usize = 64;
/// Numbers of a value between nodes in such a pass, about: large images go fewer at a time.
const NUMBERS: usize = PASS * 64 * 64 * 64;
/// Draws, away from the loop's: as many streams per iteration as a pass has, of which nodes take the first.
const DRAWS: u64 = 1 << 60;
const PICK: u64 = STREAMS - 1;
const MIX: u64 = STREAMS - 2;

/// Values of one node for all stored images.
struct Table {
    /// `[n, elements]`.
    rows: Tensor,
    /// Of one image.
    shape: Vec<usize>,
}

impl Table {
    fn of(&self, n: usize, rows: Tensor) -> Result<Tensor> {
        rows.reshape(Shape::new(&[&[n], &self.shape[..]].concat()))
    }
    fn len(&self) -> usize {
        self.rows.dim(0)
    }
    fn slice(&self, from: usize, n: usize) -> Result<Tensor> {
        let row = self.rows.dim(1);
        self.of(n, self.rows.view(from * row, [n, row])?)
    }
    /// The rows `pick` (I32).
    fn gather(&self, pick: &Tensor) -> Result<Tensor> {
        let mut tape = Tape::inference(&self.rows.device());
        self.of(pick.len(), embedding(&mut tape, &Var::constant(self.rows.clone()), pick)?.value)
    }
}

/// The values behind node `to` of all images, from those behind node `from`.
fn advance(network: &mut Network, from: NodeId, to: NodeId, table: &Table, how: Forward) -> Result<Table> {
    let device = network.device();
    let none = BTreeMap::new();
    let n = table.len();
    let mut out: Option<Table> = None;
    let largest = network.graph.shapes(1)?[from..=to].iter().map(|s| s.elements()).max();
    let pass = (NUMBERS / largest.unwrap_or(1).max(1)).clamp(4, PASS);
    for start in (0..n).step_by(pass) {
        let count = pass.min(n - start);
        let x = Var::constant(table.slice(start, count)?);
        let mut tape = Tape::inference(&device);
        let y = network.forward_part(&mut tape, &[(from, x)], &[to], &none, how)?.remove(0).value;
        let row = y.len() / count;
        if out.is_none() {
            let rows = Tensor::empty(&device, [n, row], DType::F32)?;
            out = Some(Table { rows, shape: y.shape()[1..].to_vec() });
        }
        let all = out.as_ref().expect("just made");
        all.rows.view(start * row, [count, row])?.copy_from(&y)?;
    }
    out.ok_or_else(|| Error::op("reconstruct", "there are no stored images"))
}

/// Squared error, summed over channels (the last dimension), mean over the rest.
fn error(a: &Table, b: &Table) -> Result<f64> {
    let channels = a.shape.last().copied().unwrap_or(1) as f64;
    let mut sum = 0.0;
    for start in (0..a.len()).step_by(PASS) {
        let count = PASS.min(a.len() - start);
        let mut tape = Tape::inference(&a.rows.device());
        let (x, y) = (Var::constant(a.slice(start, count)?), Var::constant(b.slice(start, count)?));
        sum += mse(&mut tape, &x, &y)?.value.item()? * count as f64;
    }
    Ok(sum / a.len() as f64 * channels)
}

/// How blocks are rebuilt.
#[derive(Clone, Copy)]
pub(super) struct Rebuilding<'a> {
    pub recipe: &'a ReconstructionRecipe,
    pub seed: u64,
    /// Whether a GPU records iterations.
    pub graphs: bool,
    pub stop: &'a AtomicBool,
}

/// Rebuilds all blocks of `student` in place and reports [`Event::Block`] after each. False if `stop` was set before the end:
/// then the student is as it was.
pub(super) fn reconstruct(
    student: &mut Network,
    teacher: &mut Network,
    pool: &ImagePool,
    rebuilding: Rebuilding,
    report: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<bool> {
    let blocks = student.graph.blocks()?;
    let start = (student.params.values().duplicate()?, student.ranges.values().duplicate()?);
    let images = pool.all()?;
    let shape = images.shape()[1..].to_vec();
    let rows = images.reshape([images.dim(0), images.len() / images.dim(0)])?;
    let mut full = Table { rows: rows.clone(), shape: shape.clone() };
    let mut quantized = Table { rows, shape };
    // Weights keep their stored ranges, whatever the student's loop does.
    let how = Forward { constant: true, ..Forward::eval() };
    for (b, block) in blocks.iter().enumerate() {
        let name = student.graph.nodes[block.to].name.clone();
        let theirs = |id: NodeId| teacher.graph.node(&student.graph.nodes[id].name);
        let (from, to) = (theirs(block.from)?, theirs(block.to)?);
        let target = advance(teacher, from, to, &full, Forward { float: true, ..how })?;
        let calibrated = advance(student, block.from, block.to, &quantized, how)?;
        let before = error(&calibrated, &target)?;
        let old = (student.params.values().duplicate()?, student.ranges.values().duplicate()?);
        let data = Data { full: &full, quantized: &quantized, target: &target };
        if !train(student, *block, b as u64, &data, rebuilding, report)? {
            put(student, &start)?;
            return Ok(false);
        }
        let learned = advance(student, block.from, block.to, &quantized, how)?;
        let after = error(&learned, &target)?;
        if !after.is_finite() {
            let hint = "; lower reconstruction.range_lr or reconstruction.step_lr";
            return Err(Error::NonFinite {
                step: rebuilding.recipe.iters,
                term: format!("reconstruction of '{name}'"),
                value: after as f32,
                hint,
            });
        }
        let kept = after < before;
        if !kept {
            put(student, &old)?;
        }
        let block = BlockReport { name, before, after, kept };
        report(Event::Block { report: &block, done: b + 1, of: blocks.len() })?;
        quantized = if kept { learned } else { calibrated };
        full = target;
    }
    Ok(true)
}

fn put(student: &mut Network, (params, ranges): &(Tensor, Tensor)) -> Result<()> {
    student.params.values_mut().copy_from(params)?;
    student.ranges.values_mut().copy_from(ranges)
}

/// What a block is trained on.
struct Data<'a> {
    full: &'a Table,
    quantized: &'a Table,
    target: &'a Table,
}

/// The numbers of an iteration, and where they lie in device memory if they are read from there.
struct Numbers {
    k: u64,
    /// Of steps and ranges.
    rates: [f32; 2],
    /// Of the penalty, where it has set in.
    beta: Option<f32>,
    /// I32: `k`, low and high word, the rates, `beta`.
    words: Option<Tensor>,
}

impl Numbers {
    /// Queues them to be written.
    fn publish(&self) -> Result<()> {
        let Some(words) = &self.words else { return Ok(()) };
        let [steps, ranges] = self.rates.map(|r| r.to_bits() as i32);
        let beta = self.beta.unwrap_or(0.0).to_bits() as i32;
        words.clone().write_queued(&[self.k as i32, (self.k >> 32) as i32, steps, ranges, beta])
    }

    /// Draw `which` of the iterations whose streams begin at `base`.
    fn stream(&self, base: u64, which: u64) -> Result<Stream> {
        Ok(match &self.words {
            None => (base + self.k * STREAMS + which).into(),
            Some(words) => Stream::counted(&words.view(0, [2])?, STREAMS, base + which),
        })
    }

    fn stored(&self, at: usize) -> Result<Option<Tensor>> {
        self.words.as_ref().map(|w| Ok(w.view(at, [1])?.reinterpret(DType::F32))).transpose()
    }

    fn rate(&self, which: usize) -> Result<Rate> {
        Ok(self.stored(2 + which)?.map_or(Rate::Now(self.rates[which]), Rate::Stored))
    }

    fn beta(&self) -> Result<Option<Beta>> {
        let Some(beta) = self.beta else { return Ok(None) };
        Ok(Some(self.stored(4)?.map_or(Beta::Now(beta), Beta::Stored)))
    }
}

/// Trains a block and writes the result into the student. False if `stop` was set.
fn train(
    student: &mut Network,
    block: Block,
    index: u64,
    data: &Data,
    how: Rebuilding,
    report: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<bool> {
    let device = student.device();
    let Rebuilding { recipe: r, graphs, stop, .. } = how;
    let mut learned = Learned::new(student, block)?;
    if learned.is_empty() {
        return Ok(true);
    }
    let cosine = Schedule::Cosine { warmup: 0, total: r.iters, floor: 0.0 };
    let first = (r.iters as f64 * f64::from(r.penalty_start)) as u64;
    let base = DRAWS + (index << 40);
    let record = graphs && !device.is_cpu();
    let words = if record { Some(Tensor::zeros(&device, [5], DType::I32)?) } else { None };
    student.count_draws(words.as_ref().map(|w| w.view(0, [2])).transpose()?);
    let mut repeats = Repeats::new((!record).then(|| "asked for".into()));
    let mut finished = Ok(true);
    for k in 0..r.iters {
        if stop.load(Ordering::Relaxed) {
            finished = Ok(false);
            break;
        }
        let done = k.saturating_sub(first) as f32 / (r.iters - first) as f32;
        let beta = (k >= first && r.penalty > 0.0).then(|| r.beta_first + (r.beta_last - r.beta_first) * done);
        let rates = [r.step_lr * cosine.factor(k), r.range_lr * cosine.factor(k)];
        let numbers = Numbers { k, rates, beta, words: words.clone() };
        let name = || format!("reconstruction{}", if beta.is_some() { " with penalty" } else { "" });
        let step = numbers.publish().and_then(|()| {
            repeats
                .run(&device, beta.is_some(), name, || iterate(student, &mut learned, block, data, how, base, &numbers))
        });
        let step = step.and_then(|()| match repeats.failure() {
            Some(why) => report(Event::Eager { why: &format!("reconstruction: {why}") }),
            None => Ok(()),
        });
        if let Err(e) = step {
            finished = Err(e);
            break;
        }
    }
    student.count_draws(None);
    // Graphs go when this returns: not before they are done.
    device.synchronize()?;
    if finished? {
        learned.write(student)?;
        return Ok(true);
    }
    Ok(false)
}

/// One iteration of a block.
fn iterate(
    student: &mut Network,
    learned: &mut Learned,
    block: Block,
    data: &Data,
    how: Rebuilding,
    base: u64,
    numbers: &Numbers,
) -> Result<()> {
    let device = student.device();
    let Rebuilding { recipe: r, seed, .. } = how;
    let pick = random::labels(&device, r.batch, data.full.len(), seed, numbers.stream(base, PICK)?)?;
    let (full, quantized) = (data.full.gather(&pick)?, data.quantized.gather(&pick)?);
    let draw = random::uniform(&device, full.shape(), seed, numbers.stream(base, MIX)?)?;
    let mut plain = Tape::inference(&device);
    let x = qdrop(&mut plain, &Var::constant(quantized), &Var::constant(full), &draw, r.mix)?;
    let target = Var::constant(data.target.gather(&pick)?);

    let mut tape = Tape::new(&device);
    let (stand_ins, open) = learned.on(&mut tape)?;
    // Where numbers are stored the network adds the iteration's streams itself.
    let stream = if numbers.words.is_some() { base } else { base + numbers.k * STREAMS };
    let drop = (r.drop > 0.0).then_some(Drop { share: r.drop, seed, stream });
    let forward = Forward { constant: true, ste: Ste::Lsq, drop, ..Forward::eval() };
    let y = student.forward_part(&mut tape, &[(block.from, x)], &[block.to], &stand_ins, forward)?.remove(0);
    let channels = data.target.shape.last().copied().unwrap_or(1) as f32;
    let mut terms = vec![(channels, mse(&mut tape, &y, &target)?)];
    if let Some(beta) = numbers.beta()? {
        for v in &open {
            terms.push((r.penalty, rounding_penalty(&mut tape, v, beta.clone())?));
        }
    }
    let terms: Vec<(f32, &Var)> = terms.iter().map(|(w, v)| (*w, v)).collect();
    let loss = weighted_sum(&mut tape, &terms)?;
    tape.backward(&loss)?;
    learned.choices.step(r.rounding_lr)?;
    learned.ratios.step(numbers.rate(0)?)?;
    learned.ranges.step(numbers.rate(1)?)
}
