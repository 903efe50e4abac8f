//! Launches of `kernels/conv2d_*.cu`.

use super::Conv2dParams;
use crate::autograd::GradMode;
use crate::tensor::Tensor;
use crate::{Error, Result};

fn missing() -> Result<()> {
    Err(Error::op("conv2d", "no kernels yet; use --device cpu"))
}

pub(super) fn fprop(_: &Tensor, _: &Tensor, _: Option<&Tensor>, _: &mut Tensor, _: Conv2dParams) -> Result<()> {
    missing()
}
pub(super) fn dgrad(_: &Tensor, _: &Tensor, _: &mut Tensor, _: GradMode, _: Conv2dParams) -> Result<()> {
    missing()
}
pub(super) fn wgrad(_: &Tensor, _: &Tensor, _: &mut Tensor, _: GradMode, _: Conv2dParams) -> Result<()> {
    missing()
}
pub(super) fn bias_grad(_: &Tensor, _: &mut Tensor, _: GradMode) -> Result<()> {
    missing()
}
pub(super) fn upsample_fprop(_: &Tensor, _: &Tensor, _: Option<&Tensor>, _: &mut Tensor) -> Result<()> {
    missing()
}
pub(super) fn upsample_dgrad(_: &Tensor, _: &Tensor, _: &mut Tensor, _: GradMode) -> Result<()> {
    missing()
}
pub(super) fn upsample_wgrad(_: &Tensor, _: &Tensor, _: &mut Tensor, _: GradMode) -> Result<()> {
    missing()
}
