//! One training iteration.

use super::calls::calls;
use super::spread::Spread;
use super::work::Work;
use super::{Args, Report};
use crate::Result;
use crate::data::Normalization;
use crate::device::Device;
use crate::methods::Recipe;
use crate::train::QuantizeRun;
use serde_json::json;

pub fn report(args: &Args, device: &Device) -> Result<Report> {
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
    drop(run);
    let calls = if device.is_cpu() { None } else { Some(calls(args, device)?) };
    let (generator, student) = (Spread::of(generator), Spread::of(student));
    let (g, s) = (generator.median, student.median);
    let rss = super::super::peak_rss_mib();
    let rate = args.batch as f64 / (g + s);
    let range = |s: &Spread| json!([s.p10, s.p90]);
    let mut doc = json!({"bench": "step", "network": args.network.arch(), "batch": args.batch, "device": device.name(),
        "iters": args.iters, "generator_seconds": g, "student_seconds": s, "step_seconds": g + s,
        "generator_p10_p90": range(&generator), "student_p10_p90": range(&student),
        "images_per_second": rate, "peak_rss_mib": rss});
    let ms = |s: &Spread| format!("{:.1} ms ({:.1} to {:.1})", s.median * 1e3, s.p10 * 1e3, s.p90 * 1e3);
    let mut text = format!(
        "step, batch {}, {}: generator {} + student {} = {:.1} ms\n{rate:.0} images/s, peak memory {rss:.0} MiB\n",
        args.batch,
        device.name(),
        ms(&generator),
        ms(&student),
        (g + s) * 1e3
    );
    if let Some(c) = &calls {
        doc["driver_calls_per_step"] = json!({"kernel_by_kernel": c.eager, "recording": c.recording,
            "graph": c.graph});
        doc["graph_nodes"] = json!(c.recording.recorded);
        doc["graph_seconds"] = json!(c.seconds);
        let work = Work::count(args, device)?;
        doc["kernels_per_step"] = work.to_json();
        let (ms, nodes) = (c.seconds * 1e3, c.recording.recorded);
        text += &format!("{}\nas a graph of {nodes} nodes: {ms:.1} ms, the wait for its end included\n", c.table());
        text += &format!("\n{}", work.table());
        text +=
            "launches per step; bytes of the tensors given, each once; operations of convolutions and linear layers\n";
    }
    Ok((doc, text))
}
