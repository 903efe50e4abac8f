//! What all launches of `kernels/conv2d_*.cu` share.

use super::Geometry;
use crate::Result;
use crate::tensor::Tensor;

/// Rows of a block tile, `CONV_ROWS` of `kernels/include/conv_tile.cuh`.
pub(super) const ROWS: usize = 128;
pub(super) const THREADS: u32 = 256;
/// Blocks that the parts of a filter gradient aim at: four for each multiprocessor of an H100, on any device.
pub(super) const PART_BLOCKS: usize = 528;

/// `ConvShape` of `kernels/include/conv_tile.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Shape {
    x: [i32; 4],
    k: i32,
    r: i32,
    s: i32,
    p: i32,
    q: i32,
    /// Of rows and columns, here and below.
    stride: [i32; 2],
    /// Above and left: the other two show in `p` and `q` alone.
    pad: [i32; 2],
    dilation: [i32; 2],
}

impl Shape {
    /// Errors if a tensor is too large for 32-bit offsets.
    pub fn new(g: &Geometry) -> Result<Self> {
        let sizes = [g.n * g.h * g.w * g.c, g.n * g.p * g.q * g.k, g.k * g.r * g.s * g.c];
        let reach = |axis: usize, len: usize| (len + g.pad[axis]).checked_mul(g.dilation[axis].max(g.stride[axis]));
        let near = |reach: Option<usize>| reach.is_some_and(|r| r < 1 << 28);
        crate::ensure_op!(
            sizes.iter().all(|&s| s < i32::MAX as usize - ROWS) && near(reach(0, g.h)) && near(reach(1, g.w)),
            "conv2d",
            "input, output and filter of {sizes:?} elements: the kernels take fewer than 2^31 each; lower the batch"
        );
        let i = |v: usize| v as i32;
        Ok(Self {
            x: [i(g.n), i(g.h), i(g.w), i(g.c)],
            k: i(g.k),
            r: i(g.r),
            s: i(g.s),
            p: i(g.p),
            q: i(g.q),
            stride: g.stride.map(i),
            pad: [i(g.pad[0]), i(g.pad[1])],
            dilation: g.dilation.map(i),
        })
    }
}

pub(super) fn blocks(elements: usize, tile: usize) -> u32 {
    elements.div_ceil(tile) as u32
}

pub(super) fn aligned(tensors: [&Tensor; 2]) -> bool {
    tensors.iter().all(|t| t.address() % 16 == 0)
}
