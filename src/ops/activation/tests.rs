//! Values far from 0, where naive formulas overflow or cancel.

use super::curves::Smooth;
use super::{Activation, activation};
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::tensor::Tensor;

const KINDS: [Activation; 13] = [
    Activation::Relu,
    Activation::LeakyRelu(0.2),
    Activation::Tanh,
    Activation::RELU6,
    Activation::Sigmoid,
    Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
    Activation::Silu,
    Activation::HardSwish,
    Activation::Elu(1.0),
    Activation::Gelu { tanh: false },
    Activation::Gelu { tanh: true },
    Activation::Mish,
    Activation::Softplus,
];

/// Values and derivatives at `x`.
fn at(kind: Activation, x: &[f32]) -> [Vec<f32>; 2] {
    let device = Device::cpu();
    let mut tape = Tape::new(&device);
    let leaf = tape.leaf(Tensor::from_slice(&device, [x.len()], x).unwrap());
    let y: Var = activation(&mut tape, &leaf, kind).unwrap();
    let value = y.value.to_vec().unwrap();
    let ones = Tensor::from_slice(&device, [x.len()], &vec![1f32; x.len()]).unwrap();
    let grads = tape.backward_from(&[(&y, ones)]).unwrap();
    [value, grads.of(&leaf).unwrap().to_vec().unwrap()]
}

#[test]
fn values_far_from_zero_are_right() {
    // Value and derivative at 100, then at -100, to f32's precision.
    for kind in KINDS {
        let [y, dy] = at(kind, &[100.0, -100.0]);
        let want = match kind {
            Activation::Relu => [100.0, 0.0, 1.0, 0.0],
            Activation::LeakyRelu(_) => [100.0, -20.0, 1.0, 0.2],
            Activation::Tanh => [1.0, -1.0, 0.0, 0.0],
            Activation::Clip { high, .. } => [high, 0.0, 0.0, 0.0],
            Activation::Sigmoid | Activation::HardSigmoid { .. } => [1.0, 0.0, 0.0, 0.0],
            Activation::Elu(_) => [100.0, -1.0, 1.0, 0.0],
            _ => [100.0, 0.0, 1.0, 0.0],
        };
        for (got, want) in [y[0], y[1], dy[0], dy[1]].into_iter().zip(want) {
            assert!((got - want).abs() < 1e-40, "{}: {got:e} instead of {want}", kind.name());
        }
    }
}

/// At -2.5, -0.5, 0.7 and 3.1.
#[test]
fn values_are_those_of_onnx_runtime() {
    for (kind, want) in [
        (Activation::LeakyRelu(0.2), [-0.5, -0.1, 0.7, 3.1]),
        (Activation::Clip { low: -1.0, high: 0.5 }, [-1.0, -0.5, 0.5, 0.5]),
        (Activation::Sigmoid, [0.075_858_18, 0.377_540_7, 0.668_187_7, 0.956_892_7]),
        (Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }, [0.0, 0.4, 0.64, 1.0]),
        (Activation::Silu, [-0.189_645_45, -0.188_770_34, 0.467_731_45, 2.966_367_5]),
        (Activation::HardSwish, [-0.208_333_3, -0.208_333_3, 0.431_666_7, 3.1]),
        (Activation::Elu(1.3), [-1.193_289, -0.511_510_1, 0.7, 3.1]),
        (Activation::Gelu { tanh: false }, [-0.015_524_1, -0.154_268_8, 0.530_625_5, 3.097]),
        (Activation::Gelu { tanh: true }, [-0.015_084_3, -0.154_286, 0.530_570_1, 3.097_373]),
        (Activation::Mish, [-0.196_816_2, -0.220_743_8, 0.561_148_4, 3.088_5]),
        (Activation::Softplus, [0.078_889_74, 0.474_077, 1.103_186, 3.144_064]),
    ] {
        let [y, _] = at(kind, &[-2.5, -0.5, 0.7, 3.1]);
        for (got, want) in y.into_iter().zip(want) {
            let error: f32 = got - want;
            assert!(error.abs() < 1e-6, "{}: {got} instead of {want}", kind.name());
        }
    }
}

#[test]
fn nan_stays_nan_and_infinity_stays_finite_in_derivatives() {
    for kind in KINDS {
        assert!(at(kind, &[f32::NAN])[0][0].is_nan(), "{}", kind.name());
        let [_, dy] = at(kind, &[f32::MAX, -f32::MAX]);
        assert!(dy.iter().all(|d| d.is_finite()), "{}: {dy:?}", kind.name());
    }
}

#[test]
fn exponentials_in_f32_are_close() {
    let mut x = -110.0f32;
    while x < 95.0 {
        let (got, want) = (x.exponential(), f64::from(x).exp());
        let edge = want > f64::from(f32::MAX);
        let error = (f64::from(got) - want).abs();
        assert!(if edge { got.is_infinite() } else { error <= 2.5e-7 * want + 2e-45 }, "e^{x} = {got:e}, {want:e}");
        let (got, want) = (f64::from(x.exponential_m1()), f64::from(x).exp_m1());
        assert!(edge || (got - want).abs() <= 4e-7 * want.abs(), "e^{x} - 1 = {got:e}, {want:e}");
        let (got, want) = (x.normal(), f64::from(x).normal());
        for (got, want) in [(got.0, want.0), (got.1, want.1)] {
            // The square in the exponent is rounded: its error grows with it.
            let slack = 1e-6 * (1.0 + f64::from(x).powi(2) / 8.0);
            assert!((f64::from(got) - want).abs() <= slack * want + 2e-45, "normal at {x}: {got:e}, {want:e}");
        }
        x += 0.0137;
    }
    assert_eq!((f32::INFINITY.exponential(), f32::NEG_INFINITY.exponential()), (f32::INFINITY, 0.0));
    assert_eq!((0f32.exponential(), 0f32.exponential_m1(), (-0f32).exponential_m1()), (1.0, 0.0, 0.0));
}

/// Values of the standard library of C (erfc) at points of both ways to compute the distribution.
#[test]
fn the_normal_distribution_is_right_in_f64() {
    for (x, want) in [
        (-0.5f64, 0.308_537_538_725_986_9),
        (1.0, 0.841_344_746_068_542_9),
        (-2.9, 0.001_865_813_300_384_037_5),
        (-3.1, 0.000_967_603_213_218_356_8),
        (-8.0, 6.220_960_574_271_785e-16),
    ] {
        let got = x.normal().1;
        assert!((got - want).abs() < 1e-13 * want, "{x}: {got:e} instead of {want:e}");
    }
}

#[test]
fn numbers_that_make_no_function_are_errors() {
    for (kind, words) in [
        (Activation::LeakyRelu(0.0), "leaky_relu slope must be finite and > 0, got 0"),
        (Activation::Elu(f32::NAN), "elu alpha must be finite and > 0, got NaN"),
        (Activation::Clip { low: 1.0, high: 1.0 }, "got 1 and 1"),
        (Activation::Clip { low: 0.0, high: f32::INFINITY }, "finite ends"),
        (Activation::HardSigmoid { alpha: f32::NAN, beta: 0.5 }, "hard_sigmoid needs finite numbers"),
    ] {
        let e = kind.check().unwrap_err();
        assert!(e.contains(words), "{e}");
    }
}
