//! What a training iteration asks of each kernel.

use super::Args;
use crate::Result;
use crate::data::Normalization;
use crate::device::{Device, KernelWork};
use crate::methods::Recipe;
use crate::report::table::Table;
use crate::train::QuantizeRun;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// By kernel: of the generator step, of the student step.
pub struct Work(BTreeMap<&'static str, [KernelWork; 2]>);

impl Work {
    /// Counted beside `device`, on one that counts.
    pub fn count(args: &Args, device: &Device) -> Result<Self> {
        let device = device.counting()?;
        let mut recipe = Recipe::load("gdfq")?;
        (recipe.batch, recipe.warmup) = (args.batch, 1);
        let mut run = QuantizeRun::new(&device, args.network.load(&device)?, Normalization::CIFAR, recipe)?;
        let mut found: BTreeMap<&'static str, [KernelWork; 2]> = BTreeMap::new();
        for (i, half) in run.work_by_kernel()?.into_iter().enumerate() {
            half.into_iter().for_each(|(kernel, work)| found.entry(kernel).or_default()[i] = work);
        }
        Ok(Self(found))
    }

    /// Most bytes first.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["kernel", "generator step", "student step", "MB", "MFLOP"]);
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_by_key(|(_, [g, s])| std::cmp::Reverse(g.bytes + s.bytes));
        let mut sum = [KernelWork::default(); 2];
        for (kernel, halves) in &rows {
            table.row(row(kernel, halves));
            for (sum, half) in sum.iter_mut().zip(*halves) {
                sum.launches += half.launches;
                sum.bytes += half.bytes;
                sum.flops += half.flops;
            }
        }
        table.row(row("all", &sum));
        table
    }

    pub fn to_json(&self) -> Value {
        let row = |(kernel, [generator, student]): (&&'static str, &[KernelWork; 2])| json!({"kernel": kernel, "generator": generator, "student": student});
        self.0.iter().map(row).collect()
    }
}

fn row(kernel: &str, [g, s]: &[KernelWork; 2]) -> [String; 5] {
    let flops = g.flops + s.flops;
    [
        kernel.to_string(),
        g.launches.to_string(),
        s.launches.to_string(),
        format!("{:.2}", (g.bytes + s.bytes) as f64 * 1e-6),
        if flops > 0.0 { format!("{:.1}", flops * 1e-6) } else { "-".into() },
    ]
}
