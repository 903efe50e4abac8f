//! Ops that must equal others, or leave something alone, beyond what the case tables hold.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::batch_norm::batch_norm_eval;
use ghostbit::ops::conv_bn_tune::{TuneNorm, conv_bn_tune};
use ghostbit::ops::conv2d::{Conv2dParams, conv2d};
use ghostbit::ops::fake_quant::{Axis, FakeQuantSpec, Ste, fake_quant};
use ghostbit::ops::observe::min_max;
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
            let norm = TuneNorm { gamma: gamma_in, beta: beta_in, mean: &mean, var: &var, eps: 1e-5 };
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
            let norm = TuneNorm { gamma: Some(&gamma), beta: None, mean: &mean, var: &var, eps: 1e-5 };
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
