//! `ghostbit bench`: seconds and memory of one training iteration (`step`; on a GPU, or its emulator, also what it asks of
//! the driver, launched kernel by kernel and as a graph); an integer network beside the float one (`integer`).

use super::network::NetworkArgs;
use crate::data::Normalization;
use crate::deploy::measure::Speed;
use crate::deploy::{Engine, lower, measure};
use crate::device::{Counters, Device};
use crate::graph::Network;
use crate::graph::passes::{QuantizeSpec, quantize};
use crate::methods::Recipe;
use crate::report::table::Table;
use crate::tensor::{DType, Tensor};
use crate::train::QuantizeRun;
use crate::{Error, Result};
use serde_json::json;
use std::time::Instant;

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
    /// Inference on the CPU: W4A4 in integers and the float network, batch 1 and --batch
    Integer,
}

pub fn run(args: Args, device: &Device) -> Result<()> {
    if args.iters == 0 {
        return Err(Error::config("--iters", "must be at least 1"));
    }
    if let What::Integer = args.what {
        return integer(&args);
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
    let calls = if device.is_cpu() { None } else { Some(calls(&args, device)?) };
    let (g, s) = (median(&mut generator), median(&mut student));
    let rss = super::peak_rss_mib();
    let rate = args.batch as f64 / (g + s);
    if args.json {
        let mut doc = json!({"bench": "step", "batch": args.batch, "device": device.name(), "iters": args.iters,
            "generator_seconds": g, "student_seconds": s, "step_seconds": g + s,
            "images_per_second": rate, "peak_rss_mib": rss});
        if let Some(c) = &calls {
            doc["driver_calls_per_step"] = json!({"kernel_by_kernel": c.eager, "recording": c.recording,
                "graph": c.graph});
            doc["graph_nodes"] = json!(c.recording.recorded);
            doc["graph_seconds"] = json!(c.seconds);
        }
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
    } else {
        let (g, s, sum) = (g * 1e3, s * 1e3, (g + s) * 1e3);
        println!(
            "step, batch {}, {}: generator {g:.1} ms + student {s:.1} ms = {sum:.1} ms",
            args.batch,
            device.name()
        );
        println!("{rate:.0} images/s, peak memory {rss:.0} MiB");
        if let Some(c) = &calls {
            println!("{}", c.table());
            let (ms, nodes) = (c.seconds * 1e3, c.recording.recorded);
            println!("as a graph of {nodes} nodes: {ms:.1} ms, the wait for its end included");
        }
    }
    Ok(())
}

/// What one GDFQ iteration of a run asks of the driver.
struct Calls {
    eager: Counters,
    /// The iteration that is recorded and then replayed for the first time.
    recording: Counters,
    graph: Counters,
    /// Median of replayed iterations, each waited for.
    seconds: f64,
}

impl Calls {
    fn table(&self) -> Table {
        let mut table = Table::new(["driver calls per step", "kernel by kernel", "recording", "graph"]);
        let rows: [(&str, fn(&Counters) -> u64); 7] = [
            ("kernel launches", |c| c.launches),
            ("graph launches", |c| c.graphs),
            ("nodes recorded", |c| c.recorded),
            ("copies and fills", |c| c.copies),
            ("waits", |c| c.waits),
            ("allocations", |c| c.allocations),
            ("bytes allocated", |c| c.allocated),
        ];
        for (name, of) in rows {
            let cells = [&self.eager, &self.recording, &self.graph].map(|c| of(c).to_string());
            table.row([name.to_string()].into_iter().chain(cells));
        }
        table
    }
}

/// Counts the loop's own iterations after warm-up: the second one launched kernel by kernel, the one that is recorded, and
/// those that are replayed.
fn calls(args: &Args, device: &Device) -> Result<Calls> {
    let gpu = device.gpu().expect("called for GPUs");
    let mut recipe = Recipe::load("gdfq")?;
    (recipe.batch, recipe.warmup) = (args.batch, 1);
    let start = || QuantizeRun::new(device, args.network.load(device)?, Normalization::CIFAR, recipe.clone());
    let step = |run: &mut QuantizeRun| -> Result<(Counters, f64)> {
        let (before, clock) = (gpu.counters(), Instant::now());
        run.advance(&mut |_| Ok(()))?;
        let cost = gpu.counters() - before;
        device.synchronize()?;
        Ok((cost, clock.elapsed().as_secs_f64()))
    };
    let mut run = start()?.without_graphs();
    let mut eager = Counters::default();
    for _ in 0..3 {
        eager = step(&mut run)?.0;
    }
    drop(run);
    let mut run = start()?;
    (step(&mut run)?, step(&mut run)?);
    let recording = step(&mut run)?.0;
    let (mut graph, mut seconds) = (Counters::default(), Vec::new());
    for _ in 0..args.iters {
        let (cost, taken) = step(&mut run)?;
        graph = cost;
        seconds.push(taken);
    }
    Ok(Calls { eager, recording, graph, seconds: median(&mut seconds) })
}

fn integer(args: &Args) -> Result<()> {
    let device = Device::cpu();
    let mut float = args.network.load(&device)?;
    // Ranges and weights do not change the time.
    let mut student = Network::new(&device, quantize(&float.graph, QuantizeSpec::new(4, 4))?, 0)?;
    student.copy_from(&float)?;
    student.weight_ranges_min_max()?;
    let ones = Tensor::from_slice(&device, [1], &[1.0f32])?;
    let zero = Tensor::zeros(&device, [1], DType::F32)?;
    for q in student.graph.quantizers().iter().filter(|q| !q.weight) {
        student.set_range(&q.name, &zero, &ones)?;
    }
    let engine = Engine::new(lower(&student, Normalization::CIFAR)?)?;
    let mut rows = Vec::new();
    for batch in [1, args.batch.max(1)] {
        // Small batches are timed more often.
        let s = measure::compare(&engine, &mut float, batch, args.iters as usize * (256 / batch).clamp(1, 20))?;
        if args.json {
            rows.push(json!({"batch": s.batch, "integer_seconds": s.integer, "float_seconds": s.float}));
        } else {
            print_speed(&s, &args.network.arch(), &device);
        }
    }
    if args.json {
        let doc = json!({"bench": "integer", "network": args.network.arch(), "device": device.name(), "speed": rows});
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
    }
    Ok(())
}

/// One line: seconds of both, and the ratio.
pub fn print_speed(s: &Speed, arch: &str, device: &Device) {
    let (i, f) = (s.integer * 1e3, s.float * 1e3);
    let rate = s.batch as f64 / s.integer;
    println!(
        "batch {:<4} integer {i:.3} ms ({rate:.0} images/s), float {arch} {f:.3} ms: {:.2}x, {}",
        s.batch,
        f / i,
        device.name()
    );
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
