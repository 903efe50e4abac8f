//! Initial values. All randomness is Philox (see `ops::random`), so these take already drawn host values or constants.

use super::{DType, Tensor};
use crate::Result;
use crate::device::Device;

/// Every element `value`, as f32.
pub fn full(device: &Device, shape: impl Into<super::Shape>, value: f32) -> Result<Tensor> {
    let shape = shape.into();
    Tensor::from_slice(device, shape, &vec![value; shape.elements()])
}

/// Same values in another float type (f32 <-> f64), on the CPU.
pub fn cast(t: &Tensor, dtype: DType) -> Result<Tensor> {
    let v = t.to_f64()?;
    let device = t.device();
    match dtype {
        DType::F64 => Tensor::from_slice(&device, t.shape(), &v),
        DType::Bf16 => Tensor::from_slice(
            &device,
            t.shape(),
            &v.iter().map(|&x| half::bf16::from_f32(x as f32)).collect::<Vec<_>>(),
        ),
        _ => Tensor::from_slice(&device, t.shape(), &v.iter().map(|&x| x as f32).collect::<Vec<_>>()),
    }
}
