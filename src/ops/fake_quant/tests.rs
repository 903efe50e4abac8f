//! The written definitions of the gradients, and exact codes on all devices.

use super::cases::values;
use super::*;
use crate::device::Device;
use crate::quant::Affine;
use crate::tensor::Shape;

fn run(device: &Device, bits: u8, axis: Axis, ste: Ste) -> [Vec<f64>; 6] {
    let shape = Shape::from([5, 3, 3, 7]);
    let [x, lo, hi] = values(shape, bits, axis);
    let ranges = lo.len();
    let mut tape = Tape::new(device);
    let t = |s: Shape, v: &[f64]| Tensor::from_slice(device, s, v).unwrap();
    let vx = tape.leaf(t(shape, &x));
    let (vlo, vhi) = (tape.leaf(t([ranges].into(), &lo)), tape.leaf(t([ranges].into(), &hi)));
    let y = fake_quant(&mut tape, &vx, &vlo, &vhi, FakeQuantSpec { bits, axis, ste }).unwrap();
    let dy: Vec<f64> = (0..x.len()).map(|i| ((i * 7919) % 101) as f64 / 50.0 - 1.0).collect();
    let g = tape.backward_from(&[(&y, t(shape, &dy))]).unwrap();
    let of = |v: &Var| g.of(v).map_or(Vec::new(), |t| t.to_f64().unwrap());
    [x, lo, hi, of(&vx), of(&vlo), of(&vhi)]
}

fn cotangent(i: usize) -> f64 {
    ((i * 7919) % 101) as f64 / 50.0 - 1.0
}

#[test]
fn identity_passes_everything_and_clipped_only_what_needed_no_clamping() {
    for bits in 2..=8 {
        for axis in [Axis::Tensor, Axis::Outer] {
            let [x, lo, hi, dx, dlo, _] = run(&Device::cpu(), bits, axis, Ste::Identity);
            assert!(dlo.is_empty() && dx.iter().enumerate().all(|(i, d)| *d == cotangent(i)));
            let [.., clipped, dlo, _] = run(&Device::cpu(), bits, axis, Ste::Clipped);
            assert!(dlo.is_empty());
            let mut outside = 0;
            for (i, d) in clipped.iter().enumerate() {
                let row = i / (x.len() / lo.len());
                let a = Affine::new(lo[row], hi[row], bits);
                let keep = a.level(x[i]) == a.code(x[i]);
                outside += usize::from(!keep);
                assert_eq!(*d, if keep { cotangent(i) } else { 0.0 });
            }
            assert!(outside > 0 && outside < x.len() / 2);
        }
    }
}

/// "Rounding is the identity": the offsets that rounding adds are frozen, and the rest of the definition is
/// differentiated numerically.
#[test]
fn learned_ranges_follow_the_definition() {
    for (bits, axis) in [(2, Axis::Outer), (4, Axis::Tensor), (8, Axis::Outer)] {
        let [x, lo, hi, _, dlo, dhi] = run(&Device::cpu(), bits, axis, Ste::LsqUnscaled);
        let length = x.len() / lo.len();
        for row in 0..lo.len() {
            let at = Affine::new(lo[row], hi[row], bits);
            let half = -at.low;
            let zero_offset = at.zero - half - at.scale * lo[row];
            let loss = |l: f64, h: f64| -> f64 {
                let s = (2.0 * half - 1.0) / (h - l);
                let z = s * l + half + zero_offset;
                let of = |i: usize| {
                    let level = at.level(x[i]);
                    let q = if at.inside(level) {
                        let offset = level - (at.scale * x[i] - at.zero);
                        s * x[i] - z + offset
                    } else {
                        at.clamp(level)
                    };
                    (q + z) / s * cotangent(i)
                };
                (row * length..(row + 1) * length).map(of).sum()
            };
            let h = 1e-6;
            let to_lo = (loss(lo[row] + h, hi[row]) - loss(lo[row] - h, hi[row])) / (2.0 * h);
            let to_hi = (loss(lo[row], hi[row] + h) - loss(lo[row], hi[row] - h)) / (2.0 * h);
            assert!((dlo[row] - to_lo).abs() < 1e-6, "bits {bits} row {row}: {} {to_lo}", dlo[row]);
            assert!((dhi[row] - to_hi).abs() < 1e-6, "bits {bits} row {row}: {} {to_hi}", dhi[row]);
        }
        let [.., scaled, _] = run(&Device::cpu(), bits, axis, Ste::Lsq);
        let factor = 1.0 / (length as f64 * f64::from((1 << (bits - 1)) - 1)).sqrt();
        assert!((scaled[0] - dlo[0] * factor).abs() < 1e-12);
    }
}

/// Random values, rounding edges and all: the same integers and the same floats on both devices.
#[test]
fn codes_and_values_are_equal_on_both_devices() {
    let Ok(gpu) = Device::emulator() else { return };
    let cpu = Device::cpu();
    for bits in 2..=8 {
        for (axis, shape) in [(Axis::Tensor, [4, 3, 3, 12]), (Axis::Outer, [6, 3, 3, 5]), (Axis::Outer, [9, 2, 2, 4])] {
            let mut x = crate::ops::random::normal(&cpu, shape, 5, u64::from(bits)).unwrap();
            let rows = axis.rows(&shape)[0];
            // Quarter steps make ties common.
            for v in x.host_mut::<f32>().iter_mut().skip(10) {
                *v = (*v * 4.0).round() / 4.0;
            }
            x.host_mut::<f32>()[3] = f32::NAN;
            x.host_mut::<f32>()[4] = f32::INFINITY;
            let lo: Vec<f32> = (0..rows).map(|r| -1.0 - 0.37 * r as f32).collect();
            let hi: Vec<f32> = (0..rows).map(|r| 1.0 + 0.21 * r as f32).collect();
            let both = [&cpu, &gpu].map(|d| {
                let x = x.to_device(d).unwrap();
                let lo = Tensor::from_slice(d, [rows], &lo).unwrap();
                let hi = Tensor::from_slice(d, [rows], &hi).unwrap();
                let codes = fake_quant_codes(&x, &lo, &hi, bits, axis).unwrap().to_vec::<i8>().unwrap();
                let spec = FakeQuantSpec { bits, axis, ste: Ste::Identity };
                let vars = [x, lo, hi].map(Var::constant);
                let y = fake_quant(&mut Tape::inference(d), &vars[0], &vars[1], &vars[2], spec).unwrap();
                let y: Vec<u32> = y.value.to_vec::<f32>().unwrap().iter().map(|v| v.to_bits()).collect();
                (codes, y)
            });
            assert_eq!(both[0].0, both[1].0, "{bits} bits, {axis:?}: codes");
            for (i, (a, b)) in both[0].1.iter().zip(&both[1].1).enumerate() {
                let nan = f32::from_bits(*a).is_nan() && f32::from_bits(*b).is_nan();
                assert!(a == b || nan, "{bits} bits, {axis:?}: value {i}");
            }
            assert_eq!(both[0].0[3], 0);
        }
    }
}

#[test]
fn wrong_settings_are_errors() {
    let d = Device::cpu();
    let x = Tensor::zeros(&d, [2, 3], DType::F32).unwrap();
    let r = Tensor::zeros(&d, [2], DType::F32).unwrap();
    let e = fake_quant_codes(&x, &r, &r, 1, Axis::Outer).unwrap_err().to_string();
    assert!(e.contains("2..=8") && e.contains('1'), "{e}");
    assert!(fake_quant_codes(&x, &r, &r, 9, Axis::Outer).is_err());
    assert!(fake_quant_codes(&x, &r, &r, 4, Axis::Tensor).unwrap_err().to_string().contains("1 elements"));
}
