//! Launches of `kernels/conv2d_stages.cu` and choice of those of `kernels/conv2d_wgrad_stages.cu`: convolutions with many channels,
//! operands copied to shared memory several slices ahead. Kernels that go on with what forward computes do it likewise.

use super::filter_grad::Source;
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
/// Bytes of a stage of 64 and of 128 columns, and stages of the latter: `Stages` of `kernels/include/conv_stages.cuh`.
const STAGE: [u32; 2] = [24 * 1024, 32 * 1024];
const WIDE_STAGES: u32 = 3;
/// Block tiles of 128 columns from which on they are taken. Shared memory is busy for 1024 cycles with a slice of such a tile
/// and 704 with one of 64 columns; where no more than half of an H100's 132 multiprocessors would have one of the former, twice as
/// many of the latter take less time. On any device: kernels follow from shapes.
const WIDE_TILES: usize = 67;

/// Kernel names: TF32 with 64 and 128 columns, BF16 with 128. BF16 has no kernel of 64: with operands in f32 its tile would pass
/// more bytes through shared memory per product than the general kernel does, which converts them on the way in.
pub(crate) struct StageKernels {
    pub names: [Option<&'static str>; 3],
    /// Stages of the one with 64 columns.
    pub narrow: u32,
}

pub(super) const FPROP: StageKernels = StageKernels {
    names: [
        Some("conv2d_fprop_tf32_stages64"),
        Some("conv2d_fprop_tf32_stages128"),
        Some("conv2d_fprop_bf16_stages128"),
    ],
    narrow: 4,
};
pub(super) const DGRAD: StageKernels = StageKernels {
    names: [
        Some("conv2d_dgrad_tf32_stages64"),
        Some("conv2d_dgrad_tf32_stages128"),
        Some("conv2d_dgrad_bf16_stages128"),
    ],
    narrow: 4,
};

/// A product that these kernels take: rows are pixels, in `classes` of so many; columns and depth of a tap are channels.
pub(super) struct Stages {
    kernel: &'static str,
    grid: [u32; 3],
    smem: u32,
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
            Math::Tf32 => [kernels.names[0], kernels.names[1]],
            Math::Bf16 => [None, kernels.names[2]],
        };
        // The last slice of a tap is filled with zeros, which may be an eighth of all.
        let full = depth.next_multiple_of(SLICE) * 8 <= depth * 9;
        let many = depth >= CHANNELS && cols >= CHANNELS && cols.is_multiple_of(4) && depth.is_multiple_of(4) && full;
        if !many || g.r.max(g.s) > TAPS || !aligned(operands) {
            return None;
        }
        let grid = |tile: usize| [blocks(rows, ROWS), blocks(cols, tile), classes as u32];
        let fills = cols > 64 && grid(128).iter().product::<u32>() as usize >= WIDE_TILES;
        let wide = wide.filter(|_| fills).map(|kernel| Self { kernel, grid: grid(128), smem: WIDE_STAGES * STAGE[1] });
        wide.or(narrow.map(|kernel| Self { kernel, grid: grid(64), smem: kernels.narrow * STAGE[0] }))
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
            .smem(self.smem)
            .val(Shape::new(g)?)
            .ptr(x.address())
            .ptr(w.address())
            .flops(g.flops()))
    }
}

/// A kernel of a filter's gradient.
pub(super) struct FilterStages {
    pub kernel: &'static str,
    /// Columns of its tile.
    pub cols: usize,
    pub smem: u32,
}

/// Most bits of codes: their values lie in different banks of shared memory then, and -128 is none of them.
const CODE_BITS: u8 = 5;
/// Codes in 16 bytes, which are copied at once.
const CODES: usize = 16;
/// For [`FilterStages`]: names, of columns 64 and 128 in TF32 and of 128 in BF16, with bytes of all stages. BF16 has no kernel of
/// codes, which would pass as many bytes through shared memory as the general one.
const WGRAD: [Option<(&str, u32)>; 3] = [
    Some(("conv2d_wgrad_tf32_stages64", 72 * 1024)),
    Some(("conv2d_wgrad_tf32_stages128", 96 * 1024)),
    Some(("conv2d_wgrad_bf16_stages128", 96 * 1024)),
];
const WGRAD_CODES: [Option<(&str, u32)>; 3] = [
    Some(("conv2d_wgrad_codes_tf32_stages64", 48 * 1024)),
    Some(("conv2d_wgrad_codes_tf32_stages128", 80 * 1024)),
    None,
];

impl FilterStages {
    /// Decided by shape, math, bits and alignment alone. Parts of the pixels fill the device, so more than 64 columns always take
    /// the wide tile, of which one costs less than two narrow ones.
    pub fn of(g: &Geometry, math: Math, x: Source, dy: &Tensor) -> Option<Self> {
        let (fits, multiple) = match x {
            Source::Values(_) => (true, 4),
            Source::Codes(q) => (q.bits <= CODE_BITS, CODES),
        };
        let many = g.c.min(g.k) >= CHANNELS && g.c.is_multiple_of(multiple) && g.k.is_multiple_of(4);
        if !fits || !many || !aligned([x.tensor(), dy]) {
            return None;
        }
        let [narrow, wide, wide_bf16] = x.choose(&[WGRAD, WGRAD_CODES]);
        let (found, cols) = match math {
            Math::F32 => return None,
            Math::Tf32 if g.k <= 64 => (narrow, 64),
            Math::Bf16 if g.k <= 64 => return None,
            Math::Tf32 => (wide, 128),
            Math::Bf16 => (wide_bf16, 128),
        };
        found.map(|(kernel, smem)| Self { kernel, cols, smem })
    }
}
