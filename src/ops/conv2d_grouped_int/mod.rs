//! Grouped convolution of 8-bit codes: integer sums, and one f32 multiplication per output.
//!
//! As [`super::conv2d_int`] with output channels that see the input channels of their group alone: activations `x[n h w c]`,
//! filters `w[k r s c/groups]`, and for output channel `k` of group `j`
//!
//! ```text
//! acc[n,p,q,k] = sum over the taps inside the image and the group's channels i of (qx + zx)(qw + zw[k])     exact
//! unit[k]      = 1 / (sx * sw[k])                                                                           f32: product, then quotient
//! y            = f32(acc) * unit[k]  (+ bias[k])                                                            f32: round acc, product, sum
//! ```
//!
//! in this order, no two operations fused: equal bits on every device. Padding has value 0. The gradients are
//! [`super::conv2d_grouped`]'s of the values that the codes stand for. The rule is ours, as for other convolutions of codes.
//!
//! On the CPU wide groups are convolutions of codes of their own, narrow and dilated ones share vectors, as in floats.

mod cases;
mod cpu;
mod gpu;

pub use cases::cases;

use super::conv2d::{Conv2dParams, Geometry};
use super::conv2d_grouped::{self, Groups};
use super::conv2d_int::{self, MAX_REDUCTION, Ranges};
use super::fake_quant::Codes;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::quant::Affine;
use crate::tensor::{DType, Tensor};

const OP: &str = "conv2d_grouped_int";

/// Convolves the codes `xq[n h w c]` in `groups` with `wq[k r s c/groups]`, plus `bias[k]`: `y[n p q k]` of the dtype of the
/// ranges (F32; F64 on the CPU). `x` and `w` are the values of the codes: they are not read now, but kept for each other's
/// gradients. Errors as [`conv2d_grouped::conv2d_grouped`], and on codes or ranges that do not fit.
pub fn conv2d_grouped_int(
    tape: &mut Tape,
    [x, w]: [&Var; 2],
    [xq, wq]: [&Codes; 2],
    bias: Option<&Var>,
    groups: usize,
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
    let g = Groups::new(OP, x.shape(), w.shape(), groups, p)?;
    let b = bias.map(|b| &b.value);
    conv2d_int::check(xq, wq, b, &Geometry { k: g.k(), ..g.each })?;
    let mut y = Tensor::empty(&x.value.device(), g.y(), xq.lo.dtype())?;
    if xq.values.gpu().is_some() {
        let filter = gpu::Filter::of([xq, wq], &g)?;
        gpu::fprop(&xq.values, &filter, b, &mut y, &g)?;
    } else if y.dtype() == DType::F32 {
        let filter = cpu::Filter::new(wq.values.host(), &ranges::<f32>(xq, wq, g.k()), &g);
        filter.fprop(xq.values.host(), b.map(Tensor::host), y.host_mut());
    } else {
        let ranges = ranges::<f64>(xq, wq, g.k());
        cpu::fprop_f64(xq.values.host(), wq.values.host(), &ranges, b.map(Tensor::host), y.host_mut(), &g);
    }
    Ok(conv2d_grouped::record(tape, [x, w], bias, y, g))
}

/// The quantizers of codes on the host.
fn ranges<T: crate::quant::RoundEven + crate::tensor::Element>(x: &Codes, w: &Codes, k: usize) -> Ranges<T> {
    let of = |q: &Codes, i: usize| Affine::<T>::new(q.lo.host::<T>()[i], q.hi.host::<T>()[i], q.bits);
    Ranges::new(of(x, 0), (0..k).map(|i| of(w, i)).collect())
}

/// A filter prepared for a device, an input size and the numbers of its quantizers: for inference.
pub struct Filter {
    g: Groups,
    on: On,
}

enum On {
    Cpu(Box<cpu::Filter>),
    Gpu(gpu::Filter),
}

impl Filter {
    /// Prepares the codes `w[k r s c/groups]` for inputs of the sizes in `g`, whose batch may differ, on `device`. Errors if the
    /// codes or ranges are not as many as `g` says, or a sum has too many terms.
    pub fn new(device: &Device, w: &[i8], ranges: &Ranges<f32>, g: Groups) -> Result<Self> {
        let shape = g.w();
        crate::ensure_op!(
            w.len() == shape.iter().product::<usize>() && ranges.w.len() == g.k(),
            OP,
            "{} codes and {} ranges for a filter {shape:?}",
            w.len(),
            ranges.w.len()
        );
        let terms = g.each.r * g.each.s * g.each.c;
        crate::ensure_op!(
            terms <= MAX_REDUCTION,
            OP,
            "{terms} taps times channels; sums of more than {MAX_REDUCTION} may not fit in 64 bits"
        );
        let on = match device.is_cpu() {
            true => On::Cpu(Box::new(cpu::Filter::new(w, ranges, &g))),
            false => On::Gpu(gpu::Filter::new(device, w, ranges, &g)?),
        };
        Ok(Self { g, on })
    }

    /// Returns `y[n p q k]`, F32, of the codes `x[n h w c]` (I8) and `bias[k]`, all on the filter's device. Errors if the filter was
    /// prepared for another size of images.
    pub fn fprop(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let [n, h, w, c] = x.shape().nhwc(OP)?;
        let g = Groups { each: Geometry { n, ..self.g.each }, count: self.g.count };
        crate::ensure_op!(
            g.x() == [n, h, w, c] && n > 0 && x.dtype() == DType::I8,
            OP,
            "input is {x:?}; the filter was prepared for codes {:?} of any batch",
            self.g.x()
        );
        let mut y = Tensor::empty(&x.device(), g.y(), DType::F32)?;
        match &self.on {
            On::Cpu(filter) => filter.fprop(x.host(), bias.map(Tensor::host), y.host_mut()),
            On::Gpu(filter) => gpu::fprop(x, filter, bias, &mut y, &g)?,
        }
        Ok(y)
    }
}
