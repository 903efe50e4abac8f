//! The start reproduces the weight, and hardened values are fixed points of the quantizer.

use super::*;
use crate::device::Device;
use crate::ops::fake_quant::{FakeQuantSpec, Ste, fake_quant, fake_quant_codes};
use crate::ops::{observe::min_max, random::normal, range_search::range_search};

fn weight(rows: usize) -> Tensor {
    normal(&Device::cpu(), [rows, 3, 3, 5], 3, 9).unwrap()
}

/// Before any step the soft weight is the weight itself, but for what lies outside its range.
#[test]
fn the_start_is_the_weight() {
    let w = weight(6);
    for bits in 2..=8 {
        let (lo, hi) = min_max(&w, Axis::Outer).unwrap();
        let r = Rounding::new(&w, &lo, &hi, bits).unwrap();
        let mut tape = Tape::inference(&Device::cpu());
        let (v, step) = (Var::constant(r.start.clone()), Var::constant(r.step.clone()));
        let soft = r.soft(&mut tape, &v, &step).unwrap().value.to_vec::<f32>().unwrap();
        let steps = r.step.to_vec::<f32>().unwrap();
        for (i, (s, w)) in soft.iter().zip(w.to_vec::<f32>().unwrap()).enumerate() {
            // The zero point is rounded: an end of the range may lie up to half a step outside the codes.
            assert!((s - w).abs() <= 0.51 * steps[i / 45], "{bits} bits: {s} {w}");
        }
        let near = soft.iter().zip(w.to_vec::<f32>().unwrap()).filter(|(s, w)| (*s - w).abs() < 1e-5).count();
        assert!(near > soft.len() * 9 / 10, "{bits} bits: {near} of {}", soft.len());
    }
}

/// The engine's quantizer, given the values and ranges of a hardened weight, gives its codes and values again, for any
/// choice and any step.
#[test]
fn hardened_values_are_fixed_points_of_the_quantizer() {
    for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
        for bits in 2..=8 {
            let w = weight(16).to_device(&device).unwrap();
            let (lo, hi) = range_search(&w, bits, Axis::Outer).unwrap();
            let r = Rounding::new(&w, &lo, &hi, bits).unwrap();
            let v = normal(&device, w.shape(), 4, u64::from(bits)).unwrap();
            let factor = crate::ops::random::uniform_in(&Device::cpu(), [16], 0.3, 2.0, 5, u64::from(bits)).unwrap();
            let steps: Vec<f32> = r.step.to_vec::<f32>().unwrap().iter().zip(factor.host::<f32>()).map(|(a, b)| a * b).collect();
            let hard = r.harden(&v, &Tensor::from_slice(&device, [16], &steps).unwrap()).unwrap();
            let codes = fake_quant_codes(&hard.values, &hard.lo, &hard.hi, bits, Axis::Outer).unwrap();
            assert_eq!(codes.to_vec::<i8>().unwrap(), hard.codes.to_vec::<i8>().unwrap(), "{bits} bits");
            let spec = FakeQuantSpec { bits, axis: Axis::Outer, ste: Ste::Identity };
            let vars = [&hard.values, &hard.lo, &hard.hi].map(|t| Var::constant(t.clone()));
            let y = fake_quant(&mut Tape::inference(&device), &vars[0], &vars[1], &vars[2], spec).unwrap();
            assert_eq!(y.value.to_vec::<f32>().unwrap(), hard.values.to_vec::<f32>().unwrap(), "{bits} bits");
            // Both choices occur, and each is a neighbour of rounding down.
            let base = r.base.to_vec::<f32>().unwrap();
            let up = hard.codes.to_vec::<i8>().unwrap().iter().zip(&base).filter(|(c, b)| f32::from(**c) == **b + 1.0).count();
            assert!((base.len() / 4..base.len() * 3 / 4).contains(&up), "{bits} bits: {up} of {}", base.len());
        }
    }
}

/// Rounding that was never trained is rounding to the nearest (ties aside).
#[test]
fn untrained_choices_are_the_nearest_codes() {
    let w = weight(8);
    let (lo, hi) = range_search(&w, 4, Axis::Outer).unwrap();
    let r = Rounding::new(&w, &lo, &hi, 4).unwrap();
    let hard = r.harden(&r.start, &r.step).unwrap();
    let nearest = fake_quant_codes(&w, &lo, &hi, 4, Axis::Outer).unwrap();
    assert_eq!(hard.codes.to_vec::<i8>().unwrap(), nearest.to_vec::<i8>().unwrap());
}

#[test]
fn wrong_settings_are_errors() {
    let d = Device::cpu();
    let w = weight(4);
    let (lo, hi) = min_max(&w, Axis::Outer).unwrap();
    assert!(Rounding::new(&w, &lo, &hi, 9).is_err());
    let r = Rounding::new(&w, &lo, &hi, 4).unwrap();
    let e = r.harden(&r.start, &Tensor::zeros(&d, [4], DType::F32).unwrap()).err().unwrap().to_string();
    assert!(e.contains("step of row 0"), "{e}");
    let mut tape = Tape::inference(&d);
    let (v, step) = (Var::constant(r.start.clone()), Var::constant(Tensor::zeros(&d, [3], DType::F32).unwrap()));
    assert!(r.soft(&mut tape, &v, &step).is_err());
    assert!(rounding_penalty(&mut tape, &v, 0.5).unwrap_err().to_string().contains("beta"));
}
