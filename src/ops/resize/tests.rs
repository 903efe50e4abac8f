//! Resizes against values of ONNX Runtime, in f32 and on codes.

use super::{Coordinates, ResizeMode, ResizeParams, Rounding, resize, resize_codes};
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::tensor::Tensor;
use Coordinates::{AlignCorners, Asymmetric, HalfPixel, PytorchHalfPixel};
use ResizeMode::{Linear, Nearest};

const INPUT: [usize; 2] = [3, 4];

fn to_size(size: [usize; 2], mode: ResizeMode, coordinates: Coordinates) -> ResizeParams {
    ResizeParams::to_size(INPUT, size, mode, coordinates)
}

fn by_scales(scales: [f32; 2], mode: ResizeMode, coordinates: Coordinates) -> ResizeParams {
    ResizeParams::by_scales(INPUT, scales, mode, coordinates)
}

/// Outputs for an image of the squares of 0 to 11.
#[rustfmt::skip]
fn expected() -> Vec<(ResizeParams, [usize; 2], &'static [f32])> {
    vec![
        (to_size([2, 3], Nearest(Rounding::RoundPreferFloor), HalfPixel), [2, 3], &[0.0, 1.0, 9.0, 64.0, 81.0, 121.0]),
        (to_size([2, 6], Nearest(Rounding::RoundPreferCeil), HalfPixel), [2, 6],
            &[0.0, 1.0, 1.0, 4.0, 9.0, 9.0, 64.0, 81.0, 81.0, 100.0, 121.0, 121.0]),
        (to_size([4, 3], Nearest(Rounding::Ceil), AlignCorners), [4, 3],
            &[0.0, 4.0, 9.0, 16.0, 36.0, 49.0, 64.0, 100.0, 121.0, 64.0, 100.0, 121.0]),
        (by_scales([0.7, 1.5], Nearest(Rounding::Floor), Asymmetric), [2, 6],
            &[0.0, 0.0, 1.0, 4.0, 4.0, 9.0, 16.0, 16.0, 25.0, 36.0, 36.0, 49.0]),
        (to_size([1, 5], Nearest(Rounding::Floor), PytorchHalfPixel), [1, 5], &[0.0, 0.0, 1.0, 4.0, 9.0]),
        (to_size([2, 3], Linear, HalfPixel), [2, 3], &[4.5, 9.5, 17.833_33, 54.5, 75.5, 99.833_33]),
        (to_size([1, 5], Linear, PytorchHalfPixel), [1, 5], &[0.0, 0.7, 2.5, 5.5, 9.0]),
        (to_size([5, 2], Linear, AlignCorners), [5, 2], &[0.0, 9.0, 8.0, 29.0, 16.0, 49.0, 40.0, 85.0, 64.0, 121.0]),
        (by_scales([1.7, 0.6], Linear, Asymmetric), [5, 2],
            &[0.0, 3.0, 9.411_764, 20.254_9, 24.470_58, 43.156_86, 52.705_88, 79.235_29, 64.0, 93.666_67]),
        // An image that keeps its size is copied, whatever the factors are.
        (by_scales([1.3, 1.2], Linear, HalfPixel), [3, 4],
            &[0.0, 1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 49.0, 64.0, 81.0, 100.0, 121.0]),
    ]
}

#[test]
fn pixels_are_those_of_onnx_runtime() {
    let device = Device::cpu();
    let values: Vec<f32> = (0..12).map(|v| (v * v) as f32).collect();
    let x = Var::constant(Tensor::from_slice(&device, [1, 3, 4, 1], &values).unwrap());
    for (p, [h, w], want) in expected() {
        let y = resize(&mut Tape::inference(&device), &x, p).unwrap();
        assert_eq!(y.shape()[..], [1, h, w, 1], "{p:?}");
        for (got, want) in y.value.to_vec::<f32>().unwrap().iter().zip(want) {
            assert!((got - want).abs() <= 1e-5 * want.max(1.0), "{p:?}: {got} instead of {want}");
        }
    }
}

#[test]
fn codes_move_to_the_nearest_pixels() {
    let codes: Vec<i8> = (0..12).map(|v| (v * v) as i8).collect();
    let x = Tensor::from_slice(&Device::cpu(), [1, 3, 4, 1], &codes).unwrap();
    for (p, _, want) in expected() {
        match resize_codes(&x, p) {
            Ok(y) => {
                let got: Vec<f32> = y.to_vec::<i8>().unwrap().into_iter().map(f32::from).collect();
                assert_eq!(got, want, "{p:?}");
            }
            Err(e) => assert!(p.mode == Linear && e.to_string().contains("nearest pixel only"), "{p:?}: {e}"),
        }
    }
}

#[test]
fn sizes_and_scales_without_meaning_are_errors() {
    let p = to_size([2, 3], Linear, HalfPixel);
    for (p, image) in [
        (ResizeParams { size: [0, 3], ..p }, INPUT),
        (ResizeParams { size: [2, 1 << 17], ..p }, INPUT),
        (ResizeParams { scales: [0.0, 1.0], ..p }, INPUT),
        (ResizeParams { scales: [1.0, f32::NAN], ..p }, INPUT),
        (by_scales([f32::INFINITY, 1.0], Linear, HalfPixel), INPUT),
        (p, [0, 4]),
    ] {
        assert!(p.check(image).unwrap_err().contains("must be 1 to 65536"), "{p:?}");
    }
}
