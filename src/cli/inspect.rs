//! `ghostbit inspect`: the network as a table.

use super::network::{Loaded, NetworkArgs};
use crate::Result;
use crate::device::Device;
use serde_json::json;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Batch size of the shapes and byte counts
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

struct Row {
    name: String,
    op: &'static str,
    shape: String,
    flops: f64,
    bytes: usize,
}

pub fn run(args: Args) -> Result<()> {
    if args.batch == 0 {
        return Err(crate::Error::config("--batch", "must be at least 1"));
    }
    let Loaded { network, spec, .. } = args.network.load_any(&Device::cpu())?;
    let graph = &network.graph;
    let shapes = graph.shapes(args.batch)?;
    let single = graph.shapes(1)?;
    let row = |id: usize| {
        let node = &graph.nodes[id];
        // Inputs read once, output written once, f32.
        let touched: usize = node.inputs.iter().map(|&i| shapes[i].elements()).sum::<usize>() + shapes[id].elements();
        let flops = 2.0 * graph.macs(id, &single) * args.batch as f64;
        Row { name: node.name.clone(), op: node.kind.name(), shape: shapes[id].to_string(), flops, bytes: 4 * touched }
    };
    let rows: Vec<Row> = (0..graph.nodes.len()).map(row).collect();
    let mut quantizers = Vec::new();
    for q in graph.quantizers() {
        let lo = network.ranges.get(&format!("{}.lo", q.name))?.to_vec::<f32>()?;
        let hi = network.ranges.get(&format!("{}.hi", q.name))?.to_vec::<f32>()?;
        let low = lo.iter().copied().fold(f32::INFINITY, f32::min);
        let high = hi.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        quantizers.push((q.name, q.bits, q.channels, low, high));
    }
    if args.json {
        let nodes: Vec<_> = rows
            .iter()
            .map(|r| json!({"name": r.name, "op": r.op, "shape": r.shape, "flops": r.flops, "bytes": r.bytes}))
            .collect();
        let quants: Vec<_> = quantizers
            .iter()
            .map(|q| json!({"name": q.0, "bits": q.1, "channels": q.2, "lo": q.3, "hi": q.4}))
            .collect();
        let doc = json!({"network": graph.name, "model": args.network.origin(), "batch": args.batch,
            "parameters": network.params.count(), "quantized": spec, "nodes": nodes, "quantizers": quants});
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
        return Ok(());
    }
    println!(
        "{} from {}: {} parameters, {} nodes",
        graph.name,
        args.network.origin(),
        network.params.count(),
        rows.len()
    );
    let wide = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).clamp(24, 60);
    println!("{:<wide$} {:<16} {:<18} {:>10} {:>10}", "node", "op", "output", "MFLOP", "KiB");
    for r in &rows {
        let (flops, bytes) = (r.flops / 1e6, r.bytes as f64 / 1024.0);
        println!("{:<wide$} {:<16} {:<18} {flops:>10.2} {bytes:>10.1}", r.name, r.op, r.shape);
    }
    let total: f64 = rows.iter().map(|r| r.flops).sum();
    println!("{:<wide$} {:<16} {:<18} {:>10.2}", "sum", "", "", total / 1e6);
    if !quantizers.is_empty() {
        println!("\n{:<28} {:>4} {:>8} {:>10} {:>10}", "quantizer", "bits", "channels", "lo", "hi");
        for (name, bits, channels, lo, hi) in quantizers {
            println!("{name:<28} {bits:>4} {channels:>8} {lo:>10.4} {hi:>10.4}");
        }
    }
    Ok(())
}
