//! On the GPU: `kernels/fake_quant.cu`.

use super::{Codes, Layout};
use crate::Result;
use crate::device::Launch;
use crate::tensor::{DType, Tensor};

const THREADS: u32 = 256;
/// Elements that one block of a reduction takes.
const SPAN: usize = 4096;

/// Kernel parameters, mirrored in `kernels/fake_quant.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: i32,
    length: i32,
    bits: i32,
    /// Elements per thread: 4 where addresses and length allow 16-byte accesses, else 1.
    vector: i32,
    factor: f32,
    /// Whether x is a ReLU's output whose input's gradient is wanted.
    relu: i32,
}

fn params(layout: Layout, tensors: &[&Tensor]) -> Params {
    let aligned = layout.length.is_multiple_of(4) && tensors.iter().all(|t| t.address().is_multiple_of(16));
    let vector = if aligned { 4 } else { 1 };
    Params { rows: layout.rows as i32, length: layout.length as i32, bits: layout.bits.into(), vector, factor: 1.0, relu: 0 }
}

/// A grid of (pieces of a row, rows); rows beyond the grid are looped over.
fn grid(kernel: &'static str, layout: Layout, per_block: usize) -> Launch {
    let pieces = layout.length.div_ceil(per_block).max(1);
    Launch::new(kernel).grid([pieces as u32, layout.rows.clamp(1, 65_535) as u32, 1]).block([THREADS, 1, 1])
}

pub(super) fn forward(
    x: &Tensor,
    lo: &Tensor,
    hi: &Tensor,
    y: &mut Tensor,
    [mask, codes]: [Option<&Tensor>; 2],
    layout: Layout,
) -> Result<()> {
    let p = params(layout, &[x, y]);
    grid("fake_quant_fwd_f32", layout, THREADS as usize * p.vector as usize)
        .ptr(x.address())
        .ptr(lo.address())
        .ptr(hi.address())
        .ptr(y.address())
        .ptr(mask.map_or(0, Tensor::address))
        .ptr(codes.map_or(0, Tensor::address))
        .val(p)
        .run(x.gpu().expect("a GPU tensor"))
}

pub(super) fn codes(x: &Tensor, lo: &Tensor, hi: &Tensor, codes: &Tensor, layout: Layout) -> Result<()> {
    let p = params(layout, &[x]);
    grid("fake_quant_codes_f32", layout, THREADS as usize * p.vector as usize)
        .ptr(x.address())
        .ptr(lo.address())
        .ptr(hi.address())
        .ptr(codes.address())
        .val(p)
        .run(x.gpu().expect("a GPU tensor"))
}

pub(super) fn clipped(dy: &Tensor, mask: &Tensor, dx: &Tensor) -> Result<()> {
    Launch::over("fake_quant_clipped_bwd_f32", dy.len(), THREADS)
        .ptr(dy.address())
        .ptr(mask.address())
        .ptr(dx.address())
        .val(dy.len() as i32)
        .run(dy.gpu().expect("a GPU tensor"))
}

/// Values of codes with one range.
pub(super) fn values(codes: &Codes, y: &Tensor) -> Result<()> {
    Launch::over("fake_quant_values_f32", y.len(), THREADS)
        .ptr(codes.values.address())
        .ptr(codes.lo.address())
        .ptr(codes.hi.address())
        .ptr(y.address())
        .val(y.len() as i32)
        .val(i32::from(codes.bits))
        .run(y.gpu().expect("a GPU tensor"))
}

#[expect(clippy::too_many_arguments, reason = "three inputs and three gradients")]
pub(super) fn learned(
    x: &Tensor,
    [lo, hi]: [&Tensor; 2],
    dy: &Tensor,
    dx: Option<&Tensor>,
    [dlo, dhi]: [&Tensor; 2],
    layout: Layout,
    factor: f64,
    relu: bool,
) -> Result<()> {
    let gpu = x.gpu().expect("a GPU tensor");
    let pieces = layout.length.div_ceil(SPAN).max(1);
    let partial = Tensor::empty(&x.device(), [layout.rows * pieces * 2], DType::F32)?;
    let p = Params { factor: factor as f32, relu: relu.into(), ..params(layout, &[x]) };
    grid("fake_quant_learned_bwd_f32", layout, SPAN)
        .ptr(x.address())
        .ptr(lo.address())
        .ptr(hi.address())
        .ptr(dy.address())
        .ptr(dx.map_or(0, Tensor::address))
        .ptr(partial.address())
        .val(p)
        .run(gpu)?;
    Launch::new("fake_quant_learned_finish_f32")
        .grid([layout.rows as u32, 1, 1])
        .block([THREADS, 1, 1])
        .ptr(partial.address())
        .ptr(dlo.address())
        .ptr(dhi.address())
        .val(pieces as i32)
        .val(p)
        .run(gpu)
}
