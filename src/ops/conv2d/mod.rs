//! 2-D convolution (cross-correlation), NHWC with KRSC filters, zero padding:
//!
//! `y[n,p,q,k] = bias[k] + sum_{r,s,c} x[n, p*stride + r*dilation - pad, q*stride + s*dilation - pad, c] * w[k,r,s,c]`
//!
//! Stride, padding and dilation have one value per axis, padding one per side.
//! `dx` is the transposed sum, `dw` the sum over `n,p,q` of `dy * x`, `dbias` the sum of `dy`.
//!
//! `plain.rs` is the definition, generic over f32 and f64 (the oracle). `cpu*.rs` is the f32 CPU path for dilation 1:
//! direct convolution, blocked for registers, no im2col buffer of the batch; tiles with fewer products for 3x3 filters of
//! many channels, and for those behind an upsampling. `gpu.rs` launches `kernels/conv2d_*.cu`.

mod cases;
mod cpu;
mod cpu_kernel;
mod filter_grad;
mod gpu;
mod grad_finish;
mod halo;
mod launch;
mod params;
mod plain;
mod rule;
mod slices;
mod stages;

pub use cases::cases;
pub(crate) use cases::windows;
pub(crate) use filter_grad::{Parts, Source, bias_parts, layer_parts};
pub(crate) use gpu::{Convolution, convolve, convolve_any, convolve_many};
pub(crate) use launch::Shape as KernelShape;
pub use params::{Conv2dParams, Geometry, Math};
pub(crate) use slices::Convolve;
pub(crate) use stages::StageKernels;

use crate::Result;
use crate::autograd::{Backward, GradMode, Tape, Var};
use crate::quant::Affine;
use crate::tensor::{DType, Shape, Tensor};
use rule::{Conv2d, UpsampleConv2d};

/// Convolution of `x[n h w c]` with filters `w[k r s c]`, plus `bias[k]`: `y[n p q k]`,
/// `p = (h + top + bottom - dilation (r - 1) - 1) / stride + 1` rounded down, `q` likewise from `w`, `s`, left and right.
///
/// F32 (F64 on the CPU), all on one device. Gradients flow to `x`, `w` and `bias`. On the CPU `p.math` is ignored.
/// Errors on ranks, channels or bias length that do not match, zero stride or dilation, or a filter larger than the
/// padded input.
pub fn conv2d(tape: &mut Tape, x: &Var, w: &Var, bias: Option<&Var>, p: Conv2dParams) -> Result<Var> {
    let g = Geometry::new("conv2d", x.shape(), w.shape(), p)?;
    check("conv2d", x, w, bias)?;
    let mut y = Tensor::empty_like(&x.value, [g.n, g.p, g.q, g.k])?;
    fprop(&x.value, &w.value, bias.map(|b| &b.value), &mut y, p)?;
    Ok(record(tape, x, w, bias, y, p))
}

/// Records `y`, however it was computed, as the convolution of `x` with `w`.
pub(crate) fn record(tape: &mut Tape, x: &Var, w: &Var, bias: Option<&Var>, y: Tensor, p: Conv2dParams) -> Var {
    let op = Conv2d { x: rule::saved(x, w), w: rule::saved(w, x), x_shape: x.shape(), w_shape: w.shape(), p };
    match bias {
        Some(b) => tape.record_one(op, &[x, w, b], y),
        None => tape.record_one(op, &[x, w], y),
    }
}

/// Nearest-neighbour upsampling by 2 followed by a 3x3 convolution with padding 1, without the upsampled tensor: on a GPU as
/// four 2x2 convolutions of the small input, one per output parity, 16 products per input pixel and channel pair instead
/// of 36; on the CPU in nine (`cpu/upsample.rs`).
///
/// `x[n h w c]`, `w[k 3 3 c]`, `bias[k]` to `y[n 2h 2w k]`. Output row `2i + a` reads input rows `i + a - 1` and `i + a`;
/// its two filter rows are `{w0, w1 + w2}` for `a = 0` and `{w0 + w1, w2}` for `a = 1`; columns likewise. Equal to
/// upsampling and convolving up to rounding (the F64 CPU path does just that).
///
/// F32 (F64 on the CPU). Errors as [`conv2d`], and if the filter is not 3x3. Derivation: ours (sub-pixel view of the
/// resize convolution of Odena et al. 2016).
pub fn upsample_conv2d(tape: &mut Tape, x: &Var, w: &Var, bias: Option<&Var>) -> Result<Var> {
    upsample_conv2d_in(tape, x, w, bias, Math::F32)
}

/// [`upsample_conv2d`] in the given GPU arithmetic (the CPU ignores it). Sums of taps are rounded once, after summing.
pub fn upsample_conv2d_in(tape: &mut Tape, x: &Var, w: &Var, bias: Option<&Var>, math: Math) -> Result<Var> {
    let g = Geometry::new("upsample_conv2d", x.shape(), w.shape(), Conv2dParams::new(1, 1))?;
    crate::ensure_op!(g.r == 3 && g.s == 3, "upsample_conv2d", "expected a 3x3 filter, got {}", w.shape());
    check("upsample_conv2d", x, w, bias)?;
    let mut y = Tensor::empty_like(&x.value, [g.n, 2 * g.h, 2 * g.w, g.k])?;
    upsample_fprop(&x.value, &w.value, bias.map(|b| &b.value), &mut y, math)?;
    let op =
        UpsampleConv2d { x: rule::saved(x, w), w: rule::saved(w, x), x_shape: x.shape(), w_shape: w.shape(), math };
    Ok(match bias {
        Some(b) => tape.record_one(op, &[x, w, b], y),
        None => tape.record_one(op, &[x, w], y),
    })
}

fn check(op: &'static str, x: &Var, w: &Var, bias: Option<&Var>) -> Result<()> {
    let k = w.shape()[0];
    for v in [Some(w), bias].into_iter().flatten() {
        crate::ensure_op!(v.dtype() == x.dtype(), op, "input is {:?}, filter or bias is {:?}", x.dtype(), v.dtype());
        crate::ensure_op!(
            v.value.device() == x.value.device(),
            op,
            "input and filter or bias lie on different devices"
        );
    }
    let real = x.dtype() == DType::F32 || (x.dtype() == DType::F64 && x.value.gpu().is_none());
    crate::ensure_op!(real, op, "dtype {:?} is not supported; use F32", x.dtype());
    if let Some(b) = bias {
        crate::ensure_op!(b.shape()[..] == [k], op, "bias has shape {}, expected [{k}]", b.shape());
    }
    Ok(())
}

/// Whether the blocked f32 path takes this convolution.
pub(crate) fn blocked(x: &Tensor, p: Conv2dParams) -> bool {
    x.dtype() == DType::F32 && p.dilation == [1; 2]
}

/// Writes `y[n p q k]`. Shapes already checked, here and below.
pub(crate) fn fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut Tensor, p: Conv2dParams) -> Result<()> {
    let g = Geometry::new("conv2d", x.shape(), w.shape(), p)?;
    if x.gpu().is_some() {
        gpu::fprop(x, w, bias, y, p)
    } else if blocked(x, p) {
        cpu::fprop(x.host(), w.host(), bias.map(Tensor::host), y.host_mut(), &g);
        Ok(())
    } else {
        crate::for_real!("conv2d", x.dtype(), T => {
            plain::fprop::<T>(x.host(), w.host(), bias.map(Tensor::host), y.host_mut(), &g);
            Ok(())
        })
    }
}

/// [`fprop`] on the CPU where [`blocked`]: `finish(y, out)` is handed some output rows while they are in the cache, with what
/// `out` has for each of them (one per row of all images), and its results come back in order.
pub(crate) fn fprop_rows<O: Send, R: Send>(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    y: &mut Tensor,
    p: Conv2dParams,
    out: Vec<O>,
    finish: impl Fn(&mut [f32], &mut [O]) -> R + Sync,
) -> Result<Vec<R>> {
    let g = Geometry::new("conv2d", x.shape(), w.shape(), p)?;
    Ok(cpu::fprop_rows(x.host(), w.host(), bias.map(Tensor::host), y.host_mut(), &g, out, finish))
}

/// [`dgrad`] on a GPU, into the gradient of input 0 of the op whose backward pass `cx` is; what that input's op would do with it
/// is done on the way, where channels come in eights.
pub(crate) fn dgrad_finishing(cx: &mut Backward, dy: &Tensor, w: &Tensor, x: Shape, p: Conv2dParams) -> Result<()> {
    let finishing = if x[3].is_multiple_of(8) { cx.finishing(0)? } else { None };
    let (mut dx, mode) = cx.target(0, x, dy.dtype())?;
    Geometry::new("conv2d", x, w.shape(), p)?;
    gpu::dgrad(dy, w, &mut dx, mode, p, finishing.as_ref())
}

/// Input gradient into `dx[n h w c]`.
pub(crate) fn dgrad(dy: &Tensor, w: &Tensor, dx: &mut Tensor, mode: GradMode, p: Conv2dParams) -> Result<()> {
    let g = Geometry::new("conv2d", dx.shape(), w.shape(), p)?;
    if dy.gpu().is_some() {
        gpu::dgrad(dy, w, dx, mode, p, None)
    } else if blocked(dy, p) {
        cpu::dgrad(dy.host(), w.host(), dx.host_mut(), mode, &g);
        Ok(())
    } else {
        crate::for_real!("conv2d", dy.dtype(), T => {
            plain::dgrad::<T>(dy.host(), w.host(), dx.host_mut(), mode, &g);
            Ok(())
        })
    }
}

/// Filter gradient into `dw[k r s c]`.
pub(crate) fn wgrad(x: &Tensor, dy: &Tensor, dw: &mut Tensor, mode: GradMode, p: Conv2dParams) -> Result<()> {
    let g = Geometry::new("conv2d", x.shape(), dw.shape(), p)?;
    if x.gpu().is_some() {
        filter_grad::wgrad(x, dy, dw, mode, p)
    } else if blocked(x, p) {
        cpu::wgrad(x.host(), dy.host(), dw.host_mut(), mode, &g);
        Ok(())
    } else {
        crate::for_real!("conv2d", x.dtype(), T => {
            plain::wgrad::<T>(x.host(), dy.host(), dw.host_mut(), mode, &g);
            Ok(())
        })
    }
}

/// Filter gradient of the values that I8 codes `x` of the range `a` stand for, on the CPU in f32; false where no path reads
/// codes (dilated filters).
pub(crate) fn wgrad_codes(
    x: &Tensor,
    a: &Affine<f32>,
    dy: &Tensor,
    dw: &mut Tensor,
    mode: GradMode,
    p: Conv2dParams,
) -> Result<bool> {
    let g = Geometry::new("conv2d", x.shape(), dw.shape(), p)?;
    let takes = dy.gpu().is_none() && blocked(dy, p);
    if takes {
        cpu::wgrad_codes(x.host(), a, dy.host(), dw.host_mut(), mode, &g);
    }
    Ok(takes)
}

/// Bias gradient into `db[k]`: the sum of `dy` over all but the last dimension.
pub(crate) fn bias_grad(dy: &Tensor, db: &mut Tensor, mode: GradMode) -> Result<()> {
    if dy.gpu().is_some() {
        return filter_grad::bias_grad(dy, db, mode);
    }
    crate::for_real!("conv2d", dy.dtype(), T => {
        plain::bias_grad::<T>(dy.host(), db.host_mut(), mode);
        Ok(())
    })
}

/// Writes `y[n 2h 2w k]`.
fn upsample_fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut Tensor, math: Math) -> Result<()> {
    let g = Geometry::new("upsample_conv2d", x.shape(), w.shape(), Conv2dParams::new(1, 1))?;
    if x.gpu().is_some() {
        gpu::upsample_fprop(x, w, bias, y, math)
    } else if x.dtype() == DType::F32 {
        cpu::upsample_fprop(x.host(), w.host(), bias.map(Tensor::host), y.host_mut(), &g);
        Ok(())
    } else {
        plain::upsample_fprop::<f64>(x.host(), w.host(), bias.map(Tensor::host), y.host_mut(), &g);
        Ok(())
    }
}

/// Gradient of the small input into `dx[n h w c]`.
fn upsample_dgrad(dy: &Tensor, w: &Tensor, dx: &mut Tensor, mode: GradMode, math: Math) -> Result<()> {
    let g = Geometry::new("upsample_conv2d", dx.shape(), w.shape(), Conv2dParams::new(1, 1))?;
    if dy.gpu().is_some() {
        gpu::upsample_dgrad(dy, w, dx, mode, math)
    } else if dy.dtype() == DType::F32 {
        cpu::upsample_dgrad(dy.host(), w.host(), dx.host_mut(), mode, &g);
        Ok(())
    } else {
        plain::upsample_dgrad::<f64>(dy.host(), w.host(), dx.host_mut(), mode, &g);
        Ok(())
    }
}

/// Gradient of the 3x3 filter into `dw[k 3 3 c]`.
fn upsample_wgrad(x: &Tensor, dy: &Tensor, dw: &mut Tensor, mode: GradMode, math: Math) -> Result<()> {
    let g = Geometry::new("upsample_conv2d", x.shape(), dw.shape(), Conv2dParams::new(1, 1))?;
    if x.gpu().is_some() {
        gpu::upsample_wgrad(x, dy, dw, mode, math)
    } else if x.dtype() == DType::F32 {
        cpu::upsample_wgrad(x.host(), dy.host(), dw.host_mut(), mode, &g);
        Ok(())
    } else {
        plain::upsample_wgrad::<f64>(x.host(), dy.host(), dw.host_mut(), mode, &g);
        Ok(())
    }
}
