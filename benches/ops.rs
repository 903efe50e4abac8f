//! Time of every op at its production shapes: each case marked `.bench()`, in f32. One group per op; `forward` is the op
//! on an inference tape, `forward_backward` records it and runs its gradient rule with given output gradients.
//!
//!   cargo bench --bench ops                      all ops
//!   cargo bench --bench ops -- fake_quant        what matches a regular expression
//!   GHOSTBIT_BENCH_DEVICE=cuda cargo bench ...   another device (default cpu)
//!
//! The throughput is that of the forward pass, from the case's counts: bytes that it must move at least, or, where
//! it computes much on each byte, operations (criterion's "Gelem/s" then reads GFLOP/s).

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use ghostbit::device::Device;
use ghostbit::ops::case::Case;
use ghostbit::ops::case::timing::{Pass, Ready};
use std::time::Duration;

/// Operations per byte from which on arithmetic, not memory, is what the numbers are about.
const INTENSE: f64 = 8.0;

fn throughput(case: &Case) -> Option<Throughput> {
    match (case.flops, case.bytes) {
        (flops, bytes) if flops > INTENSE * bytes => Some(Throughput::Elements(flops as u64)),
        (_, bytes) if bytes > 0.0 => Some(Throughput::Bytes(bytes as u64)),
        _ => None,
    }
}

fn bench(group: &mut BenchmarkGroup<WallTime>, op: &'static str, case: &Case, pass: Pass, device: &Device) {
    let mut ready = None;
    group.bench_function(BenchmarkId::new(pass.name(), &case.name), |b| {
        // Not before criterion asks: it calls nothing that the filter leaves out.
        let ready = ready.get_or_insert_with(|| Ready::new(op, case, device).unwrap());
        b.iter_custom(|n| Duration::from_secs_f64(ready.seconds(pass, n as usize).unwrap() * n as f64));
    });
}

fn main() {
    let spec = std::env::var("GHOSTBIT_BENCH_DEVICE").unwrap_or("cpu".into());
    let (device, _) = Device::open(&spec).unwrap_or_else(|e| panic!("GHOSTBIT_BENCH_DEVICE: {e}"));
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(10)
        .nresamples(2000)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(600))
        .configure_from_args();
    for (op, cases) in ghostbit::ops::registry() {
        let mut cases: Vec<Case> = cases.into_iter().filter(|c| c.bench).collect();
        if cases.is_empty() {
            continue;
        }
        let mut group = criterion.benchmark_group(op);
        // A group's throughput, once set, holds for all that follows: what has none comes first.
        for case in cases.iter().filter(|c| Pass::of(c).contains(&Pass::ForwardBackward)) {
            bench(&mut group, op, case, Pass::ForwardBackward, &device);
        }
        cases.sort_by_key(|c| throughput(c).is_some());
        for case in &cases {
            if let Some(t) = throughput(case) {
                group.throughput(t);
            }
            bench(&mut group, op, case, Pass::Forward, &device);
        }
        group.finish();
    }
    criterion.final_summary();
}
