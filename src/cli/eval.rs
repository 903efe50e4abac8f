//! `ghostbit eval`: top-1 accuracy of any checkpoint; of an integer network also its size, and its speed beside the float
//! network's.

use super::network::{Loaded, NetworkArgs, test_sets};
use crate::deploy::{Engine, IntegerNetwork, measure};
use crate::device::Device;
use crate::graph::{Forward, InputKind};
use crate::tensor::io::{Checkpoint, HostTensor};
use crate::train::{Accuracy, TestSet, evaluate};
use crate::{Error, Result};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Test set: cifar10:FILE, idx:IMAGES,LABELS, builtin:test; may be repeated
    #[arg(long = "eval")]
    sets: Vec<String>,
    /// Integer network (integer.safetensors): evaluate this one, in integers
    #[arg(long, value_name = "FILE")]
    integer: Option<PathBuf>,
    /// Write the integer network's logits here (safetensors, one f32 tensor [images classes] per test set)
    #[arg(long, value_name = "FILE", requires = "integer")]
    logits: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, device: &Device, why: &str) -> Result<()> {
    if args.sets.is_empty() && !args.network.is_builtin() {
        return Err(Error::config("--eval", "give at least one test set, e.g. cifar10:test_batch.bin"));
    }
    if let Some(path) = &args.integer {
        return integer(path, &args, &test_sets(&args.sets, &args.network, None)?, device, why);
    }
    let Loaded { mut network, spec, normalization } = args.network.load_any(device)?;
    let sets = test_sets(&args.sets, &args.network, Some(&network.graph))?;
    let mut rows = Vec::new();
    for set in &sets {
        let a = evaluate(&mut network, &set.data, &normalization, Forward::eval())?;
        if !args.json {
            println!("{:<60} {:6.2} %  ({} of {})", set.name, a.top1(), a.correct, a.total);
        }
        rows.push(json!({"set": set.name, "correct": a.correct, "total": a.total, "top1": a.top1()}));
    }
    if args.json {
        let doc = json!({"arch": args.network.arch(), "model": args.network.origin(), "quantized": spec,
                         "device": device.name(), "device_reason": why, "results": rows});
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
    }
    Ok(())
}

/// Batches that are timed: one image for latency, many for throughput.
const TIMED: [(usize, usize); 2] = [(1, 200), (64, 9)];

fn integer(path: &Path, args: &Args, sets: &[TestSet], device: &Device, why: &str) -> Result<()> {
    let engine = Engine::on(device, IntegerNetwork::load(path)?)?;
    let mut rows = Vec::new();
    let mut all = Checkpoint::default();
    for set in sets {
        let (d, input) = (&set.data, engine.network().input());
        if [d.h, d.w, d.c] != input[..] || d.classes != engine.network().graph.classes {
            let found = format!("{}x{}x{} images of {} classes", d.h, d.w, d.c, d.classes);
            let detail = format!("{} holds {found}; {} takes {input:?}", set.name, path.display());
            return Err(Error::config("--eval", detail));
        }
        let (correct, values) = measure::hits(&engine, d)?;
        let a = Accuracy { correct, total: d.n };
        all.tensors.insert(set.name.clone(), HostTensor { shape: vec![d.n, d.classes], values });
        if !args.json {
            println!("{:<60} {:6.2} %  ({} of {})", set.name, a.top1(), a.correct, a.total);
        }
        rows.push(json!({"set": set.name, "correct": a.correct, "total": a.total, "top1": a.top1()}));
    }
    if let Some(to) = &args.logits {
        all.save(to)?;
    }
    let (float, packed) = engine.network().weight_bytes();
    let file = super::export::file_bytes(path)?;
    let mut network = args.network.load_any(device)?.network;
    let mut speeds = Vec::new();
    // Another network's speed says nothing: --arch and --model name the right one.
    let same = network.graph.inputs == [InputKind::Real(engine.network().input().to_vec())];
    for (batch, rounds) in TIMED.into_iter().filter(|_| same) {
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
