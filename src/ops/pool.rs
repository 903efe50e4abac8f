//! Average and maximum over windows, and over the whole image. NHWC.
//!
//! Windows, output sizes and divisors are those of MaxPool and AveragePool of the ONNX standard, as ONNX Runtime computes
//! them. See [`PoolParams`].

mod cases;
mod cpu;
mod params;
mod rule;

pub use cases::cases;
pub use params::PoolParams;

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Shape, Tensor};
use params::Geometry;
use rule::{AvgPoolOp, GlobalAvgPoolOp, MaxPoolOp};

/// Mean over all pixels: `x[n h w c]` to `[n c]`. F32 (F64 on the CPU). Errors if the image is empty.
pub fn global_avg_pool(tape: &mut Tape, x: &Var) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc("global_avg_pool")?;
    crate::ensure_op!(h * w > 0, "global_avg_pool", "x of shape {} has no pixels", x.shape());
    let mut y = Tensor::empty_like(&x.value, [n, c])?;
    if let Some(gpu) = x.value.gpu() {
        Launch::new("pool_global_fwd_f32")
            .grid([n as u32, c.div_ceil(32) as u32, 1])
            .block([256, 1, 1])
            .ptr(x.value.address())
            .ptr(y.address())
            .val((h * w) as i32)
            .val(c as i32)
            .run(gpu)?;
    } else {
        crate::for_real!("global_avg_pool", x.dtype(), T => {
            cpu::global::<T>(x.value.host(), y.host_mut(), h * w, c);
            Ok(())
        })?;
    }
    Ok(tape.record_one(GlobalAvgPoolOp { shape: x.shape() }, &[x], y))
}

/// Maximum over windows: `x[n h w c]` to `[n oh ow c]`, padding never wins, NaN does. F32 (F64 on the CPU). The gradient
/// goes to the first maximum of a window. Errors where [`PoolParams::output`] does.
pub fn max_pool(tape: &mut Tape, x: &Var, p: PoolParams) -> Result<Var> {
    let g = Geometry::new("max_pool", x, p)?;
    maximum(tape, x, g, g.output())
}

/// Maximum over all pixels: `x[n h w c]` to `[n c]`, NaN wins. F32 (F64 on the CPU). The gradient goes to the first maximum.
/// Errors if the image is empty.
pub fn global_max_pool(tape: &mut Tape, x: &Var) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc("global_max_pool")?;
    let p = PoolParams { kernel: [h, w], stride: [1; 2], pad: [0; 4], ceil: false, count_pad: false };
    let g = Geometry::new("global_max_pool", x, p)?;
    maximum(tape, x, g, [n, c].into())
}

fn maximum(tape: &mut Tape, x: &Var, g: Geometry, shape: Shape) -> Result<Var> {
    let mut y = Tensor::empty_like(&x.value, shape)?;
    // Of each maximum, the pixel in its image.
    let mut from = Tensor::empty(&x.value.device(), shape, DType::I32)?;
    if let Some(gpu) = x.value.gpu() {
        Launch::over("pool_max_fwd_f32", y.len(), 256)
            .ptr(x.value.address())
            .ptr(y.address())
            .ptr(from.address())
            .val(g)
            .run(gpu)?;
    } else {
        crate::for_real!("max_pool", x.dtype(), T => {
            cpu::max::<T>(x.value.host(), y.host_mut(), from.host_mut(), &g);
            Ok(())
        })?;
    }
    Ok(tape.record_one(MaxPoolOp { from, g }, &[x], y))
}

/// Average over windows: `x[n h w c]` to `[n oh ow c]`. F32 (F64 on the CPU). Errors where [`PoolParams::output`] does.
pub fn avg_pool(tape: &mut Tape, x: &Var, p: PoolParams) -> Result<Var> {
    let g = Geometry::new("avg_pool", x, p)?;
    let mut y = Tensor::empty_like(&x.value, g.output())?;
    if let Some(gpu) = x.value.gpu() {
        Launch::over("pool_avg_fwd_f32", y.len(), 256).ptr(x.value.address()).ptr(y.address()).val(g).run(gpu)?;
    } else {
        crate::for_real!("avg_pool", x.dtype(), T => {
            cpu::avg::<T>(x.value.host(), y.host_mut(), &g);
            Ok(())
        })?;
    }
    Ok(tape.record_one(AvgPoolOp { g }, &[x], y))
}

#[cfg(test)]
mod tests;
