//! `ghostbit bench step`: seconds and memory of one training iteration.

use super::network::NetworkArgs;
use crate::data::Normalization;
use crate::device::Device;
use crate::methods::Recipe;
use crate::train::QuantizeRun;
use crate::{Error, Result};
use serde_json::json;

#[derive(clap::Args)]
pub struct Args {
    /// What to time
    #[arg(value_enum, default_value = "step")]
    what: What,
    #[command(flatten)]
    network: NetworkArgs,
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Timed iterations; the median is reported
    #[arg(long, default_value_t = 10)]
    iters: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// One GDFQ iteration: generator step and student step
    Step,
}

pub fn run(args: Args, device: &Device) -> Result<()> {
    let What::Step = args.what;
    if args.iters == 0 {
        return Err(Error::config("--iters", "must be at least 1"));
    }
    let teacher = args.network.load(device)?;
    let mut recipe = Recipe::load("gdfq")?;
    (recipe.batch, recipe.warmup) = (args.batch, 1);
    let mut run = QuantizeRun::new(device, teacher, Normalization::CIFAR, recipe)?;
    let (mut generator, mut student) = (Vec::new(), Vec::new());
    // The first iterations fill the memory pool and set the ranges.
    for it in 1..=args.iters + 2 {
        let (g, s) = run.timed_iteration(it)?;
        if it > 2 {
            generator.push(g);
            student.push(s);
        }
    }
    let (g, s) = (median(&mut generator), median(&mut student));
    let rss = super::peak_rss_mib();
    let rate = args.batch as f64 / (g + s);
    if args.json {
        let doc = json!({"bench": "step", "batch": args.batch, "device": device.name(), "iters": args.iters,
            "generator_seconds": g, "student_seconds": s, "step_seconds": g + s,
            "images_per_second": rate, "peak_rss_mib": rss});
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
    } else {
        let (g, s, sum) = (g * 1e3, s * 1e3, (g + s) * 1e3);
        println!(
            "step, batch {}, {}: generator {g:.1} ms + student {s:.1} ms = {sum:.1} ms",
            args.batch,
            device.name()
        );
        println!("{rate:.0} images/s, peak memory {rss:.0} MiB");
    }
    Ok(())
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
