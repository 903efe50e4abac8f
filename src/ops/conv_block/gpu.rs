//! On the GPU: `kernels/conv_block.cu`.

use super::{Content, Made, Then};
use crate::Result;
use crate::device::Launch;
use crate::ops::batch_norm::Stored;
use crate::ops::conv2d::{self, Conv2dParams, Geometry, StageKernels};
use crate::ops::conv2d_int;
use crate::ops::fake_quant::{Codes, Ste};
use crate::tensor::Tensor;

const THREADS: u32 = 256;

/// Mirrors `ConvBlock` in `kernels/include/block_step.cuh`. Absent tensors are null.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
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
    codes: u64,
    mask: u64,
    values: u64,
    rows: i32,
    /// Elements of a row, and channels.
    row: i32,
    k: i32,
    bits: i32,
    residual_bits: i32,
    /// Relu, clip, residual, residual of codes, mask, values; from the lowest bit.
    flags: i32,
    eps: f32,
    padding: i32,
}

impl Params {
    /// What follows a convolution of sizes `g`, and where it goes.
    pub fn new(norm: Stored, residual: Option<Content>, then: &Then, g: &Geometry, made: &Made) -> Self {
        let address = |t: Option<&Tensor>| t.map_or(0, Tensor::address);
        let (values, ranged) = match residual {
            None => (0, None),
            Some(Content::Values(t)) => (t.address(), None),
            Some(Content::Codes(q)) => (q.values.address(), Some(q)),
        };
        let flags = [
            then.relu,
            then.ste == Ste::Clipped,
            residual.is_some(),
            ranged.is_some(),
            made.mask.is_some(),
            made.values.is_some(),
        ];
        Self {
            mean: norm.mean.address(),
            var: norm.var.address(),
            gamma: address(norm.gamma),
            beta: address(norm.beta),
            residual: values,
            residual_lo: ranged.map_or(0, |q| q.lo.address()),
            residual_hi: ranged.map_or(0, |q| q.hi.address()),
            lo: then.lo.value.address(),
            hi: then.hi.value.address(),
            codes: made.codes.address(),
            mask: address(made.mask.as_ref()),
            values: address(made.values.as_ref()),
            rows: (g.n * g.p) as i32,
            row: (g.q * g.k) as i32,
            k: g.k as i32,
            bits: then.bits.into(),
            residual_bits: ranged.map_or(0, |q| q.bits.into()),
            flags: flags.iter().rev().fold(0, |flags, set| flags << 1 | i32::from(*set)),
            eps: norm.eps,
            padding: 0,
        }
    }

    /// The launch with these as its last argument.
    fn given_to(self, launch: Launch) -> Launch {
        let vectors = [self.mean, self.var, self.gamma, self.beta];
        launch.val(self).behind(&vectors).behind(&[self.residual, self.codes, self.mask, self.values])
    }
}

/// The layer with its convolution of codes.
const INTEGER: conv2d_int::Kernels = conv2d_int::Kernels {
    tiles: [
        "conv_block_fprop_int_n16",
        "conv_block_fprop_int_n32",
        "conv_block_fprop_int_n64",
        "conv_block_fprop_int_c4",
        "conv_block_fprop_int_any",
    ],
    wgmma: ["conv_block_fprop_int_wgmma64", "conv_block_fprop_int_wgmma128"],
};

/// The layer with its convolution of values, in f32, TF32 and BF16.
const IMAGES: [&str; 3] = ["conv_block_fprop_f32_any", "conv_block_fprop_tf32_any", "conv_block_fprop_bf16_any"];

/// The same of many channels.
const MANY: StageKernels = StageKernels { names: [Some("conv_block_fprop_tf32_stages64"), None, None], narrow: 4 };

/// Whether one kernel convolves and does all that follows. Channels in eights: then a byte of the mask is one group of columns of
/// a product, and so are eight codes.
pub(super) fn fused(g: &Geometry) -> bool {
    g.k.is_multiple_of(8)
}

/// One thread per eight elements of a row, which share a byte of the mask.
fn launch(kernel: &'static str, rows: usize, row: usize) -> Launch {
    Launch::over(kernel, rows * row.div_ceil(8), THREADS)
}

/// From codes, where the shape is [`fused`].
pub(super) fn convolve(operands: [&Codes; 2], bias: Option<&Tensor>, g: &Geometry, then: Params) -> Result<()> {
    conv2d_int::convolve(&INTEGER, operands, bias, g, |launch| then.given_to(launch))
}

/// From values, where one kernel does it: of images, whose channels do not come in fours, and of many channels. Whether it did.
pub(super) fn convolve_values(
    operands: [&Tensor; 2],
    bias: Option<&Tensor>,
    g: &Geometry,
    p: Conv2dParams,
    then: Params,
) -> Result<bool> {
    let to = |launch: Launch, _| Ok(then.given_to(launch.ptr(bias.map_or(0, Tensor::address))));
    if !fused(g) {
        return Ok(false);
    }
    if g.c.is_multiple_of(4) {
        return conv2d::convolve_many(&MANY, operands, p, to);
    }
    conv2d::convolve_any(&IMAGES, operands, p, to).map(|()| true)
}

/// From the convolution's output `z`.
pub(super) fn forward(z: &Tensor, then: Params) -> Result<()> {
    let launch = launch("conv_block_fwd_f32", then.rows as usize, then.row as usize).ptr(z.address());
    then.given_to(launch).run(z.gpu().expect("a GPU tensor"))
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
