//! Grouped 2-D convolution, NHWC, zero padding: input and output channels fall into as many groups, and an output channel
//! sees the input channels of its own group alone. With `j = k / (k_total / groups)`, the group of output channel `k`:
//!
//! ```text
//! y[n,p,q,k] = bias[k] + sum over r,s,i of x[n, p*stride + r*dilation - pad, q*stride + s*dilation - pad, j*c/groups + i] * w[k,r,s,i]
//! ```
//!
//! `dx` is the transposed sum, `dw` the sum over `n,p,q` of `dy * x`, `dbias` the sum of `dy`. The filter has the shape
//! `[k r s c/groups]` that the importer makes of PyTorch's `[k c/groups r s]`. Used by AlexNet (Krizhevsky et al. 2012),
//! ResNeXt (Xie et al. 2017) and RegNet (Radosavovic et al. 2020). One group is [`super::conv2d`], and a group for each input
//! channel is a depthwise convolution, with several filters per channel where `k > c`.
//!
//! On the CPU wide groups are convolutions of their own (`split.rs`; in f64 all are, which is the oracle), narrow and dilated
//! ones share vectors (`gather.rs`, `narrow.rs`). `gpu.rs` launches `kernels/conv2d_grouped.cu`.

mod cases;
mod gather;
mod gpu;
mod narrow;
mod split;

pub use cases::cases;
pub(crate) use gather::{Gather, Lanes, Number};
pub(crate) use gpu::Sizes;
pub(crate) use split::{apart, together};

use super::conv2d::{Conv2dParams, Geometry, bias_grad};
use crate::Result;
use crate::autograd::{Backward, GradMode, Op, Tape, Var};
use crate::tensor::{DType, Shape, Tensor};

const OP: &str = "conv2d_grouped";

/// Sizes of a grouped convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Sizes of one group's convolution.
    pub each: Geometry,
    /// Number of groups.
    pub count: usize,
}

impl Groups {
    /// Returns the sizes for input `[n h w c]` and filter `[k r s c/groups]`. Errors if `groups` does not divide `c` and `k`,
    /// the filter's channels are not `c / groups`, and as [`Geometry::new`].
    pub fn new(op: &'static str, x: Shape, w: Shape, groups: usize, p: Conv2dParams) -> Result<Self> {
        let [n, h, width, c] = x.nhwc(op)?;
        crate::ensure_op!(
            w.len() == 4 && groups > 0 && c.is_multiple_of(groups) && w[0].is_multiple_of(groups),
            op,
            "{groups} groups: input {x} and filter {w} need channels, and filters (k r s c), in so many groups"
        );
        crate::ensure_op!(
            w[3] == c / groups,
            op,
            "input {x} in {groups} groups needs a filter (k r s {}), got {w}",
            c / groups
        );
        let (x, w) = ([n, h, width, c / groups], [w[0] / groups, w[1], w[2], w[3]]);
        Ok(Self { each: Geometry::new(op, x.into(), w.into(), p)?, count: groups })
    }

    /// Returns the number of input channels.
    pub fn c(&self) -> usize {
        self.count * self.each.c
    }
    /// Returns the number of output channels.
    pub fn k(&self) -> usize {
        self.count * self.each.k
    }
    /// Returns the input's shape.
    pub fn x(&self) -> [usize; 4] {
        [self.each.n, self.each.h, self.each.w, self.c()]
    }
    /// Returns the filter's shape.
    pub fn w(&self) -> [usize; 4] {
        [self.k(), self.each.r, self.each.s, self.each.c]
    }
    /// Returns the output's shape.
    pub fn y(&self) -> [usize; 4] {
        [self.each.n, self.each.p, self.each.q, self.k()]
    }
    /// Returns multiplications and additions of the forward pass.
    pub fn flops(&self) -> f64 {
        self.count as f64 * self.each.flops()
    }
    /// Whether groups are too narrow for a convolution each, or dilated, which the blocked convolutions are not.
    pub(crate) fn narrow(&self) -> bool {
        self.each.c.min(self.each.k) < 8 || self.each.dilation != [1; 2]
    }
}

/// Convolves the channels of `x[n h w c]` in `groups` with `w[k r s c/groups]`, plus `bias[k]`: `y[n p q k]`,
/// `p = (h + top + bottom - dilation (r - 1) - 1) / stride + 1` rounded down, `q` likewise from `w`, `s`, left and right.
///
/// F32 (F64 on the CPU), all on one device. Gradients flow to `x`, `w` and `bias`; `x` is saved where `w` needs one, and
/// the other way round. `p.math` is ignored: all is computed in F32. Errors on groups that do not divide the channels of
/// input and output, ranks, channels or bias length that do not match, zero stride or dilation, or a filter larger than the
/// padded input. Source: PyTorch's `conv2d` with `groups`.
pub fn conv2d_grouped(
    tape: &mut Tape,
    x: &Var,
    w: &Var,
    bias: Option<&Var>,
    groups: usize,
    p: Conv2dParams,
) -> Result<Var> {
    let g = Groups::new(OP, x.shape(), w.shape(), groups, p)?;
    for v in [Some(w), bias].into_iter().flatten() {
        crate::ensure_op!(
            v.dtype() == x.dtype() && v.value.device() == x.value.device(),
            OP,
            "input is {:?}, filter or bias is {:?}: expected one dtype on one device",
            x.value,
            v.value
        );
    }
    let real = x.dtype() == DType::F32 || (x.dtype() == DType::F64 && x.value.gpu().is_none());
    crate::ensure_op!(real, OP, "dtype {:?} is not supported; use F32", x.dtype());
    if let Some(b) = bias {
        crate::ensure_op!(b.shape()[..] == [g.k()], OP, "bias has shape {}, expected [{}]", b.shape(), g.k());
    }
    let mut y = Tensor::empty_like(&x.value, g.y())?;
    fprop(&x.value, &w.value, bias.map(|b| &b.value), &mut y, &g)?;
    Ok(record(tape, [x, w], bias, y, g))
}

/// Records `y` as the grouped convolution of `x` and `w` with `bias`.
pub(crate) fn record(tape: &mut Tape, [x, w]: [&Var; 2], bias: Option<&Var>, y: Tensor, g: Groups) -> Var {
    let saved = |value: &Var, other: &Var| other.needs_grad().then(|| value.value.clone());
    let op = GroupedOp { x: saved(x, w), w: saved(w, x), g };
    match bias {
        Some(b) => tape.record_one(op, &[x, w, b], y),
        None => tape.record_one(op, &[x, w], y),
    }
}

fn fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut Tensor, g: &Groups) -> Result<()> {
    if x.gpu().is_some() {
        return gpu::fprop(x, w, bias, y, g);
    }
    if x.dtype() == DType::F32 && g.narrow() {
        narrow::fprop(x.host(), w.host(), bias.map(Tensor::host), y.host_mut(), g);
        return Ok(());
    }
    crate::for_real!(OP, x.dtype(), T => {
        split::fprop::<T>(x.host(), w.host(), bias.map(Tensor::host), y.host_mut(), g);
        Ok(())
    })
}

fn dgrad(dy: &Tensor, w: &Tensor, dx: &mut Tensor, mode: GradMode, g: &Groups) -> Result<()> {
    if dy.gpu().is_some() {
        return gpu::dgrad(dy, w, dx, mode, g);
    }
    if dy.dtype() == DType::F32 && g.narrow() {
        narrow::dgrad(dy.host(), w.host(), dx.host_mut(), mode, g);
        return Ok(());
    }
    crate::for_real!(OP, dy.dtype(), T => {
        split::dgrad::<T>(dy.host(), w.host(), dx.host_mut(), mode, g);
        Ok(())
    })
}

fn wgrad(x: &Tensor, dy: &Tensor, dw: &mut Tensor, mode: GradMode, g: &Groups) -> Result<()> {
    if x.gpu().is_some() {
        return gpu::wgrad(x, dy, dw, mode, g);
    }
    if x.dtype() == DType::F32 && g.narrow() {
        narrow::wgrad(x.host(), dy.host(), dw.host_mut(), mode, g);
        return Ok(());
    }
    crate::for_real!(OP, x.dtype(), T => {
        split::wgrad::<T>(x.host(), dy.host(), dw.host_mut(), mode, g);
        Ok(())
    })
}

struct GroupedOp {
    x: Option<Tensor>,
    w: Option<Tensor>,
    g: Groups,
}

impl Op for GroupedOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let g = &self.g;
        if let Some(w) = &self.w {
            let (mut dx, mode) = cx.target(0, g.x(), dy.dtype())?;
            dgrad(&dy, w, &mut dx, mode, g)?;
        }
        if let Some(x) = &self.x {
            let (mut dw, mode) = cx.target(1, g.w(), dy.dtype())?;
            wgrad(x, &dy, &mut dw, mode, g)?;
        }
        if cx.needs(2) {
            let (mut db, mode) = cx.target(2, [g.k()], dy.dtype())?;
            bias_grad(&dy, &mut db, mode)?;
        }
        Ok(())
    }
}
