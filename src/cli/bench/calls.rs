//! What a training iteration asks of a GPU's driver, launched kernel by kernel and as a graph.

use super::Args;
use super::spread::median;
use crate::Result;
use crate::data::Normalization;
use crate::device::{Counters, Device};
use crate::methods::Recipe;
use crate::report::table::Table;
use crate::train::QuantizeRun;
use std::time::Instant;

/// What one GDFQ iteration of a run asks of the driver.
pub struct Calls {
    pub eager: Counters,
    /// The iteration that is recorded and then replayed for the first time.
    pub recording: Counters,
    pub graph: Counters,
    /// Median of replayed iterations, each waited for.
    pub seconds: f64,
}

impl Calls {
    /// One row per kind of call.
    pub fn table(&self) -> Table {
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
pub fn calls(args: &Args, device: &Device) -> Result<Calls> {
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
