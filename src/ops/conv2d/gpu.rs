//! Launches of `kernels/conv2d_*.cu`. Shapes are checked by the callers; sizes and alignment here.
//!
//! 3x3 convolutions of few channels have kernels of their own (`halo.rs`), and so have all passes of many
//! (`stages.rs`). A data gradient may be finished for the layer that made its input (`grad_finish.rs`). Else every pass has one kernel per math and column tile (16, 32, 64), reading four floats at once, and one per
//! math that takes any channel count and alignment. Which one runs, and into how many parts the filter gradient is cut, follows
//! from the shape (and the alignment of views) alone, so results do not depend on the device. Gradients of filters:
//! `filter_grad.rs`.

use super::filter_grad::wgrad;
use super::grad_finish;
use super::halo::{self, Halo, HaloKernels};
use super::launch::{ROWS, Shape, THREADS, aligned, blocks};
use super::stages::{self, StageKernels, Stages};
use super::{Conv2dParams, Geometry, Math};
use crate::Result;
use crate::autograd::{Finishing, GradMode};
use crate::device::{Gpu, Launch};
use crate::tensor::Tensor;

/// Kernel names by math, then column tile 16, 32, 64, any shape.
pub(crate) type Kernels = [[&'static str; 4]; 3];
macro_rules! kernels {
    ($pass:literal) => {
        [kernels!($pass, "f32"), kernels!($pass, "tf32"), kernels!($pass, "bf16")]
    };
    ($pass:literal, $math:literal) => {
        [
            concat!("conv2d_", $pass, "_", $math, "_n16"),
            concat!("conv2d_", $pass, "_", $math, "_n32"),
            concat!("conv2d_", $pass, "_", $math, "_n64"),
            concat!("conv2d_", $pass, "_", $math, "_any"),
        ]
    };
}
/// All kernels that convolve and hand their sums to the same output.
pub(crate) struct Convolution {
    pub general: Kernels,
    pub halo: HaloKernels,
    pub stages: StageKernels,
}

const FPROP: Convolution = Convolution { general: kernels!("fprop"), halo: halo::FPROP, stages: stages::FPROP };
const DGRAD: Kernels = kernels!("dgrad");
pub(super) const WGRAD: Kernels = kernels!("wgrad");

/// Kernel and its column tile for `cols` columns; `quads` says whether four floats may be read at once.
pub(super) fn choose(kernels: &Kernels, math: Math, cols: usize, quads: bool) -> (&'static str, usize) {
    let row = &kernels[match math {
        Math::F32 => 0,
        Math::Tf32 => 1,
        Math::Bf16 => 2,
    }];
    match cols {
        _ if !quads => (row[3], 32),
        0..=16 => (row[0], 16),
        17..=32 => (row[1], 32),
        _ => (row[2], 64),
    }
}

fn device(t: &Tensor) -> &Gpu {
    t.gpu().expect("called for GPU tensors")
}

fn address(t: Option<&Tensor>) -> u64 {
    t.map_or(0, Tensor::address)
}

/// Launches one of the `kernels`, chosen by shape, math and alignment alone. `to` is given the launch and its number of rows of
/// blocks, and adds the arguments that say what becomes of the sums.
pub(crate) fn convolve(
    kernels: &Convolution,
    [x, w]: [&Tensor; 2],
    p: Conv2dParams,
    to: impl FnOnce(Launch, usize) -> Result<Launch>,
) -> Result<()> {
    let g = Geometry::new("conv2d", x.shape(), w.shape(), p)?;
    if let Some(few) = Halo::of(&g, p.math, [x, w]) {
        return few.window(&kernels.halo, [x, w], to);
    }
    if let Some(many) = Stages::forward(&kernels.stages, &g, p.math, [x, w]) {
        return to(many.launch(&g, [x, w])?, many.rows())?.run(device(x));
    }
    general(choose(&kernels.general, p.math, g.k, g.c % 4 == 0 && aligned([x, w])), [x, w], &g, to)
}

/// [`convolve`] by kernels that take any number of channels, in f32, TF32 and BF16: for a few that do not come in fours.
pub(crate) fn convolve_any(
    kernels: &[&'static str; 3],
    [x, w]: [&Tensor; 2],
    p: Conv2dParams,
    to: impl FnOnce(Launch, usize) -> Result<Launch>,
) -> Result<()> {
    let g = Geometry::new("conv2d", x.shape(), w.shape(), p)?;
    general(choose(&kernels.map(|name| [name; 4]), p.math, g.k, false), [x, w], &g, to)
}

/// [`convolve`] by kernels for many channels; whether the shape, math and alignment are theirs.
pub(crate) fn convolve_many(
    kernels: &StageKernels,
    [x, w]: [&Tensor; 2],
    p: Conv2dParams,
    to: impl FnOnce(Launch, usize) -> Result<Launch>,
) -> Result<bool> {
    let g = Geometry::new("conv2d", x.shape(), w.shape(), p)?;
    let Some(many) = Stages::forward(kernels, &g, p.math, [x, w]) else { return Ok(false) };
    to(many.launch(&g, [x, w])?, many.rows())?.run(device(x))?;
    Ok(true)
}

fn general(
    (kernel, cols): (&'static str, usize),
    [x, w]: [&Tensor; 2],
    g: &Geometry,
    to: impl FnOnce(Launch, usize) -> Result<Launch>,
) -> Result<()> {
    let rows = blocks(g.n * g.p * g.q, ROWS);
    let launch = Launch::new(kernel)
        .grid([rows, blocks(g.k, cols), 1])
        .block([THREADS, 1, 1])
        .val(Shape::new(g)?)
        .ptr(x.address())
        .ptr(w.address());
    to(launch, rows as usize)?.flops(g.flops()).run(device(x))
}

fn run_fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &Tensor, beta: f32, p: Conv2dParams) -> Result<()> {
    convolve(&FPROP, [x, w], p, |launch, _| Ok(launch.ptr(address(bias)).ptr(y.address()).val(beta)))
}

/// `bias` has one value per channel of `dx`.
fn run_dgrad(
    dy: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    (dx, beta): (&Tensor, f32),
    p: Conv2dParams,
    finishing: Option<&Finishing>,
) -> Result<()> {
    let g = Geometry::new("conv2d", dx.shape(), w.shape(), p)?;
    if let Some(few) = Halo::of(&g, p.math, [dy, w]) {
        return few.window(&halo::DGRAD, [dy, w], |launch, _| {
            let launch = launch.ptr(address(bias)).ptr(dx.address()).val(beta);
            Ok(grad_finish::given_to(launch, finishing, dx, g.c))
        });
    }
    let every = [0, 1].map(|axis: usize| (g.stride[axis] / gcd(g.stride[axis], g.dilation[axis])) as i32);
    let rows = g.n * g.h.div_ceil(g.stride[0]) * g.w.div_ceil(g.stride[1]);
    let classes = g.stride[0] * g.stride[1];
    // The staged kernel steps alike along both axes.
    let alike = g.stride[0] == g.stride[1] && g.dilation[0] == g.dilation[1];
    let many = Stages::of(&stages::DGRAD, &g, p.math, [rows, g.c, g.k, classes], [dy, w]).filter(|_| alike);
    let launch = if let Some(many) = many {
        many.launch(&g, [dy, w])?
    } else {
        let (kernel, cols) = choose(&DGRAD, p.math, g.c, g.k % 4 == 0 && g.c % 4 == 0 && aligned([dy, w]));
        Launch::new(kernel)
            .grid([blocks(rows, ROWS), blocks(g.c, cols), classes as u32])
            .block([THREADS, 1, 1])
            .val(Shape::new(&g)?)
            .ptr(dy.address())
            .ptr(w.address())
            .flops(g.flops())
    };
    let launch = launch.ptr(address(bias)).ptr(dx.address()).val(beta);
    grad_finish::given_to(launch, finishing, dx, g.c).val(every[0]).val(every[1]).run(device(dy))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// `y[n p q k]` of `x[n h w c]`, `w[k r s c]`. F32.
pub(super) fn fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut Tensor, p: Conv2dParams) -> Result<()> {
    run_fprop(x, w, bias, y, 0.0, p)
}

/// `dx[n h w c]` from `dy[n p q k]`, `w[k r s c]`. F32. With `finishing`, c in eights, that is done to it.
pub(super) fn dgrad(
    dy: &Tensor,
    w: &Tensor,
    dx: &mut Tensor,
    mode: GradMode,
    p: Conv2dParams,
    finishing: Option<&Finishing>,
) -> Result<()> {
    run_dgrad(dy, w, None, (dx, mode.beta()), p, finishing)
}

/// Upsampling by 2 and the 3x3 convolution `w[k 3 3 c]` are the transpose of this convolution with filter `v[c 4 4 k]`,
/// see `kernels/conv2d_upsample.cu`.
fn transposed(math: Math) -> Conv2dParams {
    Conv2dParams::new(2, 1).math(math)
}

/// `v[c 4 4 k]`.
fn expand(w: &Tensor) -> Result<Tensor> {
    let (k, c) = (w.dim(0), w.dim(3));
    let v = Tensor::empty_like(w, [c, 4, 4, k])?;
    Launch::over("conv2d_upsample_expand_f32", v.len(), THREADS)
        .ptr(w.address())
        .ptr(v.address())
        .val(k as i32)
        .val(c as i32)
        .run(device(w))?;
    Ok(v)
}

/// `y[n 2h 2w k]` of `x[n h w c]`, `w[k 3 3 c]`. F32.
pub(super) fn upsample_fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &mut Tensor, math: Math) -> Result<()> {
    run_dgrad(x, &expand(w)?, bias, (y, 0.0), transposed(math), None)
}

/// `dx[n h w c]` from `dy[n 2h 2w k]`, `w[k 3 3 c]`. F32.
pub(super) fn upsample_dgrad(dy: &Tensor, w: &Tensor, dx: &mut Tensor, mode: GradMode, math: Math) -> Result<()> {
    run_fprop(dy, &expand(w)?, None, dx, mode.beta(), transposed(math))
}

/// `dw[k 3 3 c]` from `x[n h w c]`, `dy[n 2h 2w k]`. F32.
pub(super) fn upsample_wgrad(x: &Tensor, dy: &Tensor, dw: &mut Tensor, mode: GradMode, math: Math) -> Result<()> {
    let (k, c) = (dw.dim(0), dw.dim(3));
    let mut dv = Tensor::empty_like(dw, [c, 4, 4, k])?;
    wgrad(dy, x, &mut dv, GradMode::Overwrite, transposed(math))?;
    Launch::over("conv2d_upsample_collapse_f32", dw.len(), THREADS)
        .ptr(dv.address())
        .ptr(dw.address())
        .val(k as i32)
        .val(c as i32)
        .val(mode.beta())
        .run(device(dw))
}
