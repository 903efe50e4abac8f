//! The command line: parse, run, report. No arithmetic.

mod bench;
mod deployed;
mod eval;
mod export;
mod images;
mod inspect;
mod job;
mod methods;
mod network;
mod predict;
mod quantize;
mod sweep;
mod train;

use crate::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Quantizes a pretrained CNN to 2..8 bits without any data.
#[derive(Parser)]
#[command(name = "ghostbit", version, about, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// cpu, cuda, cuda:INDEX, emulator or auto
    #[arg(long, global = true, default_value = "auto")]
    device: String,
    /// CPU threads; all cores when 0
    #[arg(long, global = true, default_value_t = 0)]
    threads: usize,
}

#[derive(Subcommand)]
enum Command {
    /// Quantize a network without data (the main job)
    Quantize(quantize::Args),
    /// Quantize with many settings, side by side
    Sweep(sweep::Args),
    /// Accuracy of a float or quantized checkpoint, or of an integer network
    Eval(eval::Args),
    /// Write a quantized checkpoint as an integer network or as float weights
    Export(export::Args),
    /// Classify image files with an integer network
    Predict(predict::Args),
    /// Supervised training on labelled images
    Train(train::Args),
    /// Print a network, its quantizers and its op table
    Inspect(inspect::Args),
    /// The methods (recipes) that `quantize --method` knows
    Methods(methods::Args),
    /// Time one training iteration, every kernel, or integer against float inference
    Bench(bench::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    say_when_output_fails();
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    crate::device::VectorWidth::asked()?;
    // This thread is one of them: from outside of the pool every parallel loop, hundreds in a step, would put it to sleep
    // and wake another. (0 threads: as many as there are cores.)
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cli.threads).use_current_thread().build_global();
    pool.map_err(|e| crate::Error::config("--threads", e.to_string()))?;
    let (device, why) = crate::device::Device::open(&cli.device)?;
    match cli.command {
        Command::Quantize(a) => quantize::run(a, &device, &why),
        Command::Sweep(a) => sweep::run(a, &device, &why),
        Command::Eval(a) => eval::run(a, &device, &why),
        Command::Export(a) => export::run(a),
        Command::Predict(a) => predict::run(a),
        Command::Train(a) => train::run(a, &device, &why),
        Command::Inspect(a) => inspect::run(a),
        Command::Methods(a) => methods::run(a),
        Command::Bench(a) => bench::run(a, &device),
    }
}

/// `println!` panics when standard output is full or was closed; that is no fault of the program, so it ends like other
/// errors do.
fn say_when_output_fails() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        match message.and_then(|m| m.strip_prefix("failed printing to stdout: ")) {
            Some(why) => {
                eprintln!("error: standard output cannot be written: {why}; free some space or send it elsewhere");
                std::process::exit(1);
            }
            None => usual(panic),
        }
    }));
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the process at once.
fn interrupt_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .map_err(|e| crate::Error::config("Ctrl-C handler", e.to_string()))?;
    Ok(flag)
}

/// Peak resident memory of this process in MiB (Linux; 0 elsewhere).
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().nth(1)).and_then(|v| v.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
