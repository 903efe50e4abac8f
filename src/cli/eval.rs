//! `ghostbit eval`: top-1 accuracy and logits of any checkpoint; of an integer network also its size, and its speed beside
//! the float network's.

use super::network::{Loaded, NetworkArgs, test_sets};
use crate::autograd::{Tape, Var};
use crate::data::npy;
use crate::deploy::{Engine, IntegerNetwork, measure};
use crate::device::Device;
use crate::graph::{Forward, InputKind, Network, Taps};
use crate::ops::accuracy::correct;
use crate::tensor::Tensor;
use crate::tensor::io::{Checkpoint, HostTensor};
use crate::train::{Accuracy, TestSet, evaluation_batch};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Test set: cifar10:FILE, idx:IMAGES,LABELS, builtin:test; may be repeated
    #[arg(long = "eval")]
    sets: Vec<String>,
    /// Images as the network takes them, without labels: a .npy file, or array x of a .npz file, f32, [n c h w] or [n h w c]
    #[arg(long, value_name = "FILE", requires = "logits")]
    inputs: Option<PathBuf>,
    /// Integer network (integer.safetensors): evaluate this one, in integers
    #[arg(long, value_name = "FILE")]
    integer: Option<PathBuf>,
    /// Write the logits here (safetensors, one f32 tensor [images classes] per test set, and `inputs`)
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Name of the logits of `--inputs`.
const INPUTS: &str = "inputs";

pub fn run(args: Args, device: &Device, why: &str) -> Result<()> {
    if args.sets.is_empty() && args.inputs.is_none() && !args.network.is_builtin() {
        return Err(Error::config("--eval", "give at least one test set, e.g. cifar10:test_batch.bin, or --inputs"));
    }
    if let Some(path) = &args.integer {
        return integer(path, &args, device, why);
    }
    let Loaded { mut network, spec, normalization } = args.network.load_any(device)?;
    let sets =
        if only_inputs(&args) { Vec::new() } else { test_sets(&args.sets, &args.network, Some(&network.graph))? };
    let mut logits = Logits::default();
    let mut rows = Vec::new();
    for set in &sets {
        let d = &set.data;
        let (mut hits, mut all) = (0, Vec::new());
        let batch = evaluation_batch(d.h * d.w * d.c);
        for start in (0..d.n).step_by(batch) {
            let (x, y) = d.batch(device, start..(start + batch).min(d.n), &normalization)?;
            let found = forward(&mut network, x)?;
            hits += correct(&found, &y)?;
            all.extend(found.to_vec::<f32>()?);
        }
        rows.push(row(set, Accuracy { correct: hits, total: d.n }, args.json));
        logits.add(&set.name, d.n, all);
    }
    if let Some(path) = &args.inputs {
        let InputKind::Real(sample) = &network.graph.inputs[0] else {
            return Err(Error::config("--inputs", "the network takes no images"));
        };
        let images = images(path, sample, device)?;
        logits.add(INPUTS, images.dim(0), batches(&images, |x| forward(&mut network, x))?);
    }
    logits.save(&args)?;
    if args.json {
        let doc = json!({"arch": args.network.arch(), "model": args.network.origin(), "quantized": spec,
                         "device": device.name(), "device_reason": why, "results": rows});
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
    }
    Ok(())
}

/// Whether there is nothing but `--inputs` to run: then the built-in teacher needs no test set either.
fn only_inputs(args: &Args) -> bool {
    args.sets.is_empty() && args.inputs.is_some()
}

fn forward(network: &mut Network, x: Tensor) -> Result<Tensor> {
    let mut tape = Tape::inference(&network.device());
    Ok(network.forward(&mut tape, &[Var::constant(x)], Forward::eval(), &Taps::default())?.output.value)
}

/// Prints the result of a set, unless it goes to the document, and returns it.
fn row(set: &TestSet, a: Accuracy, quiet: bool) -> Value {
    if !quiet {
        println!("{:<60} {:6.2} %  ({} of {})", set.name, a.top1(), a.correct, a.total);
    }
    json!({"set": set.name, "correct": a.correct, "total": a.total, "top1": a.top1()})
}

/// Reads the images of `--inputs`, `[n h w c]`, for a network that takes `sample` `[h w c]`. Files hold them so, or channels
/// first.
fn images(path: &Path, sample: &[usize], device: &Device) -> Result<Tensor> {
    let npy::Array { shape, values } = npy::load(path, "x")?;
    let (&[h, w, c], &[n, a, b, d]) = (sample, &shape[..]) else {
        return Err(Error::file(path, format!("holds an array {shape:?}; images have four dimensions")));
    };
    if n == 0 || ([a, b, d] != [c, h, w] && [a, b, d] != [h, w, c]) {
        let detail =
            format!("holds an array {shape:?}; the network takes images of [n, {c}, {h}, {w}], or [n, {h}, {w}, {c}]");
        return Err(Error::file(path, detail));
    }
    let last = if [a, b, d] == [c, h, w] {
        let at = |i: usize| {
            let (pixel, channel) = (i / c % (h * w), i % c);
            values[(i / (h * w * c) * c + channel) * h * w + pixel]
        };
        (0..values.len()).map(at).collect()
    } else {
        values
    };
    Tensor::from_slice(device, [n, h, w, c], &last)
}

/// Logits of `images`, some at a time.
fn batches(images: &Tensor, mut of: impl FnMut(Tensor) -> Result<Tensor>) -> Result<Vec<f32>> {
    let [n, h, w, c] = images.shape().nhwc("eval")?;
    let batch = evaluation_batch(h * w * c);
    let mut all = Vec::new();
    for start in (0..n).step_by(batch) {
        let count = batch.min(n - start);
        all.extend(of(images.view(start * h * w * c, [count, h, w, c])?)?.to_vec::<f32>()?);
    }
    Ok(all)
}

/// Logits of all images, written to the file of `--logits`.
#[derive(Default)]
struct Logits(Checkpoint);

impl Logits {
    fn add(&mut self, name: &str, n: usize, values: Vec<f32>) {
        let shape = vec![n, values.len() / n.max(1)];
        self.0.tensors.insert(name.into(), HostTensor { shape, values });
    }

    fn save(self, args: &Args) -> Result<()> {
        args.logits.as_ref().map_or(Ok(()), |to| self.0.save(to))
    }
}

/// Batches that are timed: one image for latency, many for throughput.
const TIMED: [(usize, usize); 2] = [(1, 200), (64, 9)];

fn integer(path: &Path, args: &Args, device: &Device, why: &str) -> Result<()> {
    let engine = Engine::on(device, IntegerNetwork::load(path)?)?;
    let sets = if only_inputs(args) { Vec::new() } else { test_sets(&args.sets, &args.network, None)? };
    let mut rows = Vec::new();
    let mut logits = Logits::default();
    for set in &sets {
        let (d, input) = (&set.data, engine.network().input());
        if [d.h, d.w, d.c] != input[..] || !d.fits(engine.network().graph.classes) {
            let largest = d.labels.iter().max().unwrap_or(&0);
            let found = format!("{}x{}x{} images with labels up to {largest}", d.h, d.w, d.c);
            let detail = format!("{} holds {found}; {} takes {input:?}", set.name, path.display());
            return Err(Error::config("--eval", detail));
        }
        let (correct, values) = measure::hits(&engine, d)?;
        rows.push(row(set, Accuracy { correct, total: d.n }, args.json));
        logits.add(&set.name, d.n, values);
    }
    if let Some(file) = &args.inputs {
        let images = images(file, engine.network().input(), device)?;
        logits.add(INPUTS, images.dim(0), batches(&images, |x| engine.logits(&x))?);
    }
    logits.save(args)?;
    let (float, packed) = engine.network().weight_bytes();
    let file = super::export::file_bytes(path)?;
    let mut network = args.network.load_any(device)?.network;
    let mut speeds = Vec::new();
    // Another network's speed says nothing: --arch and --model name the right one.
    let same = network.graph.inputs == [InputKind::Real(engine.network().input().to_vec())];
    for (batch, rounds) in TIMED.into_iter().filter(|_| same && args.inputs.is_none()) {
        let batch = super::deployed::timed_batch(batch, engine.network().input());
        speeds.push(measure::compare(&engine, &mut network, batch, rounds)?);
    }
    if args.json {
        let speeds: Vec<_> = speeds
            .iter()
            .map(|s| json!({"batch": s.batch, "integer_seconds": s.integer, "float_seconds": s.float}))
            .collect();
        let doc = json!({"integer": path, "network": engine.network().graph.name, "device": device.name(), "device_reason": why, "results": rows,
            "weight_bytes": {"float": float, "packed": packed}, "file_bytes": file, "speed": speeds});
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
        return Ok(());
    }
    println!("weights {float} bytes in f32, {packed} packed ({:.1}x); file {file} bytes", float as f64 / packed as f64);
    for s in speeds {
        super::bench::print_speed(&s, &args.network.arch(), device);
    }
    Ok(())
}
