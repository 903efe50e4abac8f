//! Launches of `kernels/conv2d_halo.cu`: 3x3 convolutions of few channels, every input read once.

use super::filter_grad::Source;
use super::launch::{PART_BLOCKS, Shape, THREADS, aligned};
use super::{Geometry, Math};
use crate::Result;
use crate::device::Launch;
use crate::tensor::Tensor;

/// A convolution that these kernels take. Decided by shape, math and alignment alone.
pub(super) struct Halo {
    geometry: Geometry,
    /// Index into the names below: 16 or 32 channels in TF32, then in BF16.
    variant: usize,
}

/// Kernel names in this order.
pub(crate) type HaloKernels = [&'static str; 4];

/// Columns of a tile.
const COLS: usize = 16;
/// Rows of a tile of the filter's gradient.
const WGRAD_ROWS: usize = 8;
macro_rules! kernels {
    ($pass:literal) => {
        [
            concat!("conv2d_", $pass, "_tf32_halo16"),
            concat!("conv2d_", $pass, "_tf32_halo32"),
            concat!("conv2d_", $pass, "_bf16_halo16"),
            concat!("conv2d_", $pass, "_bf16_halo32"),
        ]
    };
}
pub(super) const FPROP: HaloKernels = kernels!("fprop");
pub(super) const DGRAD: HaloKernels = kernels!("dgrad");
const WGRAD: HaloKernels = kernels!("wgrad");
const WGRAD_CODES: HaloKernels = kernels!("wgrad_codes");

impl Halo {
    /// `operands` are what the kernel reads four floats of at once.
    pub fn of(g: &Geometry, math: Math, operands: [&Tensor; 2]) -> Option<Self> {
        let window = (g.r, g.s, g.stride, g.pad, g.dilation) == (3, 3, [1; 2], [1; 4], [1; 2]);
        let first = match math {
            Math::F32 => return None,
            Math::Tf32 => 0,
            Math::Bf16 => 2,
        };
        let wide = match (g.c, g.k) {
            (16, 16) => 0,
            (32, 32) => 1,
            _ => return None,
        };
        (window && aligned(operands)).then_some(Self { geometry: *g, variant: first + wide })
    }

    /// Words of shared memory per pixel without padding.
    fn words(&self) -> usize {
        if self.variant < 2 { self.geometry.c } else { self.geometry.c / 2 }
    }

    /// Tiles of `rows` rows, and blocks to walk over them: as many as tiles, up to a bound that does not depend on the
    /// device.
    fn tiles(&self, rows: usize, most: usize) -> (usize, u32) {
        let g = &self.geometry;
        let tiles = g.n * g.h.div_ceil(rows) * g.w.div_ceil(COLS);
        (tiles, tiles.min(most) as u32)
    }

    /// Convolves `x` with `w`, or `dy` with the turned filter; `to` as in [`super::gpu::convolve`].
    pub fn window(
        &self,
        kernels: &HaloKernels,
        [x, w]: [&Tensor; 2],
        to: impl FnOnce(Launch, usize) -> Result<Launch>,
    ) -> Result<()> {
        let c = self.geometry.c;
        let rows = if c == 16 { 16 } else { 8 };
        let (tiles, blocks) = self.tiles(rows, PART_BLOCKS);
        let pitch = self.words() + 4;
        let launch = Launch::new(kernels[self.variant])
            .grid([blocks, 1, 1])
            .block([THREADS, 1, 1])
            .smem((4 * pitch * ((rows + 2) * (COLS + 2) + 9 * c)) as u32)
            .val(Shape::new(&self.geometry)?)
            .ptr(x.address())
            .ptr(w.address());
        to(launch, blocks as usize)?
            .val(tiles as i32)
            .flops(self.geometry.flops())
            .run(x.gpu().expect("called for GPU tensors"))
    }

    /// Tiles of a filter gradient, and blocks that walk over them, each with a copy of it.
    pub fn wgrad_parts(&self) -> (usize, u32) {
        self.tiles(WGRAD_ROWS, PART_BLOCKS / 2)
    }

    /// Writes the blocks' copies to `dw`, one after the other, and their column sums of `dy` to the address `columns` (0: nowhere);
    /// `beta` as in [`super::filter_grad`].
    pub fn wgrad(&self, x: Source, dy: &Tensor, dw: &Tensor, columns: u64, beta: f32) -> Result<()> {
        let (c, elements) = (self.geometry.c, self.geometry.k * 9 * self.geometry.c);
        let (tiles, blocks) = self.wgrad_parts();
        let pitch = self.words() + if self.variant < 2 { 8 } else { 4 };
        let tile = pitch * ((WGRAD_ROWS + 2) * (COLS + 2) + WGRAD_ROWS * COLS);
        // Afterwards the same memory holds the copies of warps that share an element.
        let copies = 8 / (c / 16 * (c / 8));
        let smem = 4 * if copies > 1 { tile.max(copies * elements) } else { tile };
        let launch = Launch::new(x.choose(&[WGRAD, WGRAD_CODES])[self.variant])
            .grid([blocks, 1, 1])
            .block([THREADS, 1, 1])
            .smem(smem as u32)
            .val(Shape::new(&self.geometry)?);
        let launch = x.given_to(launch).ptr(dy.address()).ptr(dw.address()).ptr(columns);
        x.bits_to(launch)
            .val(beta)
            .val(tiles as i32)
            .flops(self.geometry.flops())
            .run(dy.gpu().expect("called for GPU tensors"))
    }
}
