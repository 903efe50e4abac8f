//! Which convolutions of codes products of warpgroups compute (`kernels/include/conv_int_wgmma.cuh`). Sums are exact, so unlike
//! elsewhere the device may decide: what it computes does not depend on it.

use crate::device::Gpu;
use crate::ops::conv2d::Geometry;

/// Fewest input and output channels.
const CHANNELS: usize = 64;
/// Bytes of depth of a slice and most taps in a direction, `GROUP_SLICE` and `GROUP_TAPS` of the kernels.
const SLICE: usize = 128;
const TAPS: usize = 15;
/// Block tiles of 128 columns from which on they are taken. Shared memory is busy for 672 cycles with a slice of such a tile and 480
/// with one of 64 columns: below half of an H100's 132 multiprocessors, twice as many of the latter are done earlier.
const WIDE_TILES: usize = 67;

/// A column tile: its kernel among two, of 64 and 128 columns, columns, and bytes of dynamic shared memory.
pub(crate) struct WgmmaTile {
    pub variant: usize,
    pub cols: usize,
    pub smem: u32,
}

impl WgmmaTile {
    const fn new(variant: usize) -> Self {
        let (cols, stages) = if variant == 1 { (128, 3) } else { (64, 4) };
        // Pixels, filters and a row of ones for each stage; and the way to an address that is a multiple of 1024.
        Self { variant, cols, smem: (stages * SLICE * (128 + cols + 16) + 1024) as u32 }
    }

    /// The tile for `g`, if the device has such products and the shape fills them. Operands must be 16-byte aligned.
    pub fn of(gpu: &Gpu, g: &Geometry) -> Option<Self> {
        let depth = g.r * g.s * g.c;
        // The last slice is filled with zeros, which may be an eighth of all.
        let full = depth.next_multiple_of(SLICE) * 8 <= depth * 9;
        let many = g.c >= CHANNELS && g.k >= CHANNELS && g.c.is_multiple_of(16) && full;
        if !gpu.has_wgmma() || !many || g.r.max(g.s) > TAPS {
            return None;
        }
        let tiles = (g.n * g.p * g.q).div_ceil(128) * g.k.div_ceil(128);
        Some(Self::new(usize::from(g.k > 64 && tiles >= WIDE_TILES)))
    }
}
