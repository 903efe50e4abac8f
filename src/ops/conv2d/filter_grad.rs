//! Gradients of filters and biases on the GPU: `kernels/conv2d_wgrad.cu`, `kernels/conv2d_halo.cu`,
//! `kernels/conv2d_wgrad_stages.cu`.
//!
//! The result is small and the sum behind it long, so blocks add up parts of it. A kernel that goes on with the gradient
//! takes the parts ([`Parts`]) and adds them itself; else `conv2d_sum_f32` does, in the same order.

use super::gpu::{Kernels, WGRAD, choose};
use super::halo::Halo;
use super::launch::{PART_BLOCKS, ROWS, Shape, THREADS, aligned, blocks};
use super::stages::FilterStages;
use super::{Conv2dParams, Geometry, Math};
use crate::Result;
use crate::autograd::GradMode;
use crate::device::Launch;
use crate::ops::fake_quant::{Codes, values_of};
use crate::tensor::{Shape as Dims, Tensor};

/// Fewest pixels of a part, a multiple of every slice.
const PART_PIXELS: usize = 64;

/// Number of parts and pixels per part when one part alone fills `tiles` blocks, and all together should fill `most`.
fn cut(pixels: usize, tiles: usize, most: usize) -> (usize, usize) {
    let wanted = (most / tiles).clamp(1, pixels.div_ceil(PART_PIXELS));
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

/// A convolution's input.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    Values(&'a Tensor),
    /// With one range; their values are looked up where the kernel loads them.
    Codes(&'a Codes),
}

impl<'a> Source<'a> {
    pub(super) fn tensor(self) -> &'a Tensor {
        match self {
            Self::Values(x) => x,
            Self::Codes(q) => &q.values,
        }
    }

    /// `of[0]` for values, `of[1]` for codes.
    pub(super) fn choose<T: Copy>(self, of: &[T; 2]) -> T {
        match self {
            Self::Values(_) => of[0],
            Self::Codes(_) => of[1],
        }
    }

    /// Adds the arguments that stand for it.
    pub(super) fn given_to(self, launch: Launch) -> Launch {
        let launch = launch.ptr(self.tensor().address());
        match self {
            Self::Values(_) => launch,
            Self::Codes(q) => launch.ptr(q.lo.address()).ptr(q.hi.address()),
        }
    }

    /// Adds the bits of codes.
    pub(super) fn bits_to(self, launch: Launch) -> Launch {
        match self {
            Self::Values(_) => launch,
            Self::Codes(q) => launch.val(i32::from(q.bits)),
        }
    }
}

/// Kernels of codes. There are none for any channels and alignment, see [`by_fours`].
const WGRAD_CODES: Kernels = [
    ["conv2d_wgrad_codes_f32_n16", "conv2d_wgrad_codes_f32_n32", "conv2d_wgrad_codes_f32_n64", ""],
    ["conv2d_wgrad_codes_tf32_n16", "conv2d_wgrad_codes_tf32_n32", "conv2d_wgrad_codes_tf32_n64", ""],
    ["conv2d_wgrad_codes_bf16_n16", "conv2d_wgrad_codes_bf16_n32", "conv2d_wgrad_codes_bf16_n64", ""],
];

/// Where the sums go.
struct Target<'a> {
    dw: &'a Tensor,
    /// Column sums of `dy`.
    columns: Option<&'a Tensor>,
    /// `dw = beta * dw + sums`.
    beta: f32,
}

/// How the gradient of a filter is computed. Follows from the shape and the alignment of views alone.
enum Cut {
    Halo(Halo),
    General { geometry: Geometry, kernel: &'static str, smem: u32, tiles: [u32; 2], parts: usize, per_part: usize },
}

/// Whether kernels may load four neighbours at once.
fn by_fours(x: &Tensor, dy: &Tensor, g: &Geometry) -> bool {
    g.c % 4 == 0 && g.k % 4 == 0 && aligned([x, dy])
}

impl Cut {
    fn new(x: Source, dy: &Tensor, g: Geometry, math: Math) -> Self {
        let operands = [x.tensor(), dy];
        if let Some(halo) = Halo::of(&g, math, operands) {
            return Self::Halo(halo);
        }
        let (kernel, cols, smem, most) = match FilterStages::of(&g, math, x, dy) {
            // Two of its blocks share a multiprocessor of an H100.
            Some(many) => (many.kernel, many.cols, many.smem, PART_BLOCKS / 2),
            None => {
                let kernels = x.choose(&[&WGRAD, &WGRAD_CODES]);
                let (kernel, cols) = choose(kernels, math, g.k, by_fours(operands[0], dy, &g));
                (kernel, cols, 0, PART_BLOCKS)
            }
        };
        let tiles = [blocks(g.r * g.s * g.c, ROWS), blocks(g.k, cols)];
        let (parts, per_part) = cut(g.n * g.p * g.q, (tiles[0] * tiles[1]) as usize, most);
        Self::General { geometry: g, kernel, smem, tiles, parts, per_part }
    }

    fn parts(&self) -> usize {
        match self {
            Self::Halo(halo) => halo.wgrad_parts().1 as usize,
            Self::General { parts, .. } => *parts,
        }
    }

    /// Writes the parts of `dw` and of the column sums; `beta` is for a single one.
    fn run(&self, x: Source, dy: &Tensor, to: Target) -> Result<()> {
        let columns = to.columns.map_or(0, Tensor::address);
        match self {
            Self::Halo(halo) => halo.wgrad(x, dy, to.dw, columns, to.beta),
            Self::General { geometry, kernel, smem, tiles, parts, per_part } => {
                let launch = Launch::new(kernel)
                    .grid([tiles[0], tiles[1], *parts as u32])
                    .block([THREADS, 1, 1])
                    .smem(*smem)
                    .val(Shape::new(geometry)?);
                let launch = x.given_to(launch).ptr(dy.address()).ptr(to.dw.address()).ptr(columns);
                x.bits_to(launch)
                    .val(*per_part as i32)
                    .val(to.beta)
                    .flops(geometry.flops())
                    .run(dy.gpu().expect("called for GPU tensors"))
            }
        }
    }
}

/// `dw[k r s c]` from `x[n h w c]`, `dy[n p q k]`. F32. Takes a workspace of up to 528 output tiles (17 MB).
pub(super) fn wgrad(x: &Tensor, dy: &Tensor, dw: &mut Tensor, mode: GradMode, p: Conv2dParams) -> Result<()> {
    let (g, beta) = (Geometry::new("conv2d", x.shape(), dw.shape(), p)?, mode.beta());
    let x = Source::Values(x);
    let cut = Cut::new(x, dy, g, p.math);
    if cut.parts() == 1 {
        return cut.run(x, dy, Target { dw, columns: None, beta });
    }
    let parts = Parts::empty(dw, cut.parts(), dw.len())?;
    cut.run(x, dy, Target { dw: &parts.values, columns: None, beta: 0.0 })?;
    parts.sum(dw, beta)
}

/// The parts of `dw[k r s c]` and of `db[k]`, the column sums of `dy`, of GPU tensors `x[n h w c]` and `dy[n p q k]`. F32, one
/// launch (two for codes whose channels do not come in fours).
pub(crate) fn layer_parts(x: Source, dy: &Tensor, w: Dims, p: Conv2dParams) -> Result<[Parts; 2]> {
    let g = Geometry::new("conv2d", x.tensor().shape(), w, p)?;
    let made = match x {
        Source::Codes(q) if !by_fours(&q.values, dy, &g) => Some(values_of(q)?),
        _ => None,
    };
    let x = made.as_ref().map_or(x, Source::Values);
    let cut = Cut::new(x, dy, g, p.math);
    let parts = [Parts::empty(dy, cut.parts(), w.elements())?, Parts::empty(dy, cut.parts(), w[0])?];
    cut.run(x, dy, Target { dw: &parts[0].values, columns: Some(&parts[1].values), beta: 0.0 })?;
    Ok(parts)
}

/// `db[k]`: column sums of `dy[.. k]`. F32.
pub(super) fn bias_grad(dy: &Tensor, db: &mut Tensor, mode: GradMode) -> Result<()> {
    column_sums(dy, Some((db, mode.beta()))).map(|_| ())
}

/// The parts of `db[k]`, of a GPU tensor `dy[.. k]`. F32.
pub(crate) fn bias_parts(dy: &Tensor) -> Result<Parts> {
    column_sums(dy, None)
}

/// One launch; `to` is given the sum of the parts (`db = beta * db +` it).
fn column_sums(dy: &Tensor, to: Option<(&Tensor, f32)>) -> Result<Parts> {
    let gpu = dy.gpu().expect("called for GPU tensors");
    let [pixels, k] = dy.shape().rows_cols();
    let columns = blocks(k, 32);
    let (parts, per_part) = cut(pixels, columns as usize, PART_BLOCKS);
    let parts = Parts::empty(dy, parts, k)?;
    Launch::new("conv2d_bias_grad_f32")
        .grid([columns, parts.count as u32, 1])
        .block([THREADS, 1, 1])
        .ptr(dy.address())
        .ptr(parts.values.address())
        .ptr(to.map_or(0, |(db, _)| db.address()))
        .ptr(gpu.arrivals(columns as usize)?)
        .val(pixels as i32)
        .val(k as i32)
        .val(per_part as i32)
        .val(to.map_or(0.0, |(_, beta)| beta))
        .run(gpu)?;
    Ok(parts)
}
