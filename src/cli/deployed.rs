//! What a run leaves to deploy: the integer network beside the student, its size and its speed.

use super::export::file_bytes;
use crate::Result;
use crate::data::Normalization;
use crate::deploy::measure::{self, Speed};
use crate::deploy::{Engine, lower};
use crate::graph::Network;
use crate::report::table::Table;
use serde_json::{Value, json};
use std::path::Path;

/// Batches that are timed, and how often: one image for latency, many for throughput.
const TIMED: [(usize, usize); 2] = [(1, 40), (64, 5)];

/// Returns the batch that is timed for one of `wanted` images of `input` `[h w c]`: fewer of large ones, whose activations would
/// fill the memory.
pub fn timed_batch(wanted: usize, input: &[usize]) -> usize {
    /// Numbers of 64 images of 64x64.
    const NUMBERS: usize = 64 * 3 * 64 * 64;
    let most = (NUMBERS / input.iter().product::<usize>().max(1)).max(4);
    wanted.min(most)
}

/// Writes `integer.safetensors` of `selected` into `folder`, where its student is already; sizes and, on a device where that
/// says something, speeds of both for the summary. What cannot be lowered (a range that is a point) is no reason to lose the
/// run: then the sizes are the student's alone.
pub fn write(selected: &mut Network, norm: Normalization, folder: &Path) -> Result<Value> {
    let student = file_bytes(&folder.join("quantized.safetensors"))?;
    let integer = match lower(selected, norm) {
        Ok(network) => network,
        Err(e) => {
            eprintln!("integer.safetensors is not written: {e}");
            return Ok(json!({"quantized.safetensors": student}));
        }
    };
    let path = folder.join("integer.safetensors");
    integer.save(&path)?;
    let (float, packed) = integer.weight_bytes();
    let mut files = json!({"quantized.safetensors": student, "integer.safetensors": file_bytes(&path)?,
        "weight_bytes": {"float": float, "packed": packed}});
    let device = selected.device();
    if !device.is_emulated() {
        let engine = Engine::on(&device, integer)?;
        let input = engine.network().input().to_vec();
        let speeds =
            TIMED.map(|(batch, rounds)| measure::compare(&engine, selected, timed_batch(batch, &input), rounds));
        let speeds: Vec<Speed> = speeds.into_iter().collect::<Result<_>>()?;
        let row = |s: &Speed| json!({"batch": s.batch, "integer_seconds": s.integer, "float_seconds": s.float});
        files["speed"] = speeds.iter().map(row).collect();
    }
    Ok(files)
}

/// The table of [`write`]'s answer; nothing where there is no integer network.
pub fn print(files: &Value) {
    let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
    let weights = &files["weight_bytes"];
    if weights.is_null() {
        return;
    }
    let mut table = Table::new(["deployed", "float", "integer", "ratio"]);
    let mut row = |name: &str, [float, integer]: [f64; 2], digits: usize| {
        let ratio = if float > integer { float / integer } else { integer / float };
        table.row([name.into(), format!("{float:.digits$}"), format!("{integer:.digits$}"), format!("{ratio:.1}")]);
    };
    row("bytes of weights", [number(&weights["float"]), number(&weights["packed"])], 0);
    row("bytes of the file", [&files["quantized.safetensors"], &files["integer.safetensors"]].map(number), 0);
    for speed in files["speed"].as_array().into_iter().flatten() {
        let (batch, seconds) =
            (number(&speed["batch"]), [&speed["float_seconds"], &speed["integer_seconds"]].map(number));
        if batch == 1.0 {
            row("ms for one image", seconds.map(|s| 1e3 * s), 3);
        } else {
            row(&format!("images/s, batch {batch}"), seconds.map(|s| batch / s), 0);
        }
    }
    println!("{table}");
}
