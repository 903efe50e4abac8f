//! The CPU passes over plain slices, for convolutions that are made of several.

use super::{Geometry, cpu, plain};
use crate::autograd::GradMode;
use crate::tensor::Real;

/// Float types of the CPU passes. F32 takes the blocked paths unless the filter is dilated, f64 the definition.
pub(crate) trait Convolve: Real {
    /// Writes `y[n p q k]`.
    fn fprop(x: &[Self], w: &[Self], bias: Option<&[Self]>, y: &mut [Self], g: &Geometry);
    /// Writes `dx[n h w c]`, or adds to it.
    fn dgrad(dy: &[Self], w: &[Self], dx: &mut [Self], mode: GradMode, g: &Geometry);
    /// Writes `dw[k r s c]`, or adds to it.
    fn wgrad(x: &[Self], dy: &[Self], dw: &mut [Self], mode: GradMode, g: &Geometry);
}

impl Convolve for f64 {
    fn fprop(x: &[f64], w: &[f64], bias: Option<&[f64]>, y: &mut [f64], g: &Geometry) {
        plain::fprop(x, w, bias, y, g);
    }
    fn dgrad(dy: &[f64], w: &[f64], dx: &mut [f64], mode: GradMode, g: &Geometry) {
        plain::dgrad(dy, w, dx, mode, g);
    }
    fn wgrad(x: &[f64], dy: &[f64], dw: &mut [f64], mode: GradMode, g: &Geometry) {
        plain::wgrad(x, dy, dw, mode, g);
    }
}

impl Convolve for f32 {
    fn fprop(x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], g: &Geometry) {
        match g.dilation {
            [1, 1] => cpu::fprop(x, w, bias, y, g),
            _ => plain::fprop(x, w, bias, y, g),
        }
    }
    fn dgrad(dy: &[f32], w: &[f32], dx: &mut [f32], mode: GradMode, g: &Geometry) {
        match g.dilation {
            [1, 1] => cpu::dgrad(dy, w, dx, mode, g),
            _ => plain::dgrad(dy, w, dx, mode, g),
        }
    }
    fn wgrad(x: &[f32], dy: &[f32], dw: &mut [f32], mode: GradMode, g: &Geometry) {
        match g.dilation {
            [1, 1] => cpu::wgrad(x, dy, dw, mode, g),
            _ => plain::wgrad(x, dy, dw, mode, g),
        }
    }
}
