//! `ghostbit quantize`: the main job.

use super::deployed;
use super::job::{Done, Job, RunConfig, short};
use super::network::{NetworkArgs, test_sets};
use crate::device::Device;
use crate::methods::Recipe;
use crate::report::table::Table;
use crate::train::{Accuracy, Diagnosis, Event, Summary, Tally, TestSet};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Test set for the report: cifar10:FILE, idx:IMAGES,LABELS, builtin:test; may be repeated. Never trained on
    #[arg(long = "eval")]
    sets: Vec<String>,
    /// Use these images, without labels, in place of synthetic ones: a folder of PNG or JPEG files, or a set as for --eval
    #[arg(long, value_name = "FOLDER|SET")]
    images: Option<String>,
    /// Recipe: a name of `methods list`, or a .toml file [default: best, fitted to the network]
    #[arg(long)]
    method: Option<String>,
    /// Change one key of the recipe, e.g. student.lr=1e-4; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Bits of weights
    #[arg(long)]
    wbits: Option<u8>,
    /// Bits of activations
    #[arg(long)]
    abits: Option<u8>,
    /// Bits of the first layer's weights, when they differ
    #[arg(long)]
    first_bits: Option<u8>,
    /// Bits of the last layer's weights, when they differ
    #[arg(long)]
    last_bits: Option<u8>,
    /// Bits of the images as the first layer sees them; 32 leaves them f32
    #[arg(long)]
    input_bits: Option<u8>,
    /// Bits of one layer's weights or one ReLU's output, e.g. layer2.0.conv1=6 (`inspect` prints the names); may be repeated
    #[arg(long, value_name = "NODE=BITS")]
    layer_bits: Vec<String>,
    /// Images per iteration
    #[arg(long)]
    batch: Option<usize>,
    /// Iterations, warm-up included
    #[arg(long)]
    iters: Option<u64>,
    #[arg(long)]
    seed: Option<u64>,
    /// Run folder [default: runs/ARCH-METHOD-wWaA-sSEED]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Continue the run in this folder
    #[arg(long, conflicts_with_all = ["out", "method", "images", "set", "model", "sets", "wbits", "abits", "first_bits", "last_bits", "input_bits", "layer_bits", "batch", "iters", "seed"])]
    resume: Option<PathBuf>,
    /// Write a checkpoint every N iterations (0: only on Ctrl-C)
    #[arg(long, default_value_t = 200)]
    checkpoint_every: u64,
    /// On a GPU, launch kernel by kernel instead of recording each kind of step as one graph
    #[arg(long)]
    no_capture: bool,
    /// Print the resolved recipe and stop
    #[arg(long)]
    show_recipe: bool,
    /// Print summary.json instead of the table
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args, device: &Device, why: &str) -> Result<()> {
    let start = Instant::now();
    let (mut config, folder) = resolve(&args)?;
    let network = config.network();
    let adapts = args.resume.is_none() && args.method.is_none();
    let teacher = if adapts || !args.show_recipe { Some(network.load(device)?) } else { None };
    if let Some(teacher) = teacher.as_ref().filter(|_| adapts) {
        config.adapt(&teacher.graph, &asked(&args))?;
    }
    let (false, Some(teacher)) = (args.show_recipe, teacher) else {
        print!("{}", config.recipe.to_toml());
        return Ok(());
    };
    let sets = test_sets(&config.eval, &network, Some(&teacher.graph))?;
    let mut job = Job::new(&config, &folder, teacher, &sets, args.resume.is_some())?;
    if args.no_capture {
        job.run = job.run.without_graphs();
    }
    if !args.json {
        let r = &config.recipe;
        println!("{} ({}) -> W{}A{}, recipe {}", config.arch, network.origin(), r.wbits, r.abits, r.name);
        println!("device {}: {why}", device.name());
        config.adapted.iter().for_each(|line| println!("{line}"));
        if let Some(images) = &config.images {
            println!("images of {images} instead of synthetic ones, with the teacher's labels");
        }
    }
    let stop = super::interrupt_flag()?;
    let display = Display::new(&config.recipe, job.run.it, args.json)?;
    let done = job.finish(start, why, args.checkpoint_every, &stop, &mut |e| display.on(e))?;
    display.bar.finish_and_clear();
    let Done { summary, synthetic, document } = done;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&document).expect("plain data"));
    } else {
        print_table(&summary, &sets);
        print_synthetic(&synthetic);
        deployed::print(&document["files"]);
        let (seconds, rss) = (start.elapsed().as_secs_f64(), super::peak_rss_mib());
        println!("{seconds:.0} s, peak memory {rss:.0} MiB, device {} ({why})", device.name());
        println!("run folder {}", folder.display());
    }
    Ok(())
}

/// The recipe when none is named.
pub const DEFAULT_METHOD: &str = "best";

fn resolve(args: &Args) -> Result<(RunConfig, PathBuf)> {
    if let Some(folder) = &args.resume {
        return Ok((RunConfig::load(folder)?, folder.clone()));
    }
    let mut recipe = Recipe::load(args.method.as_deref().unwrap_or(DEFAULT_METHOD))?;
    if args.images.is_some() {
        // Before settings, so that --iters counts student steps.
        recipe.take_images();
    }
    // --iters alone keeps the recipe's share of warm-up only when it still fits; a shorter run warms up for less.
    for assignment in &args.set {
        recipe.set(assignment)?;
    }
    recipe.wbits = args.wbits.unwrap_or(recipe.wbits);
    recipe.abits = args.abits.unwrap_or(recipe.abits);
    recipe.first_bits = args.first_bits.or(recipe.first_bits);
    recipe.last_bits = args.last_bits.or(recipe.last_bits);
    recipe.input_bits = match args.input_bits {
        Some(32) => None,
        given => given.or(recipe.input_bits),
    };
    for node in &args.layer_bits {
        recipe.set(&format!("layer_bits.{node}"))?;
    }
    recipe.batch = args.batch.unwrap_or(recipe.batch);
    recipe.seed = args.seed.unwrap_or(recipe.seed);
    if let Some(iters) = args.iters {
        recipe.iters = iters;
        recipe.warmup = recipe.warmup.min(iters);
    }
    let config = RunConfig::new(&args.network, &args.sets, args.images.as_deref(), recipe)?;
    let folder = args.out.clone().unwrap_or_else(|| Path::new("runs").join(config.name()));
    Ok((config, folder))
}

/// The keys that the arguments set.
fn asked(args: &Args) -> Vec<String> {
    let batch = args.batch.map(|b| format!("batch={b}"));
    let iters = args.iters.map(|i| format!("iters={i}"));
    args.set.iter().cloned().chain(batch).chain(iters).collect()
}

/// Progress bar, and lines above it.
struct Display {
    bar: ProgressBar,
    quiet: bool,
}

impl Display {
    fn new(recipe: &Recipe, it: u64, quiet: bool) -> Result<Self> {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(recipe.iters) };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed} of about {duration}  {msg}");
        bar.set_style(style.map_err(|e| Error::config("progress bar", e.to_string()))?);
        bar.set_position(it);
        bar.reset_eta();
        Ok(Self { bar, quiet })
    }

    fn on(&self, event: &Event) {
        let bar = &self.bar;
        match event {
            Event::Generator { it, losses: l } => {
                bar.set_position(*it);
                bar.set_message(format!("generator {:.3}", l.total));
            }
            Event::Images { done, of, loss } => bar.set_message(format!("images, batch {done}/{of}, loss {loss:.3}")),
            Event::Student { it, losses: l } => {
                bar.set_position(*it);
                bar.set_message(format!("student {:.4}", l.total));
            }
            Event::Block { report: r, done, of } => {
                bar.set_message(format!("block {done}/{of}, error {:.4} -> {:.4}", r.before, r.after));
            }
            Event::Eager { why } if !self.quiet => {
                bar.suspend(|| println!("steps are launched kernel by kernel, not as graphs: {why}"));
            }
            Event::Evaluated { tally, phase } if !self.quiet => bar.suspend(|| println!("{}", line(tally, phase))),
            Event::Eager { .. } | Event::Evaluated { .. } => {}
        }
    }
}

fn line(t: &Tally, phase: &str) -> String {
    let top1: Vec<String> = t.accuracy.iter().map(|a| format!("{:.2} %", a.top1())).collect();
    let (agreement, top1) = (100.0 * t.agreement, top1.join("  "));
    format!("{:>6}  {phase:<13}  top-1 {top1}  agreement {agreement:.1} %  divergence {:.4}", t.it, t.divergence)
}

fn print_table(s: &Summary, sets: &[TestSet]) {
    let mut table = Table::new(["test set", "full precision", "calibrated only", "last", "selected", "best on test*"]);
    for (i, set) in sets.iter().enumerate() {
        let cell = |a: &[Accuracy]| a.get(i).map_or("-".into(), |a| format!("{:.2} %", a.top1()));
        let best = cell(&s.best);
        table.row([
            short(&set.name).to_string(),
            cell(&s.fp),
            cell(&s.ptq.accuracy),
            cell(&s.last.accuracy),
            cell(&s.selected.accuracy),
            best,
        ]);
    }
    println!("{table}");
    println!("selected: step {} by smallest divergence from the teacher on images set aside", s.selected.it);
    println!("* chosen on the test set, as papers report it; for comparison only");
}

fn print_synthetic(found: &[(&str, Diagnosis)]) {
    let mut table = Table::new([
        "synthetic images",
        "label agreement",
        "BN distance",
        "correlation",
        "centre spread",
        "attention eval/batch",
        "class separation",
    ]);
    for (name, d) in found {
        let cell = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.3}"));
        table.row([
            (*name).to_string(),
            format!("{:.1} %", 100.0 * d.label_agreement),
            format!("{:.3}", d.bn_distance),
            format!("{:.3}", d.correlation),
            cell(d.center_spread),
            cell(d.attention_similarity),
            cell(d.separation),
        ]);
    }
    println!("{table}");
}
