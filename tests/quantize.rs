//! Small quantization runs: one loop on two devices, and a run resumed bit for bit.

#[cfg(feature = "emulator")]
mod quantize_devices;

use ghostbit::Error;
use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::data::procedural::{Split, generate};
use ghostbit::device::Device;
use ghostbit::graph::{Network, NodeKind};
use ghostbit::methods::Recipe;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::ops::activation::Activation;
use ghostbit::tensor::Tensor;
use ghostbit::train::{Event, QuantizeRun, Summary, TestSet};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// ResNet-8: every node kind of the family, a third of the work of ResNet-20.
fn teacher(device: &Device) -> Network {
    Network::new(device, cifar_resnet(1, 10), 7).unwrap()
}

fn recipe(name: &str, set: &[&str]) -> Recipe {
    let mut r = Recipe::load(name).unwrap();
    // Devices are compared.
    for s in ["math=f32"].iter().chain(set) {
        r.set(s).unwrap();
    }
    r.validate().unwrap();
    r
}

fn test_set() -> [TestSet; 1] {
    [TestSet { name: "builtin".into(), data: generate(Split::Test, 30) }]
}

/// Runs until the end, or until the report of iteration `stop_after`.
fn go(run: &mut QuantizeRun, folder: &Path, stop_after: Option<u64>) -> (Result<Summary, Error>, Vec<(u64, f32)>) {
    let stop = AtomicBool::new(false);
    let mut losses = Vec::new();
    let result = run.run(&test_set(), folder, 0, &stop, &mut |e| {
        let (it, loss) = match e {
            Event::Generator { it, losses } => (it, losses.total),
            Event::Student { it, losses } => (it, losses.total),
            Event::Images { .. } | Event::Block { .. } | Event::Evaluated { .. } | Event::Eager { .. } => return Ok(()),
        };
        losses.push((it, loss));
        if Some(it) == stop_after {
            stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    });
    (result, losses)
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn resumes_bit_for_bit(recipe: &Recipe, stop_after: u64) {
    let cpu = Device::cpu();
    let fresh = || QuantizeRun::new(&cpu, teacher(&cpu), Normalization::CIFAR, recipe.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut straight = fresh();
    let (summary, losses) = go(&mut straight, folder.path(), None);
    let ended = summary.unwrap();
    let summary = serde_json::to_string(&ended).unwrap();

    let mut first = fresh();
    let (stopped, mut joined) = go(&mut first, folder.path(), Some(stop_after));
    assert!(matches!(stopped, Err(Error::Interrupted { step, .. }) if step == stop_after));
    drop(first);
    let mut second = fresh();
    second.resume(folder.path()).unwrap();
    assert_eq!(second.it, stop_after);
    let (resumed, rest) = go(&mut second, folder.path(), None);
    joined.extend(rest);
    assert_eq!(joined, losses);
    assert_eq!(serde_json::to_string(&resumed.unwrap()).unwrap(), summary);
    for (what, a, b) in [
        ("student", straight.student.network.params.values(), second.student.network.params.values()),
        ("ranges", straight.student.network.ranges.values(), second.student.network.ranges.values()),
        ("generator", straight.generator.network.params.values(), second.generator.network.params.values()),
    ] {
        assert!(bits(a) == bits(b), "{what}: a resumed run differs");
    }
    let [a, b] = [straight, second].map(|run| run.into_selected(&[], &ended).unwrap().network);
    assert!(a.to_checkpoint().unwrap() == b.to_checkpoint().unwrap(), "the selected students differ");
}

#[test]
fn gdfq_resumes_bit_for_bit_from_warmup() {
    resumes_bit_for_bit(&recipe("gdfq", &["batch=16", "iters=6", "warmup=3", "eval_every=2"]), 2);
}

#[test]
fn best_resumes_bit_for_bit_between_student_steps() {
    let set = ["batch=16", "iters=6", "warmup=2", "eval_every=2", "images.count=32", "images.iters=2"];
    let set =
        [&set[..], &["ranges.batches=1", "ranges.lr=2e-4", "generator.every=2", "reconstruction.iters=2"]].concat();
    resumes_bit_for_bit(&recipe("best", &set), 3);
}

/// Filter, perturbed copy, aligned maps, zero image: nothing of it is state.
#[test]
fn synq_resumes_bit_for_bit_between_student_steps() {
    let set = ["batch=16", "iters=5", "warmup=2", "eval_every=2", "images.count=32", "images.iters=2"];
    let set = [&set[..], &["student_loss.cross_entropy.gate=0.99", "student.inundation.tau=0.01"]].concat();
    let set = [&set[..], &["student.weight_decay=0", "images.train_augment=0.5"]].concat();
    resumes_bit_for_bit(&recipe("synq", &set), 3);
}

#[test]
fn resume_refuses_another_recipe() {
    let cpu = Device::cpu();
    let folder = tempfile::tempdir().unwrap();
    let a = recipe("gdfq", &["batch=2", "iters=2", "warmup=1"]);
    let run = |r: &Recipe| QuantizeRun::new(&cpu, teacher(&cpu), Normalization::CIFAR, r.clone()).unwrap();
    run(&a).checkpoint(folder.path()).unwrap();
    run(&a).resume(folder.path()).unwrap();
    let mut b = a.clone();
    b.set("student.lr=1").unwrap();
    let message = run(&b).resume(folder.path()).unwrap_err().to_string();
    assert!(message.contains("another recipe") && message.contains("checkpoint.safetensors"), "{message}");
}
