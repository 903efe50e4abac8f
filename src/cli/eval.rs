//! `ghostbit eval`: top-1 accuracy of any checkpoint.

use super::network::{NetworkArgs, test_sets};
use crate::data::Normalization;
use crate::device::Device;
use crate::graph::Forward;
use crate::train::evaluate;
use crate::{Error, Result};
use serde_json::json;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Test set: cifar10:FILE, idx:IMAGES,LABELS, builtin:test; may be repeated
    #[arg(long = "eval")]
    sets: Vec<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, device: &Device, why: &str) -> Result<()> {
    let sets = test_sets(&args.sets, &args.network)?;
    if sets.is_empty() {
        return Err(Error::config("--eval", "give at least one test set, e.g. cifar10:test_batch.bin"));
    }
    let (mut network, spec) = args.network.load_any(device)?;
    let mut rows = Vec::new();
    for set in &sets {
        let a = evaluate(&mut network, &set.data, &Normalization::CIFAR, Forward::eval())?;
        if !args.json {
            println!("{:<60} {:6.2} %  ({} of {})", set.name, a.top1(), a.correct, a.total);
        }
        rows.push(json!({"set": set.name, "correct": a.correct, "total": a.total, "top1": a.top1()}));
    }
    if args.json {
        let doc = json!({"arch": args.network.arch, "model": args.network.origin(), "quantized": spec,
                         "device": device.name(), "device_reason": why, "results": rows});
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
    }
    Ok(())
}
