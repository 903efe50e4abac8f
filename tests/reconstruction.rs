//! Block reconstruction: cuts, parts of networks, and what is left in the student.

use ghostbit::Error;
use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::device::Device;
use ghostbit::graph::nodes::{Conv2d, GlobalAvgPool};
use ghostbit::graph::passes::{QuantizeSpec, quantize, tune_bn};
use ghostbit::graph::{Drop, Forward, Graph, Init, InputKind, Network, NodeKind, Swing, Taps};
use ghostbit::methods::Recipe;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::ops::activation::Activation;
use ghostbit::ops::conv2d::Conv2dParams;
use ghostbit::ops::fake_quant::{Axis, fake_quant_codes};
use ghostbit::ops::random::normal;
use ghostbit::tensor::Tensor;
use ghostbit::train::{BlockReport, Event, QuantizeRun};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn recipe(set: &[&str]) -> Recipe {
    let mut r = Recipe::load("genie").unwrap();
    let short = ["batch=8", "images.count=16", "images.iters=2", "ranges.batches=1", "reconstruction.iters=6"];
    for s in short.iter().chain(&["reconstruction.batch=4", "wbits=3", "abits=3", "math=f32"]).chain(set) {
        r.set(s).unwrap();
    }
    r.validate().unwrap();
    r
}

fn start(device: &Device, recipe: Recipe) -> QuantizeRun {
    let teacher = Network::new(device, cifar_resnet(1, 10), 7).unwrap();
    QuantizeRun::new(device, teacher, Normalization::CIFAR, recipe).unwrap()
}

fn finish(run: &mut QuantizeRun, folder: &Path) -> Vec<BlockReport> {
    let mut blocks = Vec::new();
    run.run(&[], folder, 0, &AtomicBool::new(false), &mut |e| {
        if let Event::Block { report, .. } = e {
            blocks.push(report.clone());
        }
        Ok(())
    })
    .unwrap();
    blocks
}

fn names(g: &Graph) -> Vec<(String, String)> {
    let name = |id: usize| g.nodes[id].name.clone();
    g.blocks().unwrap().into_iter().map(|b| (name(b.from), name(b.to))).collect()
}

#[test]
fn residual_blocks_stem_and_head_are_blocks() {
    let graph = quantize(&cifar_resnet(1, 10), QuantizeSpec::new(4, 4)).unwrap();
    let ends = ["images", "relu", "layer1.0.relu2", "layer2.0.relu2", "layer3.0.relu2", "linear"];
    let expected: Vec<_> = ends.windows(2).map(|w| (w[0].to_string(), w[1].to_string())).collect();
    assert_eq!(names(&graph), expected);
    assert_eq!(names(&tune_bn(&graph)), expected);
    // Every quantizer lies in one block.
    let inside = |b: &ghostbit::graph::Block| {
        let needed = graph.needed(&[b.to], [b.from]).unwrap();
        graph.quantizers().iter().filter(|q| needed[q.node] && q.node != b.from).count()
    };
    assert_eq!(graph.blocks().unwrap().iter().map(inside).sum::<usize>(), graph.quantizers().len());
}

#[test]
fn plain_networks_are_cut_behind_each_activation() {
    let mut g = Graph::new("plain", 3);
    let mut x = g.input("x", InputKind::Real(vec![8, 8, 3]));
    for i in 0..2 {
        let weight = g.param(format!("c{i}.weight"), &[3, 3, 3, 3], Init::Zeros);
        let params = Conv2dParams::new(1, 1);
        x = g.push(format!("c{i}"), NodeKind::from(Conv2d { weight, bias: None, params, quant: None }), &[x]);
        x = g.push(format!("relu{i}"), NodeKind::from(Activation::Relu), &[x]);
    }
    g.push("pool", NodeKind::from(GlobalAvgPool {}), &[x]);
    assert_eq!(g.blocks().unwrap().len(), 1, "nothing is quantized");
    let q = quantize(&g, QuantizeSpec::new(4, 4)).unwrap();
    let of = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(names(&q), [of("x", "relu0"), of("relu0", "pool")]);
    assert!(Graph::new("empty", 1).blocks().unwrap_err().to_string().contains("blocks"));
}

/// The parts of a network, one after the other, are the network; so they are where a value is put in by hand.
#[test]
fn parts_one_after_the_other_are_the_whole() {
    for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
        let graph = quantize(&cifar_resnet(1, 10), QuantizeSpec::new(8, 8)).unwrap();
        let mut net = Network::new(&device, graph, 7).unwrap();
        net.weight_ranges_min_max().unwrap();
        for q in net.graph.quantizers().into_iter().filter(|q| !q.weight) {
            net.ranges.get(&format!("{}.hi", q.name)).unwrap().write(&[4f32]).unwrap();
        }
        let x = Var::constant(normal(&device, [2, 32, 32, 3], 1, 2).unwrap());
        let how = Forward::eval();
        let mut tape = Tape::inference(&device);
        let whole = net.forward(&mut tape, &[x.clone()], how, &Taps::default()).unwrap().output.value;
        let none = BTreeMap::new();
        let mut at = x.clone();
        for b in net.graph.blocks().unwrap() {
            at = net.forward_part(&mut tape, &[(b.from, at)], &[b.to], &none, how).unwrap().remove(0);
        }
        assert_eq!(at.value.to_vec::<f32>().unwrap(), whole.to_vec::<f32>().unwrap());

        let last = net.graph.blocks().unwrap().pop().unwrap();
        let e = net.forward_part(&mut tape, &[], &[last.to], &none, how).err().unwrap().to_string();
        assert!(e.contains("'images'") && e.contains("not given"), "{e}");
        assert!(net.forward_part(&mut tape, &[(0, x.clone())], &[10_000], &none, how).is_err());

        // A stand-in takes the place of the quantized weight for this pass alone.
        let weight = Tensor::zeros(&device, net.params.get("linear.weight").unwrap().shape(), x.dtype()).unwrap();
        let bias = net.params.get("linear.bias").unwrap().to_vec::<f32>().unwrap();
        let stand_ins = BTreeMap::from([("linear.weight".to_string(), Var::constant(weight))]);
        let (given, to) = ([(0, x.clone())], [last.to]);
        let y = net.forward_part(&mut tape, &given, &to, &stand_ins, how).unwrap().remove(0).value;
        assert_eq!(y.to_vec::<f32>().unwrap(), [&bias[..], &bias[..]].concat());
        let again = net.forward(&mut tape, &[x.clone()], how, &Taps::default()).unwrap().output.value;
        assert_eq!(again.to_vec::<f32>().unwrap(), whole.to_vec::<f32>().unwrap());

        // Everything dropped: only weights are quantized.
        let drop = |share| Forward { drop: Some(Drop { share, seed: 1, stream: 0 }), ..how };
        let run = |net: &mut Network, how| {
            let y = net.forward_part(&mut Tape::inference(&device), &given, &to, &none, how).unwrap().remove(0).value;
            y.to_vec::<f32>().unwrap()
        };
        assert_eq!(run(&mut net, drop(0.0)), whole.to_vec::<f32>().unwrap());
        assert_ne!(run(&mut net, drop(0.5)), run(&mut net, drop(1.0)));
        assert_eq!(run(&mut net, drop(0.5)), run(&mut net, drop(0.5)));

        // Swing convolution repeats with its stream, and stops at the strided convolutions.
        let swing = |stream| Forward { swing: Some(Swing { seed: 1, stream }), ..how };
        assert_eq!(run(&mut net, swing(0)), run(&mut net, swing(0)));
        assert!((1..9).any(|s| run(&mut net, swing(s << 12)) != run(&mut net, swing(0))));
        let relu = [net.graph.node("layer1.0.relu2").unwrap()];
        let early = |net: &mut Network, how| {
            let y = net.forward_part(&mut Tape::inference(&device), &given, &relu, &none, how).unwrap().remove(0).value;
            y.to_vec::<f32>().unwrap()
        };
        assert_eq!(early(&mut net, swing(3)), early(&mut net, how));
    }
}

/// The student's weights are what its own quantizers make of them: values of codes, at the very ranges that are stored.
#[test]
fn rebuilt_weights_are_fixed_points_of_the_students_quantizers() {
    let folder = tempfile::tempdir().unwrap();
    let mut run =
        start(&Device::cpu(), recipe(&["first_bits=8", "reconstruction.rounding_lr=0.05", "reconstruction.iters=40"]));
    let blocks = finish(&mut run, folder.path());
    let order: Vec<&str> = blocks.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(order, ["relu", "layer1.0.relu2", "layer2.0.relu2", "layer3.0.relu2", "linear"]);
    let kept = blocks.iter().filter(|b| b.kept).count();
    assert!(kept >= 3, "{blocks:?}");
    assert!(blocks.iter().all(|b| b.kept == (b.after < b.before)), "{blocks:?}");
    let net = &run.student.network;
    let mut changed = 0;
    for q in net.graph.quantizers().into_iter().filter(|q| q.weight) {
        let w = net.params.get(&q.name).unwrap();
        let [lo, hi] = ["lo", "hi"].map(|end| net.ranges.get(&format!("{}.{end}", q.name)).unwrap());
        let codes = fake_quant_codes(&w, &lo, &hi, q.bits, Axis::Outer).unwrap().to_vec::<i8>().unwrap();
        let (lo, hi, w) = (lo.to_vec::<f32>().unwrap(), hi.to_vec::<f32>().unwrap(), w.to_vec::<f32>().unwrap());
        let teacher = run.teacher.params.get(&q.name).unwrap().to_vec::<f32>().unwrap();
        if w == teacher {
            continue; // A block that was not kept.
        }
        changed += 1;
        let row = w.len() / lo.len();
        for (i, (w, code)) in w.iter().zip(&codes).enumerate() {
            let a = ghostbit::quant::Affine::new(lo[i / row], hi[i / row], q.bits);
            assert_eq!(a.value(f32::from(*code)), *w, "{}[{i}]", q.name);
        }
    }
    assert!(changed >= kept, "{changed}");
}

/// The same on both devices' kernels, one iteration per block; and two runs are equal.
#[test]
fn runs_repeat_and_the_kernels_agree() {
    let folder = tempfile::tempdir().unwrap();
    let run = |device: &Device, set: &[&str]| {
        let mut run = start(device, recipe(set));
        let blocks = finish(&mut run, folder.path());
        (run.student.network.params.values().to_vec::<f32>().unwrap(), blocks)
    };
    let cpu = Device::cpu();
    assert!(run(&cpu, &[]) == run(&cpu, &[]));
    let Ok(gpu) = Device::emulator() else { return };
    // What goes into the first block is the same; further on, codes that fall to the other side add to the errors, which
    // at 8 bits are small.
    let set = ["wbits=8", "abits=8", "batch=2", "images.count=4", "images.iters=1", "reconstruction.iters=1"];
    let (a, b) = (run(&cpu, &set).1, run(&gpu, &set).1);
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let near = if i == 0 { 1e-3 } else { 0.6 };
        assert!((a.before - b.before).abs() < near * a.before, "{a:?} {b:?}");
        assert!((a.after - b.after).abs() < near * a.before, "{a:?} {b:?}");
    }
}

#[test]
fn an_interrupted_reconstruction_starts_anew_and_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut straight = start(&Device::cpu(), recipe(&["iters=2"]));
    finish(&mut straight, folder.path());
    let mut run = start(&Device::cpu(), recipe(&["iters=2"]));
    let stop = AtomicBool::new(false);
    let outcome = run.run(&[], folder.path(), 0, &stop, &mut |e| {
        if let Event::Block { done: 2, .. } = e {
            stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::Interrupted { step: 0, .. })), "{outcome:?}");
    let mut resumed = start(&Device::cpu(), recipe(&["iters=2"]));
    resumed.resume(folder.path()).unwrap();
    finish(&mut resumed, folder.path());
    let state = |r: &QuantizeRun| {
        let net = &r.student.network;
        [net.params.values(), net.ranges.values()].map(|t| t.to_vec::<f32>().unwrap())
    };
    assert!(state(&resumed) == state(&straight));
}

/// Every setting does something, and bad ones are named.
#[test]
fn settings_act_and_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let after = |set: &[&str]| {
        let mut run = start(&Device::cpu(), recipe(set));
        let blocks = finish(&mut run, folder.path());
        let net = &run.student.network;
        let state = [net.params.values(), net.ranges.values()].map(|t| t.to_vec::<f32>().unwrap());
        (state, blocks.iter().map(|b| b.after).collect::<Vec<_>>())
    };
    let plain = after(&[]);
    for set in ["iters=7", "batch=5", "rounding_lr=0.1", "step_lr=0.01", "range_lr=0.02", "mix=1", "drop=0"] {
        assert!(after(&[&format!("reconstruction.{set}")]) != plain, "{set}");
    }
    let pushed = ["reconstruction.penalty=1", "reconstruction.rounding_lr=0.1"];
    let pushed = |more: &[&str]| after(&[&pushed[..], more].concat());
    for set in ["penalty=0", "penalty_start=0.9", "beta_first=3", "beta_last=9"] {
        assert!(pushed(&[&format!("reconstruction.{set}")]) != pushed(&[]), "{set}");
    }
    let refused: &[(&[&str], &str)] = &[
        (&["reconstruction.iters=0"], "reconstruction.iters"),
        (&["reconstruction.batch=0"], "reconstruction.batch"),
        (&["reconstruction.rounding_lr=-1"], "reconstruction.rounding_lr"),
        (&["reconstruction.mix=1.5"], "reconstruction.mix"),
        (&["reconstruction.drop=-0.1"], "reconstruction.drop"),
        (&["reconstruction.penalty_start=1"], "reconstruction.penalty_start"),
        (&["reconstruction.beta_last=0"], "reconstruction.beta_last"),
        (&["reconstruction.beta_first=1"], "reconstruction.beta_first"),
        (&["ranges.weights=min_max"], "ranges.weights"),
        (&["ranges.batches=0"], "ranges.batches"),
        (&["student.bn=tune"], "student.bn"),
    ];
    for (set, expected) in refused {
        let mut r = recipe(&[]);
        let outcome = set.iter().try_for_each(|s| r.set(s)).and_then(|()| r.validate());
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(expected), "{set:?}: {message}");
    }
    let mut r = Recipe::load("gdfq").unwrap();
    let outcome = r.set("reconstruction.iters=10").and_then(|()| r.validate());
    assert!(outcome.unwrap_err().to_string().contains("images.count"));
}
