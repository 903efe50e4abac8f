//! Ops that must equal others, or leave something alone, beyond what the case tables hold.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::graph::nodes::{Add, GlobalAvgPool};
use ghostbit::graph::passes::{QuantizeSpec, fold_bn, quantize, tune_bn, with_math};
use ghostbit::graph::{Forward, Network, NodeKind, RangeMode, Taps};
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::ops::batch_norm::{Running, batch_norm_eval, batch_norm_train};
use ghostbit::ops::conv_bn_tune::{TuneNorm, conv_bn_tune};
use ghostbit::ops::conv2d::{Conv2dParams, Math, conv2d};
use ghostbit::ops::conv2d_depthwise::conv2d_depthwise;
use ghostbit::ops::fake_quant::{Axis, FakeQuantSpec, Ste, fake_quant, fake_quant_coded};
use ghostbit::ops::observe::{self, EmaForm, min_max};
use ghostbit::ops::random;
use ghostbit::ops::weight_quant::{Part, Rows, weight_quant};
use ghostbit::tensor::{DType, Shape, Tensor, init};

/// Values in -1..1 of either float type.
fn ramp(device: &Device, dtype: DType, shape: &[usize], seed: usize) -> Tensor {
    let shape = Shape::from(shape);
    let v: Vec<f64> =
        (0..shape.elements()).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f64 / 504.5 - 1.0).collect();
    let t = Tensor::from_slice(&Device::cpu(), shape, &v).unwrap();
    init::cast(&t, dtype).unwrap().to_device(device).unwrap()
}

/// Which of gamma, beta and bias a block has, and whether its filter is fake-quantized.
#[derive(Clone, Copy, Debug)]
struct Block {
    affine: bool,
    bias: bool,
    bits: Option<u8>,
    p: Conv2dParams,
}

/// Output and gradients of x, w, gamma, beta, bias of a block that is used twice (so that gradients accumulate), as one
/// op or as convolution and batch normalization.
fn block(device: &Device, dtype: DType, fused: bool, b: Block) -> Vec<Vec<f64>> {
    let (k, c) = (6, 5);
    let of = |shape: &[usize], seed| ramp(device, dtype, shape, seed);
    let mut tape = Tape::new(device);
    let (x, w) = (tape.leaf(of(&[2, 7, 6, c], 1)), tape.leaf(of(&[k, 3, 3, c], 2)));
    let [gamma, beta, bias] = [3, 4, 5].map(|seed| tape.leaf(of(&[k], seed)));
    let mean = of(&[k], 6);
    // Far from 1 and from each other.
    let var: Vec<f64> = of(&[k], 7).to_f64().unwrap().iter().map(|v| 10f64.powf(2.0 * v)).collect();
    let var = Tensor::from_slice(&Device::cpu(), [k], &var).unwrap();
    let var = init::cast(&var, dtype).unwrap().to_device(device).unwrap();
    let used = match b.bits {
        Some(bits) => {
            let (lo, hi) = min_max(&w.value, Axis::Outer).unwrap();
            let spec = FakeQuantSpec { bits, axis: Axis::Outer, ste: Ste::Identity };
            fake_quant(&mut tape, &w, &Var::constant(lo), &Var::constant(hi), spec).unwrap()
        }
        None => w.clone(),
    };
    let (gamma_in, beta_in) = (b.affine.then_some(&gamma), b.affine.then_some(&beta));
    let bias_in = b.bias.then_some(&bias);
    let mut run = || {
        if fused {
            let norm = TuneNorm { gamma: gamma_in, beta: beta_in, mean: &mean, var: &var, eps: 1e-5, scaled: None };
            conv_bn_tune(&mut tape, &x, &used, bias_in, norm, b.p).unwrap()
        } else {
            let z = conv2d(&mut tape, &x, &used, bias_in, b.p).unwrap();
            batch_norm_eval(&mut tape, &z, gamma_in, beta_in, &mean, &var, 1e-5).unwrap()
        }
    };
    let outs = [run(), run()];
    let shape = outs[0].shape();
    let g = tape.backward_from(&[(&outs[0], of(&shape, 8)), (&outs[1], of(&shape, 9))]).unwrap();
    let mut all = vec![outs[0].value.to_f64().unwrap()];
    all.extend([&x, &w, &gamma, &beta, &bias].iter().filter_map(|v| Some(g.of(v)?.to_f64().unwrap())));
    all
}

fn compare(what: &str, want: &[Vec<f64>], got: &[Vec<f64>], tolerance: f64) {
    assert_eq!(want.len(), got.len(), "{what}: number of gradients");
    for (part, (want, got)) in want.iter().zip(got).enumerate() {
        let top = want.iter().fold(0f64, |m, v| m.max(v.abs()));
        for (i, (a, b)) in want.iter().zip(got).enumerate() {
            assert!((a - b).abs() <= tolerance * top, "{what}, part {part}[{i}]: {a} {b} of {top}");
        }
    }
}

/// Tune mode is evaluation mode in another order of operations: equal outputs and equal gradients, to rounding.
#[test]
fn conv_bn_tune_is_conv2d_and_batch_norm_eval() {
    let cpu = Device::cpu();
    let p = Conv2dParams::new;
    for affine in [true, false] {
        for bias in [true, false] {
            for (bits, p) in [(None, p(1, 1)), (None, p(2, 1)), (Some(4), p(1, 1))] {
                let b = Block { affine, bias, bits, p };
                let want = block(&cpu, DType::F64, false, b);
                assert_eq!(want.len(), 3 + 2 * usize::from(affine) + usize::from(bias));
                compare(&format!("{b:?}"), &want, &block(&cpu, DType::F64, true, b), 1e-13);
                if bits.is_none() {
                    compare(&format!("f32 {b:?}"), &want, &block(&cpu, DType::F32, true, b), 1e-5);
                    if let Ok(gpu) = Device::emulator() {
                        compare(&format!("kernels {b:?}"), &want, &block(&gpu, DType::F32, true, b), 1e-5);
                    }
                }
            }
        }
    }
}

/// Inputs of two depthwise convolutions get the sum of both gradients, whichever kernels write them.
#[test]
fn depthwise_gradients_accumulate() {
    for device in [Some(Device::cpu()), Device::emulator().ok()].into_iter().flatten() {
        for c in [3, 8] {
            let of = |shape: &[usize], seed| ramp(&device, DType::F32, shape, seed);
            let grads = |strides: &[usize]| -> Vec<Vec<f64>> {
                let mut tape = Tape::new(&device);
                let inputs = [of(&[2, 7, 6, c], 1), of(&[c, 3, 3, 1], 2), of(&[c], 3)].map(|t| tape.leaf(t));
                let [x, w, b] = &inputs;
                let outs: Vec<Var> = strides
                    .iter()
                    .map(|&s| conv2d_depthwise(&mut tape, x, w, Some(b), Conv2dParams::new(s, 1)).unwrap())
                    .collect();
                let seeds: Vec<(&Var, Tensor)> = outs.iter().map(|o| (o, of(&o.shape(), 4))).collect();
                let g = tape.backward_from(&seeds).unwrap();
                inputs.iter().map(|v| g.of(v).unwrap().to_f64().unwrap()).collect()
            };
            let (both, one, two) = (grads(&[1, 2]), grads(&[1]), grads(&[2]));
            let sum: Vec<Vec<f64>> =
                one.iter().zip(&two).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect();
            compare(&format!("{device:?}, {c} channels"), &sum, &both, 1e-5);
        }
    }
}

/// What is kept for backward: the input where a filter is trained, never the convolution's output.
#[test]
fn conv_bn_tune_saves_no_output() {
    let cpu = Device::cpu();
    let (x, w) = (ramp(&cpu, DType::F32, &[4, 16, 16, 8], 1), ramp(&cpu, DType::F32, &[16, 3, 3, 8], 2));
    let (mean, var) = (ramp(&cpu, DType::F32, &[16], 3), init::full(&cpu, [16], 2.0).unwrap());
    let held = |fused: bool| {
        let before = cpu.memory().live;
        let mut tape = Tape::new(&cpu);
        let (x, w) = (Var::constant(x.clone()), tape.leaf(w.clone()));
        let gamma = tape.leaf(init::full(&cpu, [16], 1.5).unwrap());
        let p = Conv2dParams::new(1, 1);
        let y = if fused {
            let norm = TuneNorm { gamma: Some(&gamma), beta: None, mean: &mean, var: &var, eps: 1e-5, scaled: None };
            conv_bn_tune(&mut tape, &x, &w, None, norm, p).unwrap()
        } else {
            let z = conv2d(&mut tape, &x, &w, None, p).unwrap();
            batch_norm_eval(&mut tape, &z, Some(&gamma), None, &mean, &var, 1e-5).unwrap()
        };
        drop(y);
        cpu.memory().live - before
    };
    let output = 4 * 4 * 16 * 16 * 16;
    assert!(held(false) >= output && held(true) < output / 8, "{} {}", held(false), held(true));
}

/// Without running statistics, batch statistics are used all the same and nothing else changes: attention correction's
/// consistency term compares a teacher in this mode with itself in evaluation mode.
#[test]
fn batch_norm_train_without_running_statistics_is_the_same_and_updates_nothing() {
    for device in [Some(Device::cpu()), Device::emulator().ok()].into_iter().flatten() {
        let of = |shape: &[usize], seed| ramp(&device, DType::F32, shape, seed);
        let (mean, var) = (of(&[5], 1), init::full(&device, [5], 0.7).unwrap());
        let run = |update: bool| {
            let mut tape = Tape::new(&device);
            let (x, gamma) = (tape.leaf(of(&[3, 4, 2, 5], 2)), tape.leaf(of(&[5], 3)));
            let running = update.then(|| Running { mean: mean.clone(), var: var.clone(), momentum: 0.1 });
            let y = batch_norm_train(&mut tape, &x, Some(&gamma), None, running, 1e-5).unwrap();
            let g = tape.backward_from(&[(&y, of(&[3, 4, 2, 5], 4))]).unwrap();
            [y.value, g.of(&x).unwrap(), g.of(&gamma).unwrap()].map(|t| t.to_vec::<f32>().unwrap())
        };
        let state = || [&mean, &var].map(|t| t.to_vec::<f32>().unwrap());
        let before = state();
        let without = run(false);
        assert_eq!(state(), before, "{device:?}");
        assert_eq!(run(true), without, "{device:?}");
        assert_ne!(state(), before, "the buffers were not those that an update reaches");
    }
}

/// The same of a whole network: a forward and backward pass in batch mode leaves every buffer as it was, bit for bit, and
/// evaluation afterwards gives what it gave before.
#[test]
fn a_network_in_batch_mode_keeps_its_buffers() {
    let device = Device::cpu();
    let mut network = Network::new(&device, cifar_resnet(1, 10), 1).unwrap();
    let images = Var::constant(ramp(&device, DType::F32, &[4, 16, 16, 3], 5));
    let buffers = |n: &Network| -> Vec<Vec<f32>> { n.buffers.values().map(|t| t.to_vec().unwrap()).collect() };
    let mut forward = |how: Forward| {
        let mut tape = Tape::new(&device);
        let x = tape.leaf(images.value.clone());
        let y = network.forward(&mut tape, &[x.clone()], how, &Taps::default()).unwrap().output;
        let dy = ramp(&device, DType::F32, &y.shape(), 6);
        let value = y.value.to_vec::<f32>().unwrap();
        assert!(tape.backward_from(&[(&y, dy)]).unwrap().of(&x).is_some());
        (value, buffers(&network))
    };
    let (eval, before) = forward(Forward::eval());
    let (batch, after) = forward(Forward::batch());
    assert!(!before.is_empty() && before == after);
    assert_ne!(eval, batch);
    assert_eq!(forward(Forward::eval()).0, eval);
    assert_ne!(forward(Forward::train()).1, before, "training updates what batch mode left alone");
}

/// Folding changes how a network computes, not what: also with statistics far from their initial ones.
#[test]
fn folded_networks_compute_the_same() {
    let cpu = Device::cpu();
    let mut net = Network::new(&cpu, cifar_resnet(1, 10), 5).unwrap();
    let names: Vec<String> = net.buffers.keys().cloned().collect();
    for (i, name) in names.iter().enumerate() {
        let t = net.buffers.get_mut(name).unwrap();
        let low = if name.ends_with("var") { 0.3 } else { -0.5 };
        let v: Vec<f32> = (0..t.len()).map(|j| low + ((j * 31 + i * 17) % 97) as f32 / 97.0).collect();
        t.write(&v).unwrap();
    }
    let x = Var::constant(ramp(&cpu, DType::F32, &[2, 32, 32, 3], 3));
    let logits = |n: &mut Network| {
        let out = n.forward(&mut Tape::inference(&cpu), &[x.clone()], Forward::eval(), &Taps::default()).unwrap();
        out.output.value.to_f64().unwrap()
    };
    let mut folded = fold_bn(&net).unwrap();
    assert!(folded.buffers.is_empty() && folded.graph.batch_norm_inputs().is_empty());
    let (want, got) = (logits(&mut net), logits(&mut folded));
    compare("folded", &[want.clone()], &[got], 1e-5);
    assert!(want.iter().any(|v| v.abs() > 1e-2));
}

#[test]
fn a_convolution_that_others_read_is_not_fused() {
    let full = cifar_resnet(1, 10);
    let tuned = tune_bn(&full);
    let norms = full.nodes.iter().filter(|n| matches!(n.kind, NodeKind::BatchNorm(_))).count();
    let fused = tuned.nodes.iter().filter(|n| matches!(n.kind, NodeKind::ConvBn(_))).count();
    assert_eq!((norms, fused, tuned.nodes.len()), (7, 7, full.nodes.len() - 7));
    assert_eq!(tuned.shapes(2).unwrap().last(), full.shapes(2).unwrap().last());

    let mut shared = full.clone();
    let conv = shared.node("conv1").unwrap();
    let last = shared.nodes.len() - 1;
    shared.push("again", NodeKind::from(GlobalAvgPool {}), &[conv]);
    shared.push("out", NodeKind::from(Add {}), &[last, last]);
    let tuned = tune_bn(&shared);
    assert!(matches!(tuned.nodes[tuned.node("conv1").unwrap()].kind, NodeKind::Conv2d(_)));
}

/// A student in Tune mode gives the bits of the same student with its batch norms apart: both convolve codes.
#[test]
fn tuned_students_equal_untuned_ones_bit_for_bit() {
    for device in [Some(Device::cpu()), Device::emulator().ok()].into_iter().flatten() {
        let float = cifar_resnet(1, 10);
        let plain = quantize(&float, QuantizeSpec { first_bits: Some(8), ..QuantizeSpec::new(4, 4) }).unwrap();
        let x = Var::constant(ramp(&device, DType::F32, &[2, 32, 32, 3], 1));
        let mut last: Option<Vec<f32>> = None;
        for graph in [plain.clone(), tune_bn(&plain)] {
            let mut student = Network::new(&device, graph, 3).unwrap();
            student.weight_ranges_min_max().unwrap();
            let how = Forward { ranges: RangeMode::TrackMinMax(EmaForm::Textbook), ..Forward::eval() };
            let mut tape = Tape::inference(&device);
            let y = student.forward(&mut tape, &[x.clone()], how, &Taps::default()).unwrap().output;
            let y = y.value.to_vec::<f32>().unwrap();
            assert!(last.as_ref().is_none_or(|last| *last == y));
            last = Some(y);
        }
    }
}

/// A student whose layers are computed with what follows them as one, and the same student part by part: equal logits, bit for
/// bit, equal gradients to rounding, and most of what is kept for backward gone. A tapped node is what it was.
#[test]
fn students_in_blocks_equal_students_in_parts() {
    let float = tune_bn(&cifar_resnet(1, 10));
    let graph = quantize(&float, QuantizeSpec { first_bits: Some(8), ..QuantizeSpec::new(4, 4) }).unwrap();
    let bodies = graph.residual_bodies();
    for device in [Some(Device::cpu()), Device::emulator().ok()].into_iter().flatten() {
        let n = if device.is_cpu() { 8 } else { 1 };
        let image = ramp(&device, DType::F32, &[n, 32, 32, 3], 1);
        for (ste, tapped) in [(Ste::Identity, false), (Ste::Clipped, true), (Ste::Lsq, false)] {
            let run = |blocks: bool| {
                let mut student = Network::new(&device, graph.clone(), 3).unwrap();
                student.weight_ranges_min_max().unwrap();
                let track = Forward { ranges: RangeMode::TrackMinMax(EmaForm::Textbook), ..Forward::eval() };
                let x = Var::constant(image.clone());
                let observe = &mut Tape::inference(&device);
                student.forward(observe, std::slice::from_ref(&x), track, &Taps::default()).unwrap();
                // Half of the ranges, so that something is clamped.
                student.scale_activation_ranges(0.5).unwrap();
                (student.params.train().unwrap(), student.ranges.train().unwrap());
                // Weight ranges are learned or found anew.
                let weight_min_max = ste == Ste::Identity;
                let how = Forward { ste, blocks, weight_min_max, ..Forward::eval() };
                let taps = Taps { nodes: if tapped { bodies.clone() } else { Vec::new() }, ..Taps::default() };
                let before = device.memory().live;
                let mut tape = Tape::new(&device);
                let out = student.forward(&mut tape, std::slice::from_ref(&x), how, &taps).unwrap();
                let kept = device.memory().live - before;
                let ops = tape.describe();
                let tap: Vec<Vec<f32>> = out.taps.iter().map(|t| t.value.to_vec().unwrap()).collect();
                let dy = ramp(&device, DType::F32, &out.output.shape(), 6);
                let logits = out.output.value.to_vec::<f32>().unwrap();
                tape.backward_from(&[(&out.output, dy)]).unwrap();
                let of = |t: &Tensor| t.to_f64().unwrap();
                let (params, ranges) = (student.params.flat().unwrap().1, student.ranges.flat().unwrap().1);
                (logits, tap, vec![of(params), of(ranges)], kept, ops)
            };
            let (logits, tap, gradients, kept, ops) = run(true);
            let (twin, tap_twin, gradients_twin, kept_twin, ops_twin) = run(false);
            assert!(logits == twin && tap == tap_twin, "{device:?} {ste:?}");
            compare(&format!("{device:?} {ste:?}"), &gradients_twin, &gradients, 2e-5);
            assert!(gradients[0].iter().any(|v| v.abs() > 1e-6));
            let count = |ops: &str| ops.lines().filter(|l| l.starts_with("conv_block")).count();
            // Three tapped bodies end their layers early.
            assert_eq!((count(&ops), count(&ops_twin)), (if tapped { 4 } else { 7 }, 0), "{ops}");
            println!("{device:?} {ste:?}: {} KiB kept, {} in parts", kept >> 10, kept_twin >> 10);
            // The one image on the emulator weighs less than what stays of the weights.
            if ste == Ste::Identity && device.is_cpu() {
                assert!(kept * 4 < kept_twin, "{kept} {kept_twin}");
            }
        }
    }
}

/// A frozen network whose layers are computed with their statistics and what follows as one, and the same part by part: equal
/// logits, bit for bit; statistics and the images' gradient to rounding.
#[test]
fn frozen_networks_in_blocks_equal_those_in_parts() {
    for device in [Some(Device::cpu()), Device::emulator().ok()].into_iter().flatten() {
        let mut teacher = Network::new(&device, tune_bn(&cifar_resnet(1, 10)), 3).unwrap();
        for bn_stats in [true, false] {
            let mut run = |blocks: bool| {
                let how = Forward { blocks, ..Forward::eval() };
                let taps = Taps { bn_stats, ..Taps::default() };
                let before = device.memory().live;
                let mut tape = Tape::new(&device);
                let x = tape.leaf(ramp(&device, DType::F32, &[2, 32, 32, 3], 1));
                let out = teacher.forward(&mut tape, std::slice::from_ref(&x), how, &taps).unwrap();
                let kept = device.memory().live - before;
                let fused = tape.describe().lines().filter(|l| l.starts_with("conv_stats")).count();
                let logits = out.output.value.to_vec::<f32>().unwrap();
                let nodes: Vec<usize> = out.bn_stats.iter().map(|s| s.node).collect();
                let mut seeds = vec![(&out.output, ramp(&device, DType::F32, &out.output.shape(), 6))];
                for (i, s) in out.bn_stats.iter().enumerate() {
                    seeds.extend([&s.mean, &s.var].map(|v| (v, ramp(&device, DType::F32, &v.shape(), i))));
                }
                let mut all: Vec<Vec<f64>> =
                    out.bn_stats.iter().flat_map(|s| [&s.mean, &s.var]).map(|v| v.value.to_f64().unwrap()).collect();
                all.push(tape.backward_from(&seeds).unwrap().of(&x).unwrap().to_f64().unwrap());
                (logits, nodes, all, kept, fused)
            };
            let (logits, nodes, all, kept, fused) = run(true);
            let (twin, nodes_twin, all_twin, kept_twin, none) = run(false);
            assert!(logits == twin && nodes == nodes_twin && (fused, none) == (7, 0), "{device:?} {fused} {none}");
            compare(&format!("{device:?}"), &all_twin, &all, 1e-5);
            println!("{device:?}: {} KiB kept, {} in parts", kept >> 10, kept_twin >> 10);
            assert!(kept * 3 < kept_twin * 2);
        }
    }
}

/// Codes, values and ranges of weights quantized together are those of each weight by itself.
#[test]
fn weights_quantized_at_once_are_those_quantized_one_by_one() {
    for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
        let mut host = random::normal(&Device::cpu(), [4000], 3, 0).unwrap();
        host.host_mut::<f32>()[700] = f32::NAN;
        let flat = host.to_device(&device).unwrap();
        let parts = [(0, 16, 27, 8), (512, 7, 45, 4), (1024, 3, 901, 3)];
        let parts = parts.map(|(start, rows, length, bits)| Part { start, rows, length, bits });
        let made = weight_quant(&flat, &Rows::new(&device, &parts).unwrap()).unwrap();
        let bits = |t: &Tensor| -> Vec<u32> {
            // One NaN is as good as another.
            t.to_vec::<f32>().unwrap().iter().map(|v| if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }).collect()
        };
        let mut first = 0;
        for p in &parts {
            let w = flat.view(p.start, [p.rows, p.length]).unwrap();
            let (lo, hi) = observe::min_max(&w, Axis::Outer).unwrap();
            let spec = FakeQuantSpec { bits: p.bits, axis: Axis::Outer, ste: Ste::Identity };
            let [w, lo, hi] = [w, lo, hi].map(Var::constant);
            let (v, q) = fake_quant_coded(&mut Tape::inference(&device), &w, &lo, &hi, spec).unwrap();
            let range = |t: &Tensor| t.view(first, [p.rows]).unwrap();
            assert_eq!(bits(&range(&made.lo)), bits(&lo.value), "{device:?} {p:?}");
            assert_eq!(bits(&range(&made.hi)), bits(&hi.value), "{device:?} {p:?}");
            assert_eq!(bits(&made.values.view(p.start, v.shape()).unwrap()), bits(&v.value), "{device:?} {p:?}");
            let codes = |t: &Tensor| t.to_vec::<i8>().unwrap();
            assert_eq!(codes(&made.codes.view(p.start, v.shape()).unwrap()), codes(&q.values), "{device:?} {p:?}");
            first += p.rows;
        }
    }
    let d = Device::cpu();
    let overlap = [(0, 2, 5, 4), (9, 1, 3, 4)].map(|(start, rows, length, bits)| Part { start, rows, length, bits });
    assert!(Rows::new(&d, &overlap).is_err() && Rows::new(&d, &[]).is_err());
    let rows = Rows::new(&d, &overlap[..1]).unwrap();
    assert!(weight_quant(&Tensor::zeros(&d, [9], DType::F32).unwrap(), &rows).is_err());
}

/// The precision that a graph asks for reaches a GPU's kernels, and does nothing on a CPU.
#[test]
fn the_precision_of_products_reaches_the_kernels() {
    let logits = |device: &Device, math: Math| {
        let graph = with_math(&cifar_resnet(1, 10), math);
        let mut network = Network::new(device, graph, 5).unwrap();
        let x = Var::constant(ramp(device, DType::F32, &[2, 32, 32, 3], 1));
        let mut tape = Tape::inference(device);
        network.forward(&mut tape, &[x], Forward::eval(), &Taps::default()).unwrap().output.value.to_f64().unwrap()
    };
    let cpu = logits(&Device::cpu(), Math::F32);
    assert_eq!(logits(&Device::cpu(), Math::Bf16), cpu);
    let Ok(gpu) = Device::emulator() else { return };
    let largest = cpu.iter().fold(0f64, |m, v| m.max(v.abs()));
    let apart = |math| {
        let found = logits(&gpu, math);
        cpu.iter().zip(&found).fold(0f64, |m, (a, b)| m.max((a - b).abs())) / largest
    };
    let (f32, tf32, bf16) = (apart(Math::F32), apart(Math::Tf32), apart(Math::Bf16));
    println!("{f32:.1e} {tf32:.1e} {bf16:.1e}");
    // Nine layers, each off by about its operands' rounding: 2^-11 and 2^-8.
    assert!(f32 < 1e-5 && tf32 > 10.0 * f32 && tf32 < 5e-3 && bf16 > 2.0 * tf32 && bf16 < 4e-2);
}
