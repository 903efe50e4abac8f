//! Every op at its production shapes, beside what the device can do.

use super::spread::Spread;
use super::{Args, Report};
use crate::device::Device;
use crate::ops::case::roof::{COPIED, Copy, cpu_flops_per_second};
use crate::ops::case::timing::{Pass, Ready, Work};
use crate::ops::case::{Case, roof};
use crate::report::table::Table;
use crate::{Error, Result};
use serde_json::{Value, json};

/// Seconds that one measurement takes at least, so that the clock and the wake-up of threads do not matter.
const ENOUGH: f64 = 5e-3;
/// Bytes of inputs that lie in memory at one time.
const AT_ONCE: usize = 1 << 29;

/// One row.
struct Timed {
    name: String,
    work: Work,
    seconds: Spread,
}

/// What the device can do, measured between the rows: the best of this run, for a busy machine can only hide some of it.
struct Roof {
    /// Bytes of a copy, bytes per second.
    copies: Vec<(usize, f64)>,
    /// Operations per second, and what that is.
    flops: Option<(f64, &'static str)>,
}

pub fn report(args: &Args, device: &Device) -> Result<Report> {
    if device.is_emulated() {
        let detail =
            "the emulator's times say nothing about a GPU; use cpu or cuda (`bench step` counts launches on it)";
        return Err(Error::config("--device", detail));
    }
    let registry = crate::ops::registry();
    let mut chosen: Vec<(&'static str, &Case, Pass)> = Vec::new();
    for (op, cases) in &registry {
        for case in cases.iter().filter(|c| c.bench) {
            let wanted = |p: &&Pass| args.filter.as_ref().is_none_or(|f| name(op, case, **p).contains(f.as_str()));
            chosen.extend(Pass::of(case).iter().filter(wanted).map(|p| (*op, case, *p)));
        }
    }
    if chosen.is_empty() {
        let detail = format!("no OP/PASS/CASE contains '{}'", args.filter.as_deref().unwrap_or_default());
        return Err(Error::config("--filter", detail));
    }
    let (timed, roof) = measure(&chosen, device, args.iters as usize)?;
    Ok((document(&timed, &roof, args, device), text(&timed, &roof, device)))
}

fn name(op: &str, case: &Case, pass: Pass) -> String {
    format!("{op}/{}/{}", pass.name(), case.name)
}

/// Times groups of rows that fit in memory together, a group's rows and the roof in turn.
fn measure(chosen: &[(&'static str, &Case, Pass)], device: &Device, rounds: usize) -> Result<(Vec<Timed>, Roof)> {
    let mut copies = COPIED.map(|_| Vec::new());
    let mut chains = Vec::new();
    let mut timed = Vec::new();
    let mut left = chosen;
    while !left.is_empty() {
        let (mut group, mut held) = (Vec::new(), 0);
        while let Some((first, rest)) = left.split_first().filter(|_| held < AT_ONCE) {
            let ready = Ready::new(first.0, first.1, device)?;
            held += ready.bytes();
            // Warms up: memory pools, caches, and a GPU's modules and clock.
            let once = ready.seconds(first.2, 1)?.min(ready.seconds(first.2, 2)?);
            let n = (ENOUGH / once.max(1e-7)).ceil().clamp(1.0, 1000.0) as usize;
            group.push((*first, ready, n, Vec::new()));
            left = rest;
        }
        for _ in 0..rounds {
            for (bytes, found) in COPIED.iter().zip(&mut copies) {
                found.push(Copy::new(device, *bytes)?.bytes_per_second()?);
            }
            if device.is_cpu() {
                chains.push(cpu_flops_per_second());
            }
            for ((_, _, pass), ready, n, seconds) in &mut group {
                seconds.push(ready.seconds(*pass, *n)?);
            }
        }
        for ((op, case, pass), ready, _, seconds) in group {
            timed.push(Timed { name: name(op, case, pass), work: ready.work(pass), seconds: Spread::of(seconds) });
        }
    }
    let copies = COPIED.into_iter().zip(copies.map(best)).collect();
    let row = best(timed.iter().map(|t| t.work.flops / t.seconds.median));
    let flops = match chains.is_empty() {
        false => Some((best(chains), "multiply-adds in registers")),
        true => (row > 0.0).then_some((row, "the best row of this report")),
    };
    Ok((timed, Roof { copies, flops }))
}

fn best(v: impl IntoIterator<Item = f64>) -> f64 {
    v.into_iter().fold(0.0, f64::max)
}

impl Roof {
    /// Bytes per second of a copy of `bytes`, or of the next larger one that was measured.
    fn copy(&self, bytes: f64) -> f64 {
        let next = self.copies.iter().find(|c| c.0 as f64 >= bytes);
        next.or(self.copies.last()).map_or(f64::NAN, |c| c.1)
    }

    /// Seconds that `work` takes at least, and whether arithmetic is what bounds it.
    fn seconds(&self, work: Work) -> (f64, bool) {
        let memory = work.bytes / self.copy(work.bytes);
        let compute = self.flops.map_or(0.0, |(f, _)| work.flops / f);
        (memory.max(compute), compute > memory)
    }

    fn lines(&self, device: &Device) -> String {
        let copies: Vec<String> =
            self.copies.iter().map(|(b, r)| format!("{:.1} ({})", r * 1e-9, size(*b as f64))).collect();
        let how = if device.is_cpu() { "all threads, pieces of 64 KiB" } else { "the driver's copy" };
        let mut text =
            format!("roof, best of this run: GB/s of copies by bytes read and written, {how}: {}\n", copies.join(", "));
        if let Some((f, what)) = self.flops {
            text += &format!("      {:.1} GFLOP/s, {what}\n", f * 1e-9);
        }
        text
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        b if b >= roof::COPIED[2] as f64 => format!("{:.0} MiB", b / f64::from(1 << 20)),
        b => format!("{:.0} KiB", b / f64::from(1 << 10)),
    }
}

fn document(timed: &[Timed], roof: &Roof, args: &Args, device: &Device) -> Value {
    let rows = timed.iter().map(|t| {
        let (least, compute) = roof.seconds(t.work);
        let s = t.seconds.median;
        let mut row = json!({"name": t.name, "bytes": t.work.bytes, "bytes_per_second": t.work.bytes / s,
            "roof_share": least / s, "bound": if compute { "compute" } else { "memory" }});
        if t.work.flops > 0.0 {
            (row["flops"], row["flops_per_second"]) = (json!(t.work.flops), json!(t.work.flops / s));
        }
        t.seconds.write(&mut row);
        row
    });
    let copies = roof.copies.iter().map(|(b, r)| json!({"bytes": b, "bytes_per_second": r}));
    let mut roof_row = json!({"copies": copies.collect::<Vec<_>>()});
    if let Some((f, what)) = roof.flops {
        (roof_row["flops_per_second"], roof_row["flops_of"]) = (json!(f), json!(what));
    }
    json!({"bench": "kernels", "device": device.name(), "rounds": args.iters, "roof": roof_row,
        "rows": rows.collect::<Vec<_>>()})
}

fn text(timed: &[Timed], roof: &Roof, device: &Device) -> String {
    let mut table = Table::new(["kernel", "ms", "p10 to p90", "MB", "GB/s", "GFLOP/s", "% of roof", "bound by"]);
    for t in timed {
        let s = t.seconds;
        let (least, compute) = roof.seconds(t.work);
        let flops = if t.work.flops > 0.0 { format!("{:.1}", t.work.flops / s.median * 1e-9) } else { "-".into() };
        table.row([
            t.name.clone(),
            format!("{:.4}", s.median * 1e3),
            format!("{:.4} to {:.4}", s.p10 * 1e3, s.p90 * 1e3),
            format!("{:.2}", t.work.bytes * 1e-6),
            format!("{:.2}", t.work.bytes / s.median * 1e-9),
            flops,
            format!("{:.0}", 100.0 * least / s.median),
            if compute { "compute" } else { "memory" }.into(),
        ]);
    }
    let note = "bytes: inputs and outputs once, at least; the roof takes the copy of the same size, caches included\n\
                operations of conv2d_int are products of codes, of which the CPU does more at a time than of f32\n";
    format!("kernels, {}\n{}{table}{note}", device.name(), roof.lines(device))
}
