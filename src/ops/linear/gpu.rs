//! Launches of the matrix products in `kernels/linear.cu`.

use crate::Result;
use crate::device::Launch;
use crate::tensor::Tensor;

/// `out[m, n] = sum over l < k`; mirrors `Product` in `kernels/linear.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Product {
    m: i32,
    n: i32,
    k: i32,
    /// Terms per slice of the sum; slices go to blocks of their own, and are then added in order.
    depth: i32,
    slices: i32,
}

const TILE: usize = 32;
/// Enough blocks for every multiprocessor of a large GPU.
const BLOCKS: usize = 256;

pub(super) fn forward(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut Tensor) -> Result<()> {
    product("linear_fwd_f32", x, w, bias, y, x.dim(1))
}

pub(super) fn backward_x(dy: &Tensor, w: &Tensor, dx: &mut Tensor) -> Result<()> {
    product("linear_bwd_dx_f32", dy, w, None, dx, dy.dim(1))
}

pub(super) fn backward_w(dy: &Tensor, x: &Tensor, dw: &mut Tensor) -> Result<()> {
    product("linear_bwd_dw_f32", dy, x, None, dw, dy.dim(0))
}

fn product(
    kernel: &'static str,
    a: &Tensor,
    b: &Tensor,
    bias: Option<&Tensor>,
    out: &mut Tensor,
    k: usize,
) -> Result<()> {
    let gpu = a.gpu().expect("called for GPU tensors");
    let (m, n) = (out.dim(0), out.dim(1));
    let (down, across) = (m.div_ceil(TILE), n.div_ceil(TILE));
    // At least 128 terms per slice.
    let wanted = (BLOCKS / (down * across).max(1)).clamp(1, k.div_ceil(128).max(1));
    let depth = k.div_ceil(wanted).next_multiple_of(TILE);
    let slices = k.div_ceil(depth).max(1);
    let p = Product { m: m as i32, n: n as i32, k: k as i32, depth: depth as i32, slices: slices as i32 };
    let bias = bias.map_or(0, Tensor::address);
    let partial = if slices > 1 { Some(Tensor::empty_like(out, [slices, m, n])?) } else { None };
    Launch::new(kernel)
        .grid([across as u32, down as u32, slices as u32])
        .block([256, 1, 1])
        .ptr(a.address())
        .ptr(b.address())
        .ptr(if partial.is_some() { 0 } else { bias })
        .ptr(partial.as_ref().unwrap_or(out).address())
        .val(p)
        .flops(2.0 * (m * n * k) as f64)
        .run(gpu)?;
    let Some(partial) = partial else { return Ok(()) };
    Launch::over("linear_slices_f32", out.len(), 256)
        .ptr(partial.address())
        .ptr(bias)
        .ptr(out.address())
        .val(p)
        .run(gpu)
}

pub(super) fn backward_bias(dy: &Tensor, db: &mut Tensor) -> Result<()> {
    Launch::over("linear_bwd_db_f32", db.len(), 128)
        .ptr(dy.address())
        .ptr(db.address())
        .val(dy.dim(0) as i32)
        .val(dy.dim(1) as i32)
        .run(dy.gpu().expect("called for GPU tensors"))
}
