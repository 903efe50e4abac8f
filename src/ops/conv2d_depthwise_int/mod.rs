//! Depthwise convolution of 8-bit codes: integer sums, and one f32 multiplication per output.
//!
//! As [`super::conv2d_int`] with a filter of its own for every channel: activations `x[n h w c]`, filters `w[c r s 1]`,
//!
//! ```text
//! acc[n,p,q,c] = sum over the taps inside the image of (qx + zx)(qw + zw[c])        exact
//! unit[c]      = 1 / (sx * sw[c])                                                   f32: product, then quotient
//! y            = f32(acc) * unit[c]  (+ bias[c])                                    f32: round acc, product, sum
//! ```
//!
//! in this order, no two operations fused: equal bits on every device. The gradients are [`super::conv2d_depthwise`]'s of the values
//! that the codes stand for. The rule is ours, as for other convolutions of codes.

mod cases;
mod cpu;
mod gpu;

pub use cases::cases;

use super::conv2d::{Conv2dParams, Geometry};
use super::conv2d_depthwise;
use super::conv2d_int::{self, Ranges};
use super::fake_quant::Codes;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::quant::Affine;
use crate::tensor::{DType, Tensor};

const OP: &str = "conv2d_depthwise_int";

/// Depthwise convolution of the codes `xq[n h w c]` and `wq[c r s 1]`, plus `bias[c]`: `y[n p q c]` of the dtype of the ranges (F32;
/// F64 on the CPU). `x` and `w` are the values of the codes: they are not read now, but kept for each other's gradients.
/// Errors as [`conv2d_depthwise::conv2d_depthwise`], and on codes or ranges that do not fit.
pub fn conv2d_depthwise_int(
    tape: &mut Tape,
    [x, w]: [&Var; 2],
    [xq, wq]: [&Codes; 2],
    bias: Option<&Var>,
    p: Conv2dParams,
) -> Result<Var> {
    crate::ensure_op!(
        x.shape() == xq.values.shape() && w.shape() == wq.values.shape(),
        OP,
        "values {} and {} of codes {} and {}",
        x.shape(),
        w.shape(),
        xq.values.shape(),
        wq.values.shape()
    );
    let g = conv2d_depthwise::geometry(x.shape(), w.shape(), p)?;
    let b = bias.map(|b| &b.value);
    // As many filters of as many taps as a convolution of one channel has.
    conv2d_int::check(xq, wq, b, &Geometry { c: 1, ..g })?;
    let mut y = Tensor::empty(&x.value.device(), [g.n, g.p, g.q, g.c], xq.lo.dtype())?;
    if xq.values.gpu().is_some() {
        let filter = gpu::Filter::of([xq, wq], &g)?;
        gpu::fprop(&xq.values, &filter, b, &mut y, &g)?;
    } else {
        crate::for_real!(OP, xq.lo.dtype(), T => {
            let of = |q: &Codes, i: usize| Affine::<T>::new(q.lo.host::<T>()[i], q.hi.host::<T>()[i], q.bits);
            let ranges = Ranges::new(of(xq, 0), (0..g.c).map(|i| of(wq, i)).collect());
            let filter = cpu::Filter::new(wq.values.host(), &ranges);
            cpu::fprop(xq.values.host(), &filter, b.map(Tensor::host), y.host_mut(), &g);
            Ok(())
        })?;
    }
    Ok(conv2d_depthwise::record(tape, [x, w], bias, y, g))
}

/// A filter prepared for a device, with the numbers of its quantizers: for inference.
pub enum Filter {
    Cpu(cpu::Filter<f32>),
    Gpu(gpu::Filter),
}

impl Filter {
    /// Of the codes `w[c r s 1]`, on `device`.
    pub fn new(device: &Device, w: &[i8], ranges: &Ranges<f32>) -> Result<Self> {
        Ok(match device.is_cpu() {
            true => Self::Cpu(cpu::Filter::new(w, ranges)),
            false => Self::Gpu(gpu::Filter::new(device, w, ranges)?),
        })
    }

    /// `y[n p q c]`, F32, of the codes `x[n h w c]` (I8) and `bias[c]`; `w` is the filter's shape. All on the filter's device.
    pub fn fprop(&self, x: &Tensor, w: [usize; 4], bias: Option<&Tensor>, p: Conv2dParams) -> Result<Tensor> {
        let g = conv2d_depthwise::geometry(x.shape(), w.into(), p)?;
        let mut y = Tensor::empty(&x.device(), [g.n, g.p, g.q, g.c], DType::F32)?;
        match self {
            Self::Cpu(filter) => cpu::fprop(x.host(), filter, bias.map(Tensor::host), y.host_mut(), &g),
            Self::Gpu(filter) => gpu::fprop(x, filter, bias, &mut y, &g)?,
        }
        Ok(y)
    }
}
