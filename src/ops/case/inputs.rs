//! Input values of a case, the same in tests and benches.

use super::{Fill, Input};
use crate::Result;
use crate::device::Device;
use crate::tensor::{DType, Tensor};

/// SplitMix64: a generator of its own, so that values do not rest on the op under test.
pub struct Rng(pub u64);

impl Rng {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Uniform in `(0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Values are rounded to f32 so that all precisions start from the same numbers.
pub fn values(input: &Input, rng: &mut Rng) -> Vec<f64> {
    let n = input.shape.elements();
    let draw = |rng: &mut Rng| match &input.fill {
        Fill::Normal { scale } => scale * rng.normal(),
        Fill::Uniform { low, high } => low + (high - low) * rng.uniform(),
        Fill::Away { scale, step, gap } => {
            let v = scale * rng.normal();
            let nearest = (v / step).round() * step;
            if (v - nearest).abs() < *gap { nearest + gap * if v >= nearest { 1.0 } else { -1.0 } } else { v }
        }
        Fill::Labels { classes } => (rng.bits() % *classes as u64) as f64,
        Fill::Values(_) => unreachable!("handled below"),
    };
    match &input.fill {
        Fill::Values(v) => v.clone(),
        _ => (0..n).map(|_| f64::from(draw(rng) as f32)).collect(),
    }
}

/// `v` in the input's shape on `device`; labels are I32 whatever `dtype` (F32 or F64) says.
pub fn tensor(device: &Device, input: &Input, v: &[f64], dtype: DType) -> Result<Tensor> {
    match (&input.fill, dtype) {
        (Fill::Labels { .. }, _) => {
            Tensor::from_slice(device, input.shape, &v.iter().map(|&x| x as i32).collect::<Vec<_>>())
        }
        (_, DType::F64) => Tensor::from_slice(device, input.shape, v),
        _ => Tensor::from_slice(device, input.shape, &v.iter().map(|&x| x as f32).collect::<Vec<_>>()),
    }
}
