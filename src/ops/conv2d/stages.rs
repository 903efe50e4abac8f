//! Launches of `kernels/conv2d_stages.cu`: forward and data gradient of convolutions with many channels, operands copied to
//! shared memory several slices ahead.

use super::launch::{ROWS, Shape, THREADS, aligned, blocks};
use super::{Geometry, Math};
use crate::Result;
use crate::device::Launch;
use crate::tensor::Tensor;

/// Fewest input and output channels.
const CHANNELS: usize = 64;
/// Channels of a slice and most taps in a direction, `STAGE_DEPTH` and `STAGE_TAPS` of `kernels/include/conv_stages.cuh`.
const SLICE: usize = 32;
const TAPS: usize = 15;
/// Bytes of a block's stages, whatever its columns: `Stages` of `kernels/include/conv_stages.cuh`.
const SMEM: u32 = 96 * 1024;
/// Block tiles of 128 columns from which on they are taken. Shared memory is busy for 1024 cycles with a slice of such a tile
/// and 704 with one of 64 columns; where no more than half of an H100's 132 multiprocessors would have one of the former, twice as
/// many of the latter take less time. On any device: kernels follow from shapes.
const WIDE_TILES: usize = 67;

/// Kernel names: TF32 with 64 and 128 columns, BF16 with 128. BF16 has no kernel of 64: with operands in f32 its tile would pass
/// more bytes through shared memory per product than the general kernel does, which converts them on the way in.
pub(crate) type StageKernels = [Option<&'static str>; 3];
pub(super) const FPROP: StageKernels = [
    Some("conv2d_fprop_tf32_stages64"),
    Some("conv2d_fprop_tf32_stages128"),
    Some("conv2d_fprop_bf16_stages128"),
];
pub(super) const DGRAD: StageKernels = [
    Some("conv2d_dgrad_tf32_stages64"),
    Some("conv2d_dgrad_tf32_stages128"),
    Some("conv2d_dgrad_bf16_stages128"),
];

/// A product that these kernels take: rows are pixels, in `classes` of so many; columns and depth of a tap are channels.
pub(super) struct Stages {
    kernel: &'static str,
    grid: [u32; 3],
}

impl Stages {
    /// Decided by shape, math and alignment alone. `operands` are what the kernel reads four floats of at once.
    pub fn of(
        kernels: &StageKernels,
        g: &Geometry,
        math: Math,
        [rows, cols, depth, classes]: [usize; 4],
        operands: [&Tensor; 2],
    ) -> Option<Self> {
        let [narrow, wide] = match math {
            Math::F32 => return None,
            Math::Tf32 => [kernels[0], kernels[1]],
            Math::Bf16 => [None, kernels[2]],
        };
        // The last slice of a tap is filled with zeros, which may be an eighth of all.
        let full = depth.next_multiple_of(SLICE) * 8 <= depth * 9;
        let many = depth >= CHANNELS && cols >= CHANNELS && cols.is_multiple_of(4) && depth.is_multiple_of(4) && full;
        if !many || g.r.max(g.s) > TAPS || !aligned(operands) {
            return None;
        }
        let grid = |tile: usize| [blocks(rows, ROWS), blocks(cols, tile), classes as u32];
        let fills = cols > 64 && grid(128).iter().product::<u32>() as usize >= WIDE_TILES;
        let wide = wide.filter(|_| fills).map(|kernel| Self { kernel, grid: grid(128) });
        wide.or(narrow.map(|kernel| Self { kernel, grid: grid(64) }))
    }

    /// Forward of `g`.
    pub fn forward(kernels: &StageKernels, g: &Geometry, math: Math, operands: [&Tensor; 2]) -> Option<Self> {
        Self::of(kernels, g, math, [g.n * g.p * g.q, g.k, g.c, 1], operands)
    }

    /// Rows of blocks.
    pub fn rows(&self) -> usize {
        self.grid[0] as usize
    }

    /// The launch with the arguments that all these kernels start with.
    pub fn launch(&self, g: &Geometry, [x, w]: [&Tensor; 2]) -> Result<Launch> {
        Ok(Launch::new(self.kernel)
            .grid(self.grid)
            .block([THREADS, 1, 1])
            .smem(SMEM)
            .val(Shape::new(g)?)
            .ptr(x.address())
            .ptr(w.address())
            .flops(g.flops()))
    }
}
