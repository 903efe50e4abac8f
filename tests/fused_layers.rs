//! Layers that a kernel computes together with their convolution, beside the ops that they stand for, one by one: on the emulator,
//! bit for bit where they promise it.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::activation::{Activation, activation};
use ghostbit::ops::batch_norm::batch_norm_eval;
use ghostbit::ops::conv_block::{Operand, Then, conv_block};
use ghostbit::ops::conv_bn_tune::TuneNorm;
use ghostbit::ops::conv2d::{Conv2dParams, conv2d};
use ghostbit::ops::conv2d_int::conv2d_int;
use ghostbit::ops::elementwise::add;
use ghostbit::ops::fake_quant::{Axis, Codes, FakeQuantSpec, Ste, dequantize, fake_quant_coded};
use ghostbit::tensor::{Shape, Tensor};

/// Values in -1..1.
fn ramp(device: &Device, shape: &[usize], seed: usize) -> Tensor {
    let shape = Shape::from(shape);
    let v: Vec<f32> =
        (0..shape.elements()).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect();
    Tensor::from_slice(device, shape, &v).unwrap()
}

fn constant(device: &Device, v: &[f32]) -> Var {
    Var::constant(Tensor::from_slice(device, [v.len()], v).unwrap())
}

fn quantized(tape: &mut Tape, x: Tensor, bits: u8, axis: Axis) -> (Var, Codes) {
    let n = if axis == Axis::Outer { x.dim(0) } else { 1 };
    let end = |from: f32| -> Vec<f32> { (0..n).map(|k| from + 0.01 * k as f32).collect() };
    let [lo, hi] = [end(-0.7), end(0.9)].map(|v| constant(&x.device(), &v));
    let x = tape.leaf(x);
    fake_quant_coded(tape, &x, &lo, &hi, FakeQuantSpec { bits, axis, ste: Ste::Identity }).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Residual {
    None,
    Values,
    Codes,
}

#[derive(Clone, Copy, Debug)]
struct Student {
    x: [usize; 4],
    k: usize,
    r: usize,
    p: Conv2dParams,
    /// Whether the input comes in codes.
    coded: bool,
    residual: Residual,
    relu: bool,
    ste: Ste,
}

/// The output's values and the residual's gradient (which is that of the sum, exactly), and the number of kernels
/// launched forward.
fn student(device: &Device, s: Student, together: bool) -> (Vec<f32>, Vec<f32>, u64) {
    let mut tape = Tape::new(device);
    let t = &mut tape;
    let (x, xq) = quantized(t, ramp(device, &s.x, 1), 4, Axis::Tensor);
    let (w, wq) = quantized(t, ramp(device, &[s.k, s.r, s.r, s.x[3]], 2), 4, Axis::Outer);
    let bias = t.leaf(ramp(device, &[s.k], 3));
    let [mean, gamma, beta] = [4, 5, 6].map(|seed| Var::constant(ramp(device, &[s.k], seed)));
    let var: Vec<f32> = (0..s.k).map(|i| 0.4 + 0.3 * (i % 7) as f32).collect();
    let var = constant(device, &var);
    let out = {
        let side = |len: usize| (len + 2 * s.p.pad - s.p.dilation * (s.r - 1) - 1) / s.p.stride + 1;
        [s.x[0], side(s.x[1]), side(s.x[2]), s.k]
    };
    let (residual, rq) = quantized(t, ramp(device, &out, 7), 4, Axis::Tensor);
    let residual = t.leaf(residual.value);
    let reach = ((s.r * s.r * s.x[3]) as f32).sqrt();
    let lo = constant(device, &[if s.relu { 0.0 } else { -0.2 * reach }]);
    let hi = constant(device, &[0.4 * reach]);
    let calls = || device.gpu().unwrap().counters().launches;

    let before = calls();
    let (values, after) = if together {
        let norm = TuneNorm { gamma: Some(&gamma), beta: Some(&beta), mean: &mean.value, var: &var.value, eps: 1e-5 };
        let residual = match s.residual {
            Residual::None => None,
            Residual::Values => Some(Operand { var: &residual, codes: None }),
            Residual::Codes => Some(Operand { var: &residual, codes: Some(&rq) }),
        };
        let then = Then { residual, relu: s.relu, lo: &lo, hi: &hi, bits: 4, ste: s.ste };
        let x = Operand { var: &x, codes: s.coded.then_some(&xq) };
        let w = Operand { var: &w, codes: s.coded.then_some(&wq) };
        let (y, codes) = conv_block(t, [x, w], Some(&bias), norm, s.p, then).unwrap();
        let after = calls();
        (dequantize(t, &y, &codes).unwrap(), after)
    } else {
        let z = if s.coded {
            conv2d_int(t, [&x, &w], [&xq, &wq], Some(&bias), s.p).unwrap()
        } else {
            conv2d(t, &x, &w, Some(&bias), s.p).unwrap()
        };
        let mut v = batch_norm_eval(t, &z, Some(&gamma), Some(&beta), &mean.value, &var.value, 1e-5).unwrap();
        if s.residual != Residual::None {
            v = add(t, &v, &residual).unwrap();
        }
        if s.relu {
            v = activation(t, &v, Activation::Relu).unwrap();
        }
        let spec = FakeQuantSpec { bits: 4, axis: Axis::Tensor, ste: s.ste };
        (fake_quant_coded(t, &v, &lo, &hi, spec).unwrap().0, calls())
    };
    let found = values.value.to_vec().unwrap();
    let seed = ramp(device, &out, 8);
    let gradients = tape.backward_from(&[(&values, seed)]).unwrap();
    (found, gradients.of(&residual).map(|g| g.to_vec().unwrap()).unwrap_or_default(), after - before)
}

/// With channels in eights a student's layer of codes is two launches: sums of the filter per tap, and all the rest.
#[test]
fn students_layers_equal_their_parts() {
    let Ok(gpu) = Device::emulator() else { return };
    let p = Conv2dParams::new;
    let plain = Student {
        x: [2, 5, 7, 16],
        k: 16,
        r: 3,
        p: p(1, 1),
        coded: true,
        residual: Residual::None,
        relu: true,
        ste: Ste::Identity,
    };
    let clipped = Student { ste: Ste::Clipped, residual: Residual::Codes, ..plain };
    let layers = [
        plain,
        clipped,
        Student { x: [3, 9, 11, 16], k: 32, ..clipped },
        Student { x: [1, 13, 12, 32], k: 72, residual: Residual::Values, ..clipped },
        Student { x: [1, 6, 5, 12], k: 40, p: p(2, 1), ..clipped },
        Student { x: [1, 6, 5, 3], k: 8, p: p(1, 2).dilation(2), relu: false, ..clipped },
        Student { k: 24, ste: Ste::Lsq, ..plain },
        Student { k: 64, r: 1, p: p(1, 0), relu: false, ste: Ste::LsqUnscaled, ..clipped },
    ];
    for layer in layers {
        let (values, gradient, launches) = student(&gpu, layer, true);
        let (values_twin, gradient_twin, launches_twin) = student(&gpu, layer, false);
        assert_eq!(values, values_twin, "{layer:?}");
        assert_eq!(gradient, gradient_twin, "{layer:?}");
        assert!(values.iter().any(|v| *v != values[0]) && gradient.is_empty() == (layer.residual == Residual::None));
        assert_eq!(launches, 2, "{layer:?}: {launches_twin} in parts");
    }
}
