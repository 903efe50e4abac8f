//! Gradients of filters and biases on the GPU: `kernels/conv2d_wgrad.cu`, `kernels/conv2d_halo.cu`.
//!
//! The result is small and the sum behind it long, so blocks add up parts of it. A kernel that goes on with the gradient
//! takes the parts ([`Parts`]) and adds them itself; else `conv2d_sum_f32` does, in the same order.

use super::gpu::{WGRAD, choose};
use super::halo::Halo;
use super::launch::{PART_BLOCKS, ROWS, Shape, THREADS, aligned, blocks};
use super::{Conv2dParams, Geometry};
use crate::Result;
use crate::autograd::GradMode;
use crate::device::Launch;
use crate::tensor::{Shape as Dims, Tensor};

/// Fewest pixels of a part, a multiple of every slice.
const PART_PIXELS: usize = 64;

/// Number of parts and pixels per part when one part alone fills `tiles` blocks.
fn cut(pixels: usize, tiles: usize) -> (usize, usize) {
    let wanted = (PART_BLOCKS / tiles).clamp(1, pixels.div_ceil(PART_PIXELS));
    let per_part = pixels.div_ceil(wanted).next_multiple_of(PART_PIXELS);
    (pixels.div_ceil(per_part), per_part)
}

/// A tensor of which only parts are known yet.
pub(crate) struct Parts {
    /// `[count, elements]`, F32.
    pub values: Tensor,
    /// At least one. Summed in eight groups of `count.div_ceil(8)` neighbours: parts of a group, then groups, in order.
    pub count: usize,
}

impl Parts {
    /// `count` parts of `elements`, to be written.
    fn empty(like: &Tensor, count: usize, elements: usize) -> Result<Self> {
        Ok(Self { values: Tensor::empty_like(like, [count, elements])?, count })
    }

    /// `y = beta * y + sum over parts`.
    fn sum(&self, y: &Tensor, beta: f32) -> Result<()> {
        Launch::new("conv2d_sum_f32")
            .grid([blocks(y.len(), 32), 1, 1])
            .block([THREADS, 1, 1])
            .ptr(self.values.address())
            .ptr(y.address())
            .val(y.len() as i32)
            .val(self.count as i32)
            .val(beta)
            .run(y.gpu().expect("called for GPU tensors"))
    }
}

/// How the gradient of a filter is computed. Follows from the shape and the alignment of views alone.
enum Cut {
    Halo(Halo),
    General { geometry: Geometry, kernel: &'static str, tiles: [u32; 2], parts: usize, per_part: usize },
}

impl Cut {
    fn new(x: &Tensor, dy: &Tensor, w: Dims, p: Conv2dParams) -> Result<Self> {
        let g = Geometry::new("conv2d", x.shape(), w, p)?;
        if let Some(halo) = Halo::of(&g, p.math, [x, dy]) {
            return Ok(Self::Halo(halo));
        }
        let (kernel, cols) = choose(&WGRAD, p.math, g.k, g.c % 4 == 0 && g.k % 4 == 0 && aligned([x, dy]));
        let tiles = [blocks(g.r * g.s * g.c, ROWS), blocks(g.k, cols)];
        let (parts, per_part) = cut(g.n * g.p * g.q, (tiles[0] * tiles[1]) as usize);
        Ok(Self::General { geometry: g, kernel, tiles, parts, per_part })
    }

    fn parts(&self) -> usize {
        match self {
            Self::Halo(halo) => halo.wgrad_parts().1 as usize,
            Self::General { parts, .. } => *parts,
        }
    }

    /// Writes the parts to `dw`; of a single one `beta * dw +` it.
    fn run(&self, x: &Tensor, dy: &Tensor, dw: &Tensor, beta: f32) -> Result<()> {
        match self {
            Self::Halo(halo) => halo.wgrad(x, dy, dw, beta),
            Self::General { geometry, kernel, tiles, parts, per_part } => Launch::new(kernel)
                .grid([tiles[0], tiles[1], *parts as u32])
                .block([THREADS, 1, 1])
                .val(Shape::new(geometry)?)
                .ptr(x.address())
                .ptr(dy.address())
                .ptr(dw.address())
                .val(*per_part as i32)
                .val(beta)
                .flops(geometry.flops())
                .run(x.gpu().expect("called for GPU tensors")),
        }
    }
}

/// `dw[k r s c]` from `x[n h w c]`, `dy[n p q k]`. F32. Takes a workspace of up to 528 output tiles (17 MB).
pub(super) fn wgrad(x: &Tensor, dy: &Tensor, dw: &mut Tensor, mode: GradMode, p: Conv2dParams) -> Result<()> {
    let cut = Cut::new(x, dy, dw.shape(), p)?;
    if cut.parts() == 1 {
        return cut.run(x, dy, dw, mode.beta());
    }
    let parts = Parts::empty(dw, cut.parts(), dw.len())?;
    cut.run(x, dy, &parts.values, 0.0)?;
    parts.sum(dw, mode.beta())
}

/// The parts of `dw[k r s c]`, of GPU tensors `x[n h w c]` and `dy[n p q k]`. F32.
pub(crate) fn wgrad_parts(x: &Tensor, dy: &Tensor, w: Dims, p: Conv2dParams) -> Result<Parts> {
    let cut = Cut::new(x, dy, w, p)?;
    let parts = Parts::empty(dy, cut.parts(), w.elements())?;
    cut.run(x, dy, &parts.values, 0.0)?;
    Ok(parts)
}

/// `db[k]`: column sums of `dy[.. k]`. F32.
pub(super) fn bias_grad(dy: &Tensor, db: &mut Tensor, mode: GradMode) -> Result<()> {
    bias_parts(dy)?.sum(db, mode.beta())
}

/// The parts of `db[k]`, of a GPU tensor `dy[.. k]`. F32.
pub(crate) fn bias_parts(dy: &Tensor) -> Result<Parts> {
    let [pixels, k] = dy.shape().rows_cols();
    let columns = blocks(k, 32);
    let (parts, per_part) = cut(pixels, columns as usize);
    let parts = Parts::empty(dy, parts, k)?;
    Launch::new("conv2d_bias_grad_f32")
        .grid([columns, parts.count as u32, 1])
        .block([THREADS, 1, 1])
        .ptr(dy.address())
        .ptr(parts.values.address())
        .val(pixels as i32)
        .val(k as i32)
        .val(per_part as i32)
        .run(dy.gpu().expect("called for GPU tensors"))?;
    Ok(parts)
}
