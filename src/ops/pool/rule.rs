//! Gradient rules of pooling.

use super::{Geometry, cpu};
use crate::Result;
use crate::autograd::{Backward, Op};
use crate::device::Launch;
use crate::tensor::{Shape, Tensor};

pub(super) struct GlobalAvgPoolOp {
    pub shape: Shape,
}

impl Op for GlobalAvgPoolOp {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let (pixels, c) = (self.shape[1] * self.shape[2], self.shape[3]);
        let mut dx = Tensor::empty_like(&dy, self.shape)?;
        if let Some(gpu) = dy.gpu() {
            Launch::over("pool_global_bwd_f32", dx.len(), 256)
                .ptr(dy.address())
                .ptr(dx.address())
                .val(dx.len() as i32)
                .val(pixels as i32)
                .val(c as i32)
                .run(gpu)?;
        } else {
            crate::for_real!("global_avg_pool", dy.dtype(), T => {
                cpu::global_backward::<T>(dy.host(), dx.host_mut(), pixels, c);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

pub(super) struct MaxPoolOp {
    pub from: Tensor,
    pub g: Geometry,
}

impl Op for MaxPoolOp {
    fn name(&self) -> &'static str {
        "max_pool"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut dx = Tensor::empty_like(&dy, self.g.input())?;
        if let Some(gpu) = dy.gpu() {
            Launch::over("pool_max_bwd_f32", dx.len(), 256)
                .ptr(dy.address())
                .ptr(self.from.address())
                .ptr(dx.address())
                .val(self.g)
                .run(gpu)?;
        } else {
            crate::for_real!("max_pool", dy.dtype(), T => {
                cpu::max_backward::<T>(dy.host(), self.from.host(), dx.host_mut(), &self.g);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

pub(super) struct AvgPoolOp {
    pub g: Geometry,
}

impl Op for AvgPoolOp {
    fn name(&self) -> &'static str {
        "avg_pool"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut dx = Tensor::empty_like(&dy, self.g.input())?;
        if let Some(gpu) = dy.gpu() {
            Launch::over("pool_avg_bwd_f32", dx.len(), 256).ptr(dy.address()).ptr(dx.address()).val(self.g).run(gpu)?;
        } else {
            crate::for_real!("avg_pool", dy.dtype(), T => {
                cpu::avg_backward::<T>(dy.host(), dx.host_mut(), &self.g);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}
