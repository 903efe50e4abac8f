//! On the GPU: `kernels/conv_stats.cu`.

use super::Made;
use crate::Result;
use crate::device::Launch;
use crate::ops::conv2d::{self, Conv2dParams, Convolution, Geometry, StageKernels};
use crate::tensor::Tensor;

const THREADS: u32 = 256;
/// Columns of the narrowest block.
const NARROWEST: usize = 16;

/// One thread per eight elements of a row, which share a byte of the mask.
fn launch(kernel: &'static str, rows: usize, row: usize) -> Launch {
    Launch::over(kernel, rows * row.div_ceil(8), THREADS)
}

fn address(t: Option<&Tensor>) -> u64 {
    t.map_or(0, Tensor::address)
}

/// Mirrors `ConvStats` in `kernels/include/stats_output.cuh`. Absent tensors are null.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    bias: u64,
    residual: u64,
    y: u64,
    u: u64,
    mask: u64,
    partial: u64,
    mean: u64,
    var: u64,
    arrivals: u64,
    k: i32,
    /// Residual, relu, mask, y, u, partial; from the lowest bit.
    flags: i32,
}

macro_rules! kernels {
    ($math:literal) => {
        [
            concat!("conv_stats_fprop_", $math, "_n16"),
            concat!("conv_stats_fprop_", $math, "_n32"),
            concat!("conv_stats_fprop_", $math, "_n64"),
            concat!("conv_stats_fprop_", $math, "_any"),
        ]
    };
}
const KERNELS: Convolution = Convolution {
    general: [kernels!("f32"), kernels!("tf32"), kernels!("bf16")],
    halo: [
        "conv_stats_fprop_tf32_halo16",
        "conv_stats_fprop_tf32_halo32",
        "conv_stats_fprop_bf16_halo16",
        "conv_stats_fprop_bf16_halo32",
    ],
    // Three stages of 64 columns leave room for the sums of their statistics.
    stages: StageKernels {
        names: [
            Some("conv_stats_fprop_tf32_stages64"),
            Some("conv_stats_fprop_tf32_stages128"),
            Some("conv_stats_fprop_bf16_stages128"),
        ],
        narrow: 3,
    },
};

/// Whether one kernel convolves and does all that follows. Channels in eights: then a byte of the mask is one group of columns of
/// a product, and four values of a row are read at once if the residual is aligned.
pub(super) fn fused(g: &Geometry, residual: Option<&Tensor>) -> bool {
    g.k.is_multiple_of(8) && residual.is_none_or(|r| r.address().is_multiple_of(16))
}

/// All of the layer, where it is [`fused`]; mean and variance take a workspace of three values per channel and row of blocks.
pub(super) fn convolve(
    [x, w, bias]: [&Tensor; 3],
    residual: Option<&Tensor>,
    relu: bool,
    p: Conv2dParams,
    made: &mut Made,
) -> Result<()> {
    let gpu = x.gpu().expect("a GPU tensor");
    let k = w.dim(0);
    let follows = relu || residual.is_some();
    // Without a tensor of its own `u` takes the place of `y`, which nobody wants then.
    let u = follows.then(|| made.u.as_ref().unwrap_or(&made.y));
    let y = (!follows || made.u.is_some()).then_some(&made.y);
    let mut partial = None;
    conv2d::convolve(&KERNELS, [x, w], p, |launch, blocks| {
        if made.stats.is_some() {
            partial = Some(Tensor::empty_like(x, [3, blocks, k])?);
        }
        let arrivals = gpu.arrivals(k.div_ceil(NARROWEST))?;
        let mask = made.mask.as_ref();
        let (mean, var) = made.stats.as_ref().map_or((None, None), |[mean, var]| (Some(mean), Some(var)));
        let set = [residual.is_some(), relu, mask.is_some(), y.is_some(), u.is_some(), partial.is_some()];
        let then = Params {
            bias: bias.address(),
            residual: address(residual),
            y: address(y),
            u: address(u),
            mask: address(mask),
            partial: address(partial.as_ref()),
            mean: address(mean),
            var: address(var),
            arrivals,
            k: k as i32,
            flags: set.iter().rev().fold(0, |flags, set| flags << 1 | i32::from(*set)),
        };
        Ok(launch.val(then).behind(&[then.bias, then.residual, then.y, then.u, then.mask, then.partial]))
    })?;
    Ok(())
}

/// Residual sum and ReLU of `made.y`.
pub(super) fn forward(residual: Option<&Tensor>, relu: bool, [rows, row]: [usize; 2], made: &Made) -> Result<()> {
    launch("conv_stats_fwd_f32", rows, row)
        .ptr(made.y.address())
        .ptr(address(residual))
        .ptr(made.u.as_ref().unwrap_or(&made.y).address())
        .ptr(address(made.mask.as_ref()))
        .val(rows as i32)
        .val(row as i32)
        .val(i32::from(relu))
        .run(made.y.gpu().expect("a GPU tensor"))
}

/// The gradient of `y`; that of the residual is written if it has a place. `stats`: `y`, its mean, and the gradients of mean
/// and variance.
pub(super) fn backward(
    du: &Tensor,
    mask: Option<&Tensor>,
    stats: Option<(&Tensor, &[Tensor; 3])>,
    dresidual: Option<&Tensor>,
    [row, k]: [usize; 2],
) -> Result<Tensor> {
    let dy = Tensor::empty_like(du, du.shape())?;
    let rows = du.len() / row;
    let [mean, dmean, dvar] = stats.map_or([0; 3], |(_, s)| s.each_ref().map(Tensor::address));
    launch("conv_stats_bwd_f32", rows, row)
        .ptr(du.address())
        .ptr(address(mask))
        .ptr(address(stats.map(|(y, _)| y)))
        .ptr(mean)
        .ptr(dmean)
        .ptr(dvar)
        .ptr(dy.address())
        .ptr(address(dresidual))
        .val(rows as i32)
        .val(row as i32)
        .val(k as i32)
        .val(k as f32 / du.len() as f32)
        .run(du.gpu().expect("a GPU tensor"))?;
    Ok(dy)
}
