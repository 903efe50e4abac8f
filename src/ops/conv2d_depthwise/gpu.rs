//! Launches of `kernels/conv2d_depthwise.cu`. Shapes are checked by the callers; sizes and alignment here.

use super::{Geometry, OP};
use crate::Result;
use crate::autograd::GradMode;
use crate::device::{Gpu, Launch};
use crate::tensor::Tensor;

/// Neighbouring outputs of a row that one thread computes.
const STRIP: usize = 4;
/// Filter columns of one block of the filter gradient.
const TAPS: usize = 8;
/// Blocks that the parts of a filter gradient aim at, on any device.
const PART_BLOCKS: usize = 1056;
/// Fewest pixels of a part.
const PART_PIXELS: usize = 256;

/// `DepthwiseShape` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Sizes {
    x: [i32; 4],
    r: i32,
    s: i32,
    p: i32,
    q: i32,
    /// Of rows and columns, here and below.
    stride: [i32; 2],
    /// Above and left.
    pad: [i32; 2],
    dilation: [i32; 2],
}

impl Sizes {
    /// Errors if a tensor is too large for 32-bit offsets.
    pub(crate) fn new(g: &Geometry) -> Result<Self> {
        let reach = |axis: usize, taps: usize| (taps + STRIP) * g.dilation[axis] + g.pad[axis];
        let (down, across) = (reach(0, g.r), reach(1, g.s));
        let sizes = [g.n * (g.h + down) * (g.w + across) * g.c, g.n * (g.p + down) * (g.q + across) * g.c];
        crate::ensure_op!(
            sizes.iter().all(|&s| s < i32::MAX as usize),
            OP,
            "input and output of {sizes:?} elements with the filter's reach: the kernels take fewer than 2^31; lower the batch"
        );
        let i = |v: usize| v as i32;
        Ok(Self {
            x: [i(g.n), i(g.h), i(g.w), i(g.c)],
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

fn device(t: &Tensor) -> &Gpu {
    t.gpu().expect("called for GPU tensors")
}

/// `w[c r s 1]` as `[r s c]`.
fn pack(w: &Tensor, g: &Geometry) -> Result<Tensor> {
    let packed = Tensor::empty_like(w, [g.r * g.s, g.c])?;
    Launch::over("conv2d_depthwise_pack_f32", w.len(), 256)
        .ptr(w.address())
        .ptr(packed.address())
        .val(g.c as i32)
        .val((g.r * g.s) as i32)
        .run(device(w))?;
    Ok(packed)
}

fn flops(g: &Geometry) -> f64 {
    (2 * g.n * g.p * g.q * g.c * g.r * g.s) as f64
}

/// Both gathers: `kernels` are the ones for single channels and for four at once.
fn gather(
    kernels: [&'static str; 2],
    from: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    out: &Tensor,
    beta: f32,
    g: &Geometry,
) -> Result<()> {
    let sizes = Sizes::new(g)?;
    let w = pack(w, g)?;
    let quads = g.c % 4 == 0 && [from, out, bias.unwrap_or(out)].iter().all(|t| t.address() % 16 == 0);
    let [n, h, width, c] = out.shape().nhwc(OP)?;
    // A thread's outputs lie a dilation apart where both strides are 1, see the kernel.
    let step = if g.stride == [1; 2] { g.dilation[1] } else { 1 };
    let strips = width.div_ceil(STRIP * step) * step;
    Launch::over(kernels[usize::from(quads)], n * h * strips * if quads { c / 4 } else { c }, 256)
        .val(sizes)
        .ptr(from.address())
        .ptr(w.address())
        .ptr(bias.map_or(0, Tensor::address))
        .ptr(out.address())
        .val(beta)
        .flops(flops(g))
        .run(device(from))
}

/// `y[n p q c]` of `x[n h w c]`, `w[c r s 1]`. F32.
pub(super) fn fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &Tensor, g: &Geometry) -> Result<()> {
    gather(["conv2d_depthwise_fprop_f32", "conv2d_depthwise_fprop_vec4_f32"], x, w, bias, y, 0.0, g)
}

/// `dx[n h w c]` from `dy[n p q c]`, `w[c r s 1]`. F32.
pub(super) fn dgrad(dy: &Tensor, w: &Tensor, dx: &Tensor, mode: GradMode, g: &Geometry) -> Result<()> {
    gather(["conv2d_depthwise_dgrad_f32", "conv2d_depthwise_dgrad_vec4_f32"], dy, w, None, dx, mode.beta(), g)
}

/// `dw[c r s 1]` from `x[n h w c]`, `dy[n p q c]`. F32.
pub(super) fn wgrad(x: &Tensor, dy: &Tensor, dw: &Tensor, mode: GradMode, g: &Geometry) -> Result<()> {
    let pixels = g.n * g.p * g.q;
    let (columns, groups) = (g.c.div_ceil(32), g.r * g.s.div_ceil(TAPS));
    let parts = (PART_BLOCKS / (columns * groups)).clamp(1, pixels.div_ceil(PART_PIXELS));
    let per_part = pixels.div_ceil(parts);
    let parts = pixels.div_ceil(per_part);
    let partial = Tensor::empty_like(x, [parts, g.r * g.s, g.c])?;
    Launch::new("conv2d_depthwise_wgrad_partial_f32")
        .grid([columns as u32, groups as u32, parts as u32])
        .block([256, 1, 1])
        .val(Sizes::new(g)?)
        .ptr(x.address())
        .ptr(dy.address())
        .ptr(partial.address())
        .val(per_part as i32)
        .flops(flops(g))
        .run(device(x))?;
    Launch::over("conv2d_depthwise_wgrad_final_f32", dw.len(), 256)
        .ptr(partial.address())
        .ptr(dw.address())
        .val(g.c as i32)
        .val((g.r * g.s) as i32)
        .val(parts as i32)
        .val(mode.beta())
        .run(device(x))
}
