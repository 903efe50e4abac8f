//! Depthwise 2-D convolution, NHWC, zero padding: every channel has its own filter.
//!
//! `y[n,p,q,c] = bias[c] + sum_{r,s} x[n, p*stride + r*dilation - pad, q*stride + s*dilation - pad, c] * w[c,r,s,0]`
//!
//! `dx` is the transposed sum, `dw` the sum over `n,p,q` of `dy * x`, `dbias` the sum of `dy`. The filter has the shape
//! `[c r s 1]` that the importer makes of PyTorch's `[c 1 r s]` (a convolution with `groups = c`). Used by MobileNetV2
//! (Sandler et al. 2018) and, with large dilated filters, by large-kernel attention (Guo et al. 2023).
//!
//! `cpu.rs` is generic over f32 and f64 (the oracle); `gpu.rs` launches `kernels/conv2d_depthwise.cu`.

mod cases;
mod cpu;
mod gpu;

pub use cases::cases;
pub(crate) use cpu::Meets;
pub(crate) use gpu::Sizes;

use super::conv2d::{Conv2dParams, Geometry, bias_grad};
use crate::Result;
use crate::autograd::{Backward, GradMode, Op, Tape, Var};
use crate::tensor::{Shape, Tensor};

const OP: &str = "conv2d_depthwise";

/// Depthwise convolution of `x[n h w c]` with `w[c r s 1]`, plus `bias[c]`: `y[n p q c]`,
/// `p = (h + top + bottom - dilation (r - 1) - 1) / stride + 1` rounded down, `q` likewise from `w`, `s`, left and right.
///
/// F32 (F64 on the CPU), all on one device. Gradients flow to `x`, `w` and `bias`; `x` is saved where `w` needs one, and
/// the other way round. `p.math` is ignored: nothing here is a matrix product. Errors on ranks, channels or bias length
/// that do not match, zero stride or dilation, or a filter larger than the padded input.
pub fn conv2d_depthwise(tape: &mut Tape, x: &Var, w: &Var, bias: Option<&Var>, p: Conv2dParams) -> Result<Var> {
    let g = geometry(x.shape(), w.shape(), p)?;
    for v in [Some(w), bias].into_iter().flatten() {
        crate::ensure_op!(
            v.dtype() == x.dtype() && v.value.device() == x.value.device(),
            OP,
            "input is {:?}, filter or bias is {:?}: expected one dtype on one device",
            x.value,
            v.value
        );
    }
    if let Some(b) = bias {
        crate::ensure_op!(b.shape()[..] == [g.c], OP, "bias has shape {}, expected [{}]", b.shape(), g.c);
    }
    let mut y = Tensor::empty_like(&x.value, [g.n, g.p, g.q, g.c])?;
    fprop(&x.value, &w.value, bias.map(|b| &b.value), &mut y, &g)?;
    Ok(record(tape, [x, w], bias, y, g))
}

/// `y` as the depthwise convolution of `x` and `w` with `bias`, whoever computed it.
pub(crate) fn record(tape: &mut Tape, [x, w]: [&Var; 2], bias: Option<&Var>, y: Tensor, g: Geometry) -> Var {
    let saved = |value: &Var, other: &Var| other.needs_grad().then(|| value.value.clone());
    let op = DepthwiseOp { x: saved(x, w), w: saved(w, x), w_shape: w.shape(), g };
    match bias {
        Some(b) => tape.record_one(op, &[x, w, b], y),
        None => tape.record_one(op, &[x, w], y),
    }
}

/// Sizes, with `k = c`.
pub(crate) fn geometry(x: Shape, w: Shape, p: Conv2dParams) -> Result<Geometry> {
    let [n, h, width, c] = x.nhwc(OP)?;
    crate::ensure_op!(
        w.len() == 4 && w[0] == c && w[3] == 1,
        OP,
        "input {x} needs a filter ({c} r s 1), one of each channel's own, got {w}"
    );
    Ok(Geometry { c, ..Geometry::new(OP, [n, h, width, 1].into(), w, p)? })
}

fn fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut Tensor, g: &Geometry) -> Result<()> {
    if x.gpu().is_some() {
        return gpu::fprop(x, w, bias, y, g);
    }
    crate::for_real!(OP, x.dtype(), T => {
        cpu::fprop::<T>(x.host(), w.host(), bias.map(Tensor::host), y.host_mut(), g);
        Ok(())
    })
}

fn dgrad(dy: &Tensor, w: &Tensor, dx: &mut Tensor, mode: GradMode, g: &Geometry) -> Result<()> {
    if dy.gpu().is_some() {
        return gpu::dgrad(dy, w, dx, mode, g);
    }
    crate::for_real!(OP, dy.dtype(), T => {
        cpu::dgrad::<T>(dy.host(), w.host(), dx.host_mut(), mode, g);
        Ok(())
    })
}

fn wgrad(x: &Tensor, dy: &Tensor, dw: &mut Tensor, mode: GradMode, g: &Geometry) -> Result<()> {
    if x.gpu().is_some() {
        return gpu::wgrad(x, dy, dw, mode, g);
    }
    crate::for_real!(OP, x.dtype(), T => {
        cpu::wgrad::<T>(x.host(), dy.host(), dw.host_mut(), mode, g);
        Ok(())
    })
}

struct DepthwiseOp {
    x: Option<Tensor>,
    w: Option<Tensor>,
    w_shape: Shape,
    g: Geometry,
}

impl Op for DepthwiseOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let g = &self.g;
        if let Some(w) = &self.w {
            let (mut dx, mode) = cx.target(0, [g.n, g.h, g.w, g.c], dy.dtype())?;
            dgrad(&dy, w, &mut dx, mode, g)?;
        }
        if let Some(x) = &self.x {
            let (mut dw, mode) = cx.target(1, self.w_shape, dy.dtype())?;
            wgrad(x, &dy, &mut dw, mode, g)?;
        }
        if cx.needs(2) {
            let (mut db, mode) = cx.target(2, [g.c], dy.dtype())?;
            bias_grad(&dy, &mut db, mode)?;
        }
        Ok(())
    }
}
