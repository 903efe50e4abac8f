//! On the GPU: `kernels/conv_stats.cu`.

use super::Made;
use crate::Result;
use crate::device::Launch;
use crate::tensor::Tensor;

const THREADS: u32 = 256;

/// One thread per eight elements of a row, which share a byte of the mask.
fn launch(kernel: &'static str, rows: usize, row: usize) -> Launch {
    Launch::over(kernel, rows * row.div_ceil(8), THREADS)
}

fn address(t: Option<&Tensor>) -> u64 {
    t.map_or(0, Tensor::address)
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
