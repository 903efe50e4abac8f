//! Layers that a kernel computes together with their convolution, beside the ops that they stand for, one by one: on the emulator,
//! bit for bit where they promise it.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::ops::activation::{Activation, activation};
use ghostbit::ops::batch_norm::batch_norm_eval;
use ghostbit::ops::channel_stats::channel_stats;
use ghostbit::ops::conv_block::{Operand, Then, conv_block};
use ghostbit::ops::conv_bn_tune::{TuneNorm, conv_bn_tune};
use ghostbit::ops::conv_stats::{After, conv_stats};
use ghostbit::ops::conv2d::{Conv2dParams, Geometry, Math, conv2d};
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
    let g = Geometry::new("layer", s.x.into(), [s.k, s.r, s.r, s.x[3]].into(), s.p).unwrap();
    let out = [g.n, g.p, g.q, g.k];
    let (residual, rq) = quantized(t, ramp(device, &out, 7), 4, Axis::Tensor);
    let residual = t.leaf(residual.value);
    let reach = ((s.r * s.r * s.x[3]) as f32).sqrt();
    let lo = constant(device, &[if s.relu { 0.0 } else { -0.2 * reach }]);
    let hi = constant(device, &[0.4 * reach]);
    let calls = || device.gpu().unwrap().counters().launches;

    let before = calls();
    let (values, after) = if together {
        let norm = TuneNorm {
            gamma: Some(&gamma),
            beta: Some(&beta),
            mean: &mean.value,
            var: &var.value,
            eps: 1e-5,
            scaled: None,
        };
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

/// With channels in eights a student's layer of codes, of an image or of many channels is one launch.
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
        Student { x: [2, 7, 9, 3], coded: false, ..clipped },
        Student { x: [1, 7, 9, 3], k: 40, p: p(2, 1).math(Math::Tf32), coded: false, ste: Ste::Lsq, ..plain },
        Student { x: [1, 7, 9, 5], p: p(1, 0).math(Math::Bf16), coded: false, relu: false, ..clipped },
        Student { x: [2, 7, 9, 64], k: 72, p: p(1, 1).math(Math::Tf32), coded: false, ..clipped },
        Student { x: [1, 9, 10, 96], k: 64, p: p(2, 1).math(Math::Tf32), coded: false, ste: Ste::Lsq, ..plain },
        Student { k: 24, ste: Ste::Lsq, ..plain },
        Student { k: 64, r: 1, p: p(1, 0), relu: false, ste: Ste::LsqUnscaled, ..clipped },
    ];
    for layer in layers {
        let (values, gradient, launches) = student(&gpu, layer, true);
        let (values_twin, gradient_twin, launches_twin) = student(&gpu, layer, false);
        assert_eq!(values, values_twin, "{layer:?}");
        assert_eq!(gradient, gradient_twin, "{layer:?}");
        assert!(values.iter().any(|v| *v != values[0]) && gradient.is_empty() == (layer.residual == Residual::None));
        assert_eq!(launches, 1, "{layer:?}: {launches_twin} in parts");
    }
}

#[derive(Clone, Copy, Debug)]
struct Teacher {
    x: [usize; 4],
    k: usize,
    r: usize,
    p: Conv2dParams,
    residual: bool,
    relu: bool,
    stats: bool,
    /// Whether there will be a backward pass.
    backward: bool,
}

/// Output, statistics, the residual's gradient, and the number of kernels launched forward.
fn teacher(device: &Device, s: Teacher, together: bool) -> (Vec<f32>, [Vec<f32>; 2], Vec<f32>, u64) {
    let mut tape = if s.backward { Tape::new(device) } else { Tape::inference(device) };
    let t = &mut tape;
    let x = t.leaf(ramp(device, &s.x, 1));
    let [w, gamma, beta] = [vec![s.k, s.r, s.r, s.x[3]], vec![s.k], vec![s.k]]
        .map(|shape| Var::constant(ramp(device, &shape, shape.len())));
    let mean = ramp(device, &[s.k], 4);
    let var: Vec<f32> = (0..s.k).map(|i| 0.4 + 0.3 * (i % 7) as f32).collect();
    let var = constant(device, &var).value;
    let norm = TuneNorm { gamma: Some(&gamma), beta: Some(&beta), mean: &mean, var: &var, eps: 1e-5, scaled: None };
    let g = Geometry::new("layer", s.x.into(), [s.k, s.r, s.r, s.x[3]].into(), s.p).unwrap();
    let out = [g.n, g.p, g.q, g.k];
    let residual = t.leaf(ramp(device, &out, 7));
    let before = device.gpu().unwrap().counters().launches;
    let (u, stats) = if together {
        let after = After { residual: s.residual.then_some(&residual), relu: s.relu, stats: s.stats };
        conv_stats(t, [&x, &w], None, norm, s.p, after).unwrap()
    } else {
        let mut u = conv_bn_tune(t, &x, &w, None, norm, s.p).unwrap();
        let stats = s.stats.then(|| channel_stats(t, &u).unwrap());
        if s.residual {
            u = add(t, &u, &residual).unwrap();
        }
        if s.relu {
            u = activation(t, &u, Activation::Relu).unwrap();
        }
        (u, stats)
    };
    let launches = device.gpu().unwrap().counters().launches - before;
    let of = |v: &Var| v.value.to_vec::<f32>().unwrap();
    let stats = stats.map_or([vec![], vec![]], |(mean, var)| [of(&mean), of(&var)]);
    let mut gradient = Vec::new();
    if s.backward {
        let gradients = tape.backward_from(&[(&u, ramp(device, &out, 8))]).unwrap();
        gradient = gradients.of(&residual).map(|g| g.to_vec().unwrap()).unwrap_or_default();
    }
    (of(&u), stats, gradient, launches)
}

/// With channels in eights a frozen layer is its convolution, and a launch for statistics; its values are those of its parts, and
/// the statistics as exact as theirs.
#[test]
fn teachers_layers_equal_their_parts() {
    let Ok(gpu) = Device::emulator() else { return };
    let p = Conv2dParams::new;
    let all = Teacher {
        x: [2, 17, 20, 16],
        k: 16,
        r: 3,
        p: p(1, 1),
        residual: true,
        relu: true,
        stats: true,
        backward: true,
    };
    let of = |math: Math, c: usize, k: usize| Teacher { x: [2, 17, 20, c], k, p: p(1, 1).math(math), ..all };
    let mut layers = vec![
        of(Math::F32, 16, 16),
        of(Math::F32, 12, 72),
        Teacher { backward: false, ..of(Math::F32, 4, 24) },
        Teacher { residual: false, ..of(Math::F32, 3, 16) },
        Teacher { r: 1, p: p(2, 0), relu: false, residual: false, ..all },
        Teacher { stats: false, ..of(Math::F32, 8, 32) },
        // A single pixel.
        Teacher { x: [1, 1, 1, 3], k: 8, r: 1, p: p(1, 0), ..all },
    ];
    for math in [Math::Tf32, Math::Bf16] {
        layers.extend([
            of(math, 16, 16),
            Teacher { backward: false, ..of(math, 32, 32) },
            Teacher { stats: false, residual: false, ..of(math, 32, 32) },
            of(math, 8, 16),
            of(math, 4, 40),
            of(math, 64, 72),
            Teacher { residual: false, ..of(math, 3, 24) },
        ]);
    }
    for layer in layers {
        let (u, stats, gradient, launches) = teacher(&gpu, layer, true);
        let (u_twin, stats_twin, gradient_twin, launches_twin) = teacher(&gpu, layer, false);
        assert_eq!(u, u_twin, "{layer:?}");
        assert_eq!(gradient, gradient_twin, "{layer:?}");
        for (part, (found, twin)) in stats.iter().zip(&stats_twin).enumerate() {
            assert_eq!(found.len(), if layer.stats { layer.k } else { 0 });
            for (i, (a, b)) in found.iter().zip(twin).enumerate() {
                // A mean is as exact as the values' spread allows.
                let spread = if part == 0 { stats_twin[1][i].sqrt() } else { 0.0 };
                assert!((a - b).abs() <= 2e-6 * b.abs().max(0.1).max(spread), "{layer:?}: {a} {b}");
            }
        }
        let saved = [layer.residual, layer.relu, layer.stats].iter().filter(|s| **s).count() as u64;
        assert_eq!(launches_twin - launches, saved, "{layer:?}");
    }
}

/// Statistics taken in registers, of values a thousand times further from zero than from each other.
#[test]
fn statistics_of_a_convolution_do_not_cancel() {
    let Ok(gpu) = Device::emulator() else { return };
    for (math, c) in [(Math::F32, 8), (Math::Tf32, 16), (Math::Bf16, 32), (Math::Bf16, 3)] {
        let k = if c < 16 { 24 } else { c };
        let [x, w] = [vec![3, 19, 18, c], vec![k, 3, 3, c]].map(|s| Var::constant(ramp(&gpu, &s, s[0])));
        let [mean, one] = [vec![-30_000.0; k], vec![1.0; k]].map(|v: Vec<f32>| constant(&gpu, &v).value);
        let norm = TuneNorm { gamma: None, beta: None, mean: &mean, var: &one, eps: 0.0, scaled: None };
        let after = After { residual: None, relu: false, stats: true };
        let tape = &mut Tape::inference(&gpu);
        let p = Conv2dParams::new(1, 1).math(math);
        let (u, stats) = conv_stats(tape, [&x, &w], None, norm, p, after).unwrap();
        let (u, (mean, var)) = (u.value.to_vec::<f32>().unwrap(), stats.unwrap());
        let (mean, var) = (mean.value.to_vec::<f32>().unwrap(), var.value.to_vec::<f32>().unwrap());
        for i in 0..k {
            let v: Vec<f64> = u.iter().skip(i).step_by(k).map(|v| f64::from(*v)).collect();
            let centre = v.iter().sum::<f64>() / v.len() as f64;
            let spread = v.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / v.len() as f64;
            assert!(centre > 29_000.0 && spread < 1000.0, "{centre} {spread}");
            assert!((f64::from(mean[i]) - centre).abs() < 5e-3, "{math:?} {centre} {}", mean[i]);
            assert!((f64::from(var[i]) - spread).abs() < 1e-3 * spread, "{math:?} {spread} {}", var[i]);
        }
    }
}
