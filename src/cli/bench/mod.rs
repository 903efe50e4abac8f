//! `ghostbit bench`: seconds and memory of one training iteration (`step`), of every op's production shapes (`kernels`), of
//! an integer network beside the float one (`integer`); and all of them beside an earlier report (`--compare`).

mod calls;
mod compare;
mod integer;
mod kernels;
mod spread;
mod step;
mod work;

pub use integer::print_speed;

use super::network::NetworkArgs;
use crate::device::Device;
use crate::{Error, Result};
use compare::Earlier;
use serde_json::Value;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// What to time
    #[arg(value_enum, default_value = "step")]
    what: What,
    #[command(flatten)]
    network: NetworkArgs,
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Timed iterations, or rounds over all kernels; the median is reported
    #[arg(long, default_value_t = 10)]
    iters: u64,
    /// Of `kernels`: only those whose OP/PASS/CASE contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// An earlier report of the same kind (--json): print how many times faster each row is now
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum What {
    /// One GDFQ iteration: generator step and student step
    Step,
    /// Inference on the CPU: W4A4 in integers and the float network, batch 1 and --batch
    Integer,
    /// Every op at its production shapes, forward and with its gradient, beside what the device can do
    Kernels,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Integer => "integer",
            Self::Kernels => "kernels",
        }
    }
}

pub fn run(args: Args, device: &Device) -> Result<()> {
    if args.iters == 0 {
        return Err(Error::config("--iters", "must be at least 1"));
    }
    if args.filter.is_some() && args.what != What::Kernels {
        return Err(Error::config("--filter", format!("is for `bench kernels`, not `bench {}`", args.what.name())));
    }
    let cpu = Device::cpu();
    let device = if args.what == What::Integer { &cpu } else { device };
    // Before anything is timed: a mistyped name should not cost a run.
    let earlier = args.compare.as_deref().map(|path| Earlier::load(path, args.what.name(), device)).transpose()?;
    let (mut document, text) = match args.what {
        What::Step => step::report(&args, device)?,
        What::Integer => integer::report(&args)?,
        What::Kernels => kernels::report(&args, device)?,
    };
    let compared = earlier.map(|e| e.beside(&document)).transpose()?;
    if args.json {
        if let Some(c) = &compared {
            document["compared"] = c.to_json();
        }
        println!("{}", serde_json::to_string_pretty(&document).expect("plain data"));
    } else {
        print!("{text}");
        if let Some(c) = compared {
            print!("{c}");
        }
    }
    Ok(())
}

/// One kind's report: the document of `--json`, and the same for people.
type Report = (Value, String);
