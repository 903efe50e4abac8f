//! Inference of ResNet-20 on the CPU: the W4A4 network in integers, the fake-quantized one it comes from, and the float one.
//!
//!   cargo bench --bench integer

#[path = "../tests/networks/mod.rs"]
mod networks;

use criterion::{BenchmarkId, Criterion, Throughput};
use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::deploy::{Engine, lower};
use ghostbit::graph::passes::QuantizeSpec;
use ghostbit::graph::{Forward, Taps};
use ghostbit::models::resnet::cifar_resnet;
use networks::{calibrated, images};
use std::time::Duration;

fn main() {
    let mut c = Criterion::default().configure_from_args().sample_size(20).warm_up_time(Duration::from_millis(500));
    let graph = cifar_resnet(3, 10);
    let mut network = calibrated(&graph, QuantizeSpec::new(4, 4), 1);
    let engine = Engine::new(lower(&network, Normalization::CIFAR).unwrap()).unwrap();
    let mut group = c.benchmark_group("inference");
    for batch in [1, 64] {
        let x = images(batch, &graph, 2);
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new("integer", batch), |b| b.iter(|| engine.logits(&x).unwrap()));
        for (name, float) in [("fake_quantized", false), ("float", true)] {
            group.bench_function(BenchmarkId::new(name, batch), |b| {
                b.iter(|| {
                    let mut tape = Tape::inference(&x.device());
                    let how = Forward { float, ..Forward::eval() };
                    network.forward(&mut tape, &[Var::constant(x.clone())], how, &Taps::default()).unwrap().output
                })
            });
        }
    }
    group.finish();
    c.final_summary();
}
