//! `ghostbit sweep`: many quantizations of one network, side by side, each in a run folder as `quantize` makes it.

mod spec;
mod summary;
mod workers;

use super::job::RunConfig;
use super::network::{NetworkArgs, test_sets};
use crate::device::Device;
use crate::graph::Network;
use crate::train::TestSet;
use crate::train::log::{MetricsLog, write_json};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use spec::{Flags, Grid};
use std::path::{Path, PathBuf};
use std::time::Instant;
use workers::{End, Told};

#[derive(clap::Args)]
pub struct Args {
    /// TOML file with any of: arch, model, classes, mean, std, output, input_size, images, eval, method, bits, seeds, set. Flags come before its keys; `set` adds up
    spec: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArgs,
    /// Test set for the report, as for `quantize`; may be repeated
    #[arg(long = "eval")]
    sets: Vec<String>,
    /// Use these images in place of synthetic ones, as for `quantize`
    #[arg(long, value_name = "FOLDER|SET")]
    images: Option<String>,
    /// Recipes [default: best, fitted to the network]
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    method: Vec<String>,
    /// Bits of weights and activations, e.g. 4a4,3a3 [default: the recipe's]
    #[arg(long, value_delimiter = ',', value_name = "WaA,..")]
    bits: Vec<String>,
    /// Seeds, e.g. 1..3 (1, 2 and 3) or 1,5 [default: the recipe's]
    #[arg(long, value_delimiter = ',', value_name = "SEED,..")]
    seeds: Vec<String>,
    /// Change one key of all recipes, e.g. iters=500; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Runs at the same time [default: on the CPU one per thread, on a GPU one]
    #[arg(long)]
    jobs: Option<usize>,
    /// Folder of the run folders [default: runs/SPEC, or runs/sweep]. What is finished there is not done again
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write checkpoints every N iterations, which an interrupted sweep goes on from (0: only on Ctrl-C)
    #[arg(long, default_value_t = 200)]
    checkpoint_every: u64,
    /// Print summary.json instead of the table
    #[arg(long)]
    json: bool,
}

/// What all runs have in common.
struct Shared<'a> {
    runs: Vec<RunConfig>,
    out: PathBuf,
    sets: &'a [TestSet],
    /// On `device`; read by all runs.
    teacher: Network,
    device: &'a Device,
    why: &'a str,
    checkpoint_every: u64,
}

impl Shared<'_> {
    fn folder(&self, run: &RunConfig) -> PathBuf {
        self.out.join(run.name())
    }

    /// For one run: the same values in the same memory, on a GPU for a stream of the run's own.
    fn teacher(&self) -> Result<Network> {
        let device = if self.device.is_cpu() { self.device.clone() } else { self.device.beside()? };
        self.teacher.shared(&device)
    }
}

pub fn run(args: Args, device: &Device, why: &str) -> Result<()> {
    let start = Instant::now();
    if args.jobs == Some(0) {
        return Err(Error::config("--jobs", "must be at least 1"));
    }
    let (network, eval, set) = (&args.network, &args.sets[..], &args.set[..]);
    let images = args.images.as_deref();
    let flags = Flags { network, eval, images, method: &args.method, bits: &args.bits, seeds: &args.seeds, set };
    let Grid { network, eval, mut runs, default, set } = Grid::new(args.spec.as_deref(), &flags)?;
    let teacher = network.load(device)?;
    if default {
        runs.iter_mut().try_for_each(|run| run.adapt(&teacher.graph, &set))?;
    }
    let sets = test_sets(&eval, &network, Some(&teacher.graph))?;
    let stem = args.spec.as_deref().and_then(Path::file_stem).unwrap_or("sweep".as_ref());
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(stem));
    std::fs::create_dir_all(&out)
        .map_err(|e| Error::file(&out, format!("cannot be created: {e}; choose another --out")))?;
    let (sets, checkpoint_every) = (&sets[..], args.checkpoint_every);
    let shared = Shared { runs, out, sets, teacher, device, why, checkpoint_every };
    let mut sweep = Sweep::new(&shared, args.json)?;
    let todo: Vec<usize> = (0..shared.runs.len()).filter(|&i| sweep.ends[i].is_none()).collect();
    let budget = rayon::current_num_threads();
    let jobs = args.jobs.unwrap_or(if device.is_cpu() { budget } else { 1 }).min(todo.len()).max(1);
    let threads = (budget / jobs).max(1);
    if !args.json {
        let (all, kept) = (shared.runs.len(), shared.runs.len() - todo.len());
        println!("{} ({}): {all} runs, {kept} finished before; {jobs} at a time", network.arch(), network.origin());
        println!("device {}, {threads} threads per run: {why}", device.name());
        shared.runs.iter().take(1).flat_map(|run| &run.adapted).for_each(|line| println!("{line}"));
    }
    let stop = super::interrupt_flag()?;
    let iterations: u64 = todo.iter().map(|&i| shared.runs[i].recipe.iters).sum();
    sweep.bar.set_length(iterations);
    let clock = Instant::now();
    workers::work(&shared, &todo, jobs, threads, &stop, &mut |told| sweep.on(told))?;
    sweep.bar.finish_and_clear();
    let seconds = clock.elapsed().as_secs_f64();
    let finished = todo.iter().filter(|&&i| matches!(sweep.ends[i], Some(End::Finished(_)))).count();
    let rate = finished as f64 * 3600.0 / seconds.max(1e-9);
    let configurations = summary::configurations(&shared.runs, &sweep.ends);
    let failed: Vec<_> = shared.runs.iter().zip(&sweep.ends).filter_map(failure).collect();
    let document = json!({"ghostbit": env!("CARGO_PKG_VERSION"), "arch": network.arch(), "model": network.model,
        "device": device.name(), "device_reason": why, "jobs": jobs, "threads_per_run": threads,
        "runs": shared.runs.len(), "finished_now": finished, "seconds": seconds,
        "runs_per_hour": rate, "peak_rss_mib": super::peak_rss_mib(),
        "configurations": configurations.iter().map(|c| c.to_json()).collect::<Vec<_>>(), "failed": failed});
    write_json(shared.out.join("summary.json"), &document)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&document).expect("plain data"));
    } else {
        println!("{}", summary::table(&configurations));
        println!("top-1 in %, mean and standard deviation over seeds");
        let (taken, rss) = (start.elapsed().as_secs_f64(), super::peak_rss_mib());
        println!(
            "{finished} runs in {taken:.0} s: {rate:.1} runs per hour, {jobs} at a time, peak memory {rss:.0} MiB"
        );
        println!("folder {}", shared.out.display());
    }
    sweep.verdict()
}

/// A run that failed: its name and why.
fn failure((run, end): (&RunConfig, &Option<End>)) -> Option<serde_json::Value> {
    match end {
        Some(End::Failed(e)) => Some(json!({"run": run.name(), "error": e})),
        _ => None,
    }
}

/// What has happened so far.
struct Sweep<'a> {
    shared: &'a Shared<'a>,
    ends: Vec<Option<End>>,
    log: MetricsLog,
    bar: ProgressBar,
    quiet: bool,
}

impl<'a> Sweep<'a> {
    /// Looks for what is finished already, and begins summary.jsonl with it.
    fn new(shared: &'a Shared, quiet: bool) -> Result<Self> {
        let mut log = MetricsLog::create(shared.out.join("summary.jsonl"))?;
        let mut ends = Vec::with_capacity(shared.runs.len());
        for run in &shared.runs {
            let end = workers::finished(run, &shared.folder(run))?.map(End::Kept);
            if let Some(end) = &end {
                log.write(&summary::line(run, end, 0.0))?;
            }
            ends.push(end);
        }
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} iterations  {elapsed} of about {duration}");
        bar.set_style(style.map_err(|e| Error::config("progress bar", e.to_string()))?);
        Ok(Self { shared, ends, log, bar, quiet })
    }

    fn on(&mut self, told: Told) -> Result<()> {
        let (index, end, seconds) = match told {
            Told::Iterations(n) => {
                self.bar.inc(n);
                return Ok(());
            }
            Told::Ended(index, end, seconds) => (index, end, seconds),
        };
        let run = &self.shared.runs[index];
        self.log.write(&summary::line(run, &end, seconds))?;
        let said = summary::said(run, &end, seconds);
        self.ends[index] = Some(end);
        let (over, all) = (self.ends.iter().flatten().count(), self.ends.len());
        if !self.quiet {
            self.bar.suspend(|| println!("[{over}/{all}] {said}"));
        }
        Ok(())
    }

    /// An error unless all runs are finished.
    fn verdict(&self) -> Result<()> {
        let count = |which: fn(&Option<End>) -> bool| self.ends.iter().filter(|e| which(e)).count();
        let failed = count(|e| matches!(e, Some(End::Failed(_))));
        let left = count(|e| matches!(e, None | Some(End::Interrupted(_))));
        let all = self.ends.len();
        let file = self.shared.out.join("summary.jsonl");
        if failed > 0 {
            let first = self.shared.runs.iter().zip(&self.ends).find_map(failure).expect("one failed");
            let detail = format!("{failed} of {all} runs failed, first {}: {}", first["run"], first["error"]);
            return Err(Error::file(file, detail));
        }
        if left > 0 {
            let detail = format!("interrupted, {left} of {all} runs left; the same command goes on");
            return Err(Error::file(file, detail));
        }
        Ok(())
    }
}
