//! On the GPU: `kernels/conv_block.cu`.

use super::{Content, Made, Then};
use crate::Result;
use crate::device::Launch;
use crate::ops::batch_norm::Stored;
use crate::ops::conv2d::Geometry;
use crate::ops::fake_quant::Ste;
use crate::tensor::Tensor;

const THREADS: u32 = 256;

/// Mirrors `ConvBlock` in `kernels/conv_block.cu`. Absent tensors are null.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    mean: u64,
    var: u64,
    gamma: u64,
    beta: u64,
    /// F32, or I8 where `residual_lo` is there.
    residual: u64,
    residual_lo: u64,
    residual_hi: u64,
    lo: u64,
    hi: u64,
    rows: i32,
    /// Elements of a row, and channels.
    row: i32,
    k: i32,
    bits: i32,
    residual_bits: i32,
    relu: i32,
    clip: i32,
    eps: f32,
}

/// One thread per eight elements of a row, which share a byte of the mask.
fn launch(kernel: &'static str, rows: usize, row: usize) -> Launch {
    Launch::over(kernel, rows * row.div_ceil(8), THREADS)
}

/// From the convolution's output `z`.
pub(super) fn forward(
    z: &Tensor,
    norm: Stored,
    residual: Option<Content>,
    then: &Then,
    g: &Geometry,
    made: &Made,
) -> Result<()> {
    let address = |t: Option<&Tensor>| t.map_or(0, Tensor::address);
    let (values, ranged) = match residual {
        None => (0, None),
        Some(Content::Values(t)) => (t.address(), None),
        Some(Content::Codes(q)) => (q.values.address(), Some(q)),
    };
    let p = Params {
        mean: norm.mean.address(),
        var: norm.var.address(),
        gamma: address(norm.gamma),
        beta: address(norm.beta),
        residual: values,
        residual_lo: ranged.map_or(0, |q| q.lo.address()),
        residual_hi: ranged.map_or(0, |q| q.hi.address()),
        lo: then.lo.value.address(),
        hi: then.hi.value.address(),
        rows: (g.n * g.p) as i32,
        row: (g.q * g.k) as i32,
        k: g.k as i32,
        bits: then.bits.into(),
        residual_bits: ranged.map_or(0, |q| q.bits.into()),
        relu: then.relu.into(),
        clip: (then.ste == Ste::Clipped).into(),
        eps: norm.eps,
    };
    launch("conv_block_fwd_f32", g.n * g.p, g.q * g.k)
        .ptr(z.address())
        .val(p)
        .ptr(made.codes.address())
        .ptr(address(made.mask.as_ref()))
        .ptr(address(made.values.as_ref()))
        .run(z.gpu().expect("a GPU tensor"))
}

/// `dy` where the mask's bits are set, else zero.
pub(super) fn masked(dy: &Tensor, mask: &Tensor, row: usize) -> Result<Tensor> {
    let dv = Tensor::empty_like(dy, dy.shape())?;
    let rows = dy.len() / row;
    launch("conv_block_bwd_f32", rows, row)
        .ptr(dy.address())
        .ptr(mask.address())
        .ptr(dv.address())
        .val(rows as i32)
        .val(row as i32)
        .run(dy.gpu().expect("a GPU tensor"))?;
    Ok(dv)
}
