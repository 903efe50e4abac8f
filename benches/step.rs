//! One GDFQ iteration of the built-in teacher (ResNet-20), W4A4: the generator step and the student step, each for itself.
//!
//!   cargo bench --bench step                      batches of 16 and 64
//!   GHOSTBIT_BENCH_DEVICE=cuda cargo bench ...    another device (default cpu)

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use ghostbit::data::Normalization;
use ghostbit::device::Device;
use ghostbit::graph::Network;
use ghostbit::methods::Recipe;
use ghostbit::models::architecture;
use ghostbit::tensor::io::Checkpoint;
use ghostbit::train::QuantizeRun;
use std::time::Duration;

/// A run, and the number of its last iteration.
struct Stepper {
    run: QuantizeRun,
    it: u64,
}

impl Stepper {
    /// Past the iterations that fill the memory pool and set the ranges.
    fn warm(device: &Device, batch: usize) -> Self {
        let mut teacher = Network::new(device, architecture("cifar-resnet20", 10).unwrap(), 0).unwrap();
        let file = Checkpoint::parse(include_bytes!("../assets/teacher.safetensors")).unwrap();
        teacher.load_checkpoint(file, "assets/teacher.safetensors".as_ref()).unwrap();
        let mut recipe = Recipe::load("gdfq").unwrap();
        (recipe.batch, recipe.warmup) = (batch, 1);
        let run = QuantizeRun::new(device, teacher, Normalization::CIFAR, recipe).unwrap();
        let mut stepper = Self { run, it: 0 };
        stepper.seconds(2);
        stepper
    }

    /// `n` iterations: seconds in generator steps and in student steps.
    fn seconds(&mut self, n: u64) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for _ in 0..n {
            self.it += 1;
            let (generator, student) = self.run.timed_iteration(self.it).unwrap();
            sums[0] += generator;
            sums[1] += student;
        }
        sums
    }
}

fn main() {
    let spec = std::env::var("GHOSTBIT_BENCH_DEVICE").unwrap_or("cpu".into());
    let (device, _) = Device::open(&spec).unwrap_or_else(|e| panic!("GHOSTBIT_BENCH_DEVICE: {e}"));
    let mut criterion = Criterion::default().without_plots().sample_size(10).nresamples(2000).configure_from_args();
    let mut group = criterion.benchmark_group("step");
    // Criterion plans by the time of the half that it is shown; the iterations take both.
    group.sampling_mode(SamplingMode::Flat).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(2));
    for batch in [16, 64] {
        group.throughput(Throughput::Elements(batch as u64));
        let mut stepper = None;
        for (half, name) in ["generator", "student"].into_iter().enumerate() {
            group.bench_function(BenchmarkId::new(name, batch), |b| {
                let stepper = stepper.get_or_insert_with(|| Stepper::warm(&device, batch));
                b.iter_custom(|n| Duration::from_secs_f64(stepper.seconds(n)[half]));
            });
        }
    }
    group.finish();
    criterion.final_summary();
}
