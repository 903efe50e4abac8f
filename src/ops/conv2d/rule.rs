//! Gradient rules of the convolutions.

use super::{Conv2dParams, Math, bias_grad, dgrad, upsample_dgrad, upsample_wgrad, wgrad};
use crate::Result;
use crate::autograd::{Backward, Op, Var};
use crate::tensor::{Shape, Tensor};

/// `value` if the gradient of `other` needs it: the input serves the filter's gradient and the other way round.
pub(super) fn saved(value: &Var, other: &Var) -> Option<Tensor> {
    other.needs_grad().then(|| value.value.clone())
}

/// Saved of a convolution.
pub(super) struct Conv2d {
    pub x: Option<Tensor>,
    pub w: Option<Tensor>,
    pub x_shape: Shape,
    pub w_shape: Shape,
    pub p: Conv2dParams,
}

impl Op for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        if let Some(w) = &self.w {
            let (mut dx, mode) = cx.target(0, self.x_shape, dy.dtype())?;
            dgrad(&dy, w, &mut dx, mode, self.p)?;
        }
        if let Some(x) = &self.x {
            let (mut dw, mode) = cx.target(1, self.w_shape, dy.dtype())?;
            wgrad(x, &dy, &mut dw, mode, self.p)?;
        }
        bias(cx, &dy, self.w_shape)
    }
}

/// Saved of an upsampling convolution.
pub(super) struct UpsampleConv2d {
    pub x: Option<Tensor>,
    pub w: Option<Tensor>,
    pub x_shape: Shape,
    pub w_shape: Shape,
    pub math: Math,
}

impl Op for UpsampleConv2d {
    fn name(&self) -> &'static str {
        "upsample_conv2d"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        if let Some(w) = &self.w {
            let (mut dx, mode) = cx.target(0, self.x_shape, dy.dtype())?;
            upsample_dgrad(&dy, w, &mut dx, mode, self.math)?;
        }
        if let Some(x) = &self.x {
            let (mut dw, mode) = cx.target(1, self.w_shape, dy.dtype())?;
            upsample_wgrad(x, &dy, &mut dw, mode, self.math)?;
        }
        bias(cx, &dy, self.w_shape)
    }
}

fn bias(cx: &mut Backward, dy: &Tensor, w_shape: Shape) -> Result<()> {
    if cx.needs(2) {
        let (mut db, mode) = cx.target(2, [w_shape[0]], dy.dtype())?;
        bias_grad(dy, &mut db, mode)?;
    }
    Ok(())
}
