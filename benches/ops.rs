//! Time of every op at its production shapes: each case marked `.bench()`, in f32. One group per op; `forward` is the op
//! on an inference tape, `forward_backward` records it and runs its gradient rule with given output gradients.
//!
//!   cargo bench --bench ops                      all ops
//!   cargo bench --bench ops -- fake_quant        what matches a regular expression
//!   GHOSTBIT_BENCH_DEVICE=cuda cargo bench ...   another device (default cpu)
//!
//! The throughput is that of the forward pass, from the case's counts: bytes that it must move at least, or, where
//! it computes much on each byte, operations (criterion's "Gelem/s" then reads GFLOP/s).

#[path = "../tests/inputs/mod.rs"]
mod inputs;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::case::{Case, GradCheck};
use ghostbit::tensor::{DType, Tensor};
use inputs::{Rng, tensor, values};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Operations per byte from which on arithmetic, not memory, is what the numbers are about.
const INTENSE: f64 = 8.0;

fn throughput(case: &Case) -> Option<Throughput> {
    match (case.flops, case.bytes) {
        (flops, bytes) if flops > INTENSE * bytes => Some(Throughput::Elements(flops as u64)),
        (_, bytes) if bytes > 0.0 => Some(Throughput::Bytes(bytes as u64)),
        _ => None,
    }
}

fn device_inputs(case: &Case, device: &Device) -> Vec<Tensor> {
    let mut rng = Rng(42);
    case.inputs.iter().map(|i| tensor(device, i, &values(i, &mut rng), DType::F32)).collect()
}

/// Runs `work` `n` times and waits once, so that on a GPU launches overlap with work as they do in a training step.
fn timed(device: &Device, n: u64, mut work: impl FnMut()) -> Duration {
    device.synchronize().unwrap();
    let start = Instant::now();
    for _ in 0..n {
        work();
    }
    device.synchronize().unwrap();
    start.elapsed()
}

fn forward(group: &mut BenchmarkGroup<WallTime>, case: &Case, device: &Device) {
    let mut inputs = None;
    group.bench_function(BenchmarkId::new("forward", &case.name), |b| {
        // Not before criterion asks: it calls nothing that the filter leaves out.
        let inputs = inputs.get_or_insert_with(|| device_inputs(case, device));
        b.iter_custom(|n| {
            timed(device, n, || {
                let vars: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
                black_box((case.run)(&mut Tape::inference(device), &vars).unwrap());
            })
        });
    });
}

/// Inputs on a tape that records, and the op's outputs.
fn record(case: &Case, device: &Device, inputs: &[Tensor]) -> (Tape, Vec<Var>) {
    let mut tape = Tape::new(device);
    let leaf = |(i, t): (usize, &Tensor)| {
        if case.inputs[i].grad { tape.leaf(t.clone()) } else { Var::constant(t.clone()) }
    };
    let vars: Vec<Var> = inputs.iter().enumerate().map(leaf).collect();
    let outputs = (case.run)(&mut tape, &vars).unwrap();
    (tape, outputs)
}

fn forward_backward(group: &mut BenchmarkGroup<WallTime>, case: &Case, device: &Device) {
    let mut ready = None;
    group.bench_function(BenchmarkId::new("forward_backward", &case.name), |b| {
        let (inputs, gradients) = ready.get_or_insert_with(|| {
            let inputs = device_inputs(case, device);
            let (_, outputs) = record(case, device, &inputs);
            let mut rng = Rng(1000);
            let gradient = |o: &Var| {
                let v: Vec<f32> = (0..o.value.len()).map(|_| rng.normal() as f32).collect();
                Tensor::from_slice(device, o.shape(), &v).unwrap()
            };
            (inputs, outputs.iter().map(gradient).collect::<Vec<Tensor>>())
        });
        b.iter_custom(|n| {
            timed(device, n, || {
                let (tape, outputs) = record(case, device, inputs);
                let seeds: Vec<(&Var, Tensor)> = outputs
                    .iter()
                    .zip(&*gradients)
                    .filter(|(o, _)| o.needs_grad())
                    .map(|(o, g)| (o, g.clone()))
                    .collect();
                black_box(tape.backward_from(&seeds).unwrap());
            })
        });
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
        for case in cases.iter().filter(|c| c.check != GradCheck::None && c.inputs.iter().any(|i| i.grad)) {
            forward_backward(&mut group, case, &device);
        }
        cases.sort_by_key(|c| throughput(c).is_some());
        for case in &cases {
            if let Some(t) = throughput(case) {
                group.throughput(t);
            }
            forward(&mut group, case, &device);
        }
        group.finish();
    }
    criterion.final_summary();
}
