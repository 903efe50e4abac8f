//! The quantize pass and small quantization runs: one loop on two devices, and a run resumed bit for bit.

use ghostbit::Error;
use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::data::procedural::{Split, generate};
use ghostbit::device::Device;
use ghostbit::graph::passes::{QuantizeSpec, quantize};
use ghostbit::graph::{Network, NodeKind};
use ghostbit::methods::Recipe;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::ops::activation::Activation;
use ghostbit::ops::fake_quant::{Axis, FakeQuantSpec, Ste, fake_quant};
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
    for s in set {
        r.set(s).unwrap();
    }
    r.validate().unwrap();
    r
}

#[test]
fn quantize_puts_one_quantizer_after_each_relu_and_keeps_names() {
    let float = cifar_resnet(3, 10);
    let q = quantize(&float, QuantizeSpec { first_bits: Some(8), ..QuantizeSpec::new(4, 5) }).unwrap();
    let mut quantizers = 0;
    for (id, node) in q.nodes.iter().enumerate() {
        if let NodeKind::FakeQuant { bits } = node.kind {
            let [input] = node.inputs[..] else { panic!("{} has {:?}", node.name, node.inputs) };
            assert_eq!(q.nodes[input].kind, NodeKind::Activation(Activation::Relu), "{}", node.name);
            assert_eq!(bits, 5);
            quantizers += 1;
        } else if node.kind == NodeKind::Activation(Activation::Relu) {
            let readers: Vec<_> = q.nodes.iter().filter(|n| n.inputs.contains(&id)).collect();
            assert_eq!(readers.len(), 1, "the float output of {} is used", node.name);
            assert!(matches!(readers[0].kind, NodeKind::FakeQuant { .. }), "{}", node.name);
        }
    }
    // One ReLU after the stem and two in each of nine blocks.
    assert_eq!(quantizers, 19);
    let names = |g: &ghostbit::graph::Graph| -> Vec<String> {
        g.nodes.iter().filter(|n| !matches!(n.kind, NodeKind::FakeQuant { .. })).map(|n| n.name.clone()).collect()
    };
    assert_eq!(names(&q), names(&float));
    let values = |g: &ghostbit::graph::Graph| -> Vec<(String, Vec<usize>)> {
        let params = g.params.iter().map(|p| (p.name.clone(), p.shape.to_vec()));
        params.chain(g.buffers.iter().map(|b| (b.name.clone(), b.shape.to_vec()))).collect()
    };
    assert_eq!(values(&q), values(&float));
    let weights: Vec<(String, u8)> =
        q.quantizers().into_iter().filter(|w| w.weight).map(|w| (w.name, w.bits)).collect();
    assert_eq!(weights.len(), 20, "19 convolutions and the linear layer");
    assert_eq!(weights[0], ("conv1.weight".to_string(), 8));
    assert!(weights[1..].iter().all(|w| w.1 == 4));
}

#[test]
fn fake_quantized_weights_have_few_values_per_channel() {
    let cpu = Device::cpu();
    for (bits, search) in [(2, false), (4, true), (3, true), (4, false)] {
        let mut net = Network::new(&cpu, quantize(&cifar_resnet(1, 10), QuantizeSpec::new(bits, 4)).unwrap(), 3).unwrap();
        if search { net.weight_ranges_search() } else { net.weight_ranges_min_max() }.unwrap();
        for q in net.graph.quantizers().into_iter().filter(|q| q.weight) {
            let end = |end: &str| Var::constant(net.ranges.get(&format!("{}.{end}", q.name)).unwrap());
            let spec = FakeQuantSpec { bits: q.bits, axis: Axis::Outer, ste: Ste::Identity };
            let x = Var::constant(net.params.get(&q.name).unwrap());
            let y = fake_quant(&mut Tape::inference(&cpu), &x, &end("lo"), &end("hi"), spec).unwrap();
            let y = y.value.to_vec::<f32>().unwrap();
            for (k, channel) in y.chunks(y.len() / q.channels).enumerate() {
                let values: HashSet<u32> = channel.iter().map(|v| (v + 0.0).to_bits()).collect();
                assert!(values.len() <= 1 << bits, "{} channel {k}: {} values", q.name, values.len());
                assert!(channel.iter().any(|v| *v != channel[0]), "{} channel {k} is constant", q.name);
            }
        }
    }
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
            Event::Images { .. } | Event::Evaluated { .. } => return Ok(()),
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
    let summary = serde_json::to_string(&summary.unwrap()).unwrap();

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
    let (a, b) = (straight.into_selected().unwrap(), second.into_selected().unwrap());
    assert!(a.to_checkpoint().unwrap() == b.to_checkpoint().unwrap(), "the selected students differ");
}

#[test]
fn gdfq_resumes_bit_for_bit_from_warmup() {
    resumes_bit_for_bit(&recipe("gdfq", &["batch=16", "iters=6", "warmup=3", "eval_every=2"]), 2);
}

#[test]
fn default_resumes_bit_for_bit_between_student_steps() {
    let set = ["batch=16", "iters=6", "warmup=2", "eval_every=2", "images.count=32", "images.iters=2"];
    let set = [&set[..], &["ranges.batches=1", "generator.every=2"]].concat();
    resumes_bit_for_bit(&recipe("default", &set), 3);
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

/// The kernels in the emulator against the CPU, step by step. The loop itself is not run: it evaluates on hundreds of
/// held-out images, which an emulator has no time for.
#[cfg(feature = "emulator")]
mod devices {
    use super::*;
    use ghostbit::graph::RangeMode;
    use ghostbit::ops::observe::EmaForm;
    use ghostbit::methods::Losses;
    use ghostbit::train::ImagePool;

    /// Named figures of a run's first iterations.
    type Figures = Vec<(String, Vec<f32>)>;

    /// A loss and its terms.
    fn values(l: &Losses) -> Vec<f32> {
        std::iter::once(l.total).chain(l.terms.iter().map(|(_, v)| *v)).collect()
    }

    /// Warm-up and student iterations of `recipe`, then logits of both networks on built-in images.
    fn figures(device: &Device, recipe: &Recipe) -> Figures {
        let n = recipe.batch;
        let mut run = QuantizeRun::new(device, teacher(device), Normalization::CIFAR, recipe.clone()).unwrap();
        let mut list = Figures::new();
        for it in 1..=recipe.warmup {
            let (made, l) = run.generator.step(&mut run.teacher, n, it).unwrap();
            list.push((format!("generator {it}"), values(&l)));
            if recipe.ranges.batches == 0 {
                run.student.observe(&made.images, RangeMode::TrackMinMax(EmaForm::Textbook)).unwrap();
            }
        }
        let mut pool = None;
        if let Some(images) = recipe.images.as_ref().filter(|i| i.count > 0) {
            let tell = |_, _, loss| {
                list.push(("images".into(), vec![loss]));
                Ok(())
            };
            let made = ImagePool::make(device, &mut run.teacher, &mut run.generator, recipe, images, tell).unwrap();
            let first = made.in_order(0, n).unwrap();
            run.student.observe(&first, RangeMode::TrackSearch(EmaForm::Textbook)).unwrap();
            pool = Some(made);
        }
        let ranges = run.student.network.ranges.values().to_vec::<f32>().unwrap();
        list.push(("ranges".into(), ranges));
        for it in recipe.warmup + 1..=recipe.iters {
            let (made, l) = run.generator.step(&mut run.teacher, n, it).unwrap();
            list.push((format!("generator {it}"), values(&l)));
            let (x, y, t) = match &pool {
                Some(p) => p.batch(n, recipe.seed, it).unwrap(),
                None => (made.images, made.labels, made.teacher_logits),
            };
            let l = run.student.step(&x, &y, &t, it).unwrap();
            list.push((format!("student {it}"), values(&l)));
        }
        let (x, _) = generate(Split::Test, n).batch(device, 0..n, &Normalization::CIFAR).unwrap();
        list.push(("teacher logits".into(), run.teacher_logits(&x).unwrap().to_vec().unwrap()));
        list.push(("student logits".into(), run.student_logits(&x).unwrap().to_vec().unwrap()));
        list
    }

    /// Relative deviations allowed, each about five times what was measured.
    ///
    /// One float pass differs by its order of summation alone (measured 2e-7).
    const ONE_PASS: f32 = 1e-6;
    /// Steps of Adam divide by the gradient's size, so rounding in small gradients grows by each step (1.1e-3).
    const CHAINED: f32 = 5e-3;
    /// A value at the edge between two codes may fall to either side, and a searched range onto its neighbour: single
    /// jumps of 1/255 of a range at 8 bits (5.6e-3). At 4 bits the same runs differ by 3.4e-2, as jumps of 1/15 do.
    const QUANTIZED: f32 = 2.5e-2;

    /// Compares the devices, every figure relative to its largest magnitude.
    fn agree(recipe: &Recipe) {
        let cpu = figures(&Device::cpu(), recipe);
        let emulated = figures(&Device::emulator().unwrap(), recipe);
        assert_eq!(cpu.len(), emulated.len());
        for ((name, a), (other, b)) in cpu.iter().zip(&emulated) {
            assert_eq!((name, a.len()), (other, b.len()));
            assert!(a.iter().chain(b).all(|v| v.is_finite()), "{name} is not finite: {a:?} {b:?}");
            let scale = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
            let apart = a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
            println!("{name:<16} {apart:.1e}");
            let allowed = match name.as_str() {
                "generator 1" | "teacher logits" => ONE_PASS,
                "ranges" | "student logits" => QUANTIZED,
                n if n.starts_with("student") => QUANTIZED,
                _ => CHAINED,
            };
            assert!(apart <= allowed, "{}: {name} differs by {apart:.1e} between devices", recipe.name);
        }
    }

    #[test]
    fn gdfq_agrees() {
        agree(&recipe("gdfq", &["batch=2", "iters=4", "warmup=2", "wbits=8", "abits=8"]));
    }

    #[test]
    fn default_agrees() {
        // The KL of an 8-bit student alone is the difference of nearly equal numbers; the cross-entropy gives it a scale.
        let set = ["student_loss.cross_entropy.weight=1", "batch=2", "iters=4", "warmup=2", "images.count=4", "images.iters=2", "ranges.batches=1"];
        let set = [&set[..], &["wbits=8", "abits=8"]].concat();
        agree(&recipe("default", &set));
    }
}
