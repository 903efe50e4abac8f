//! Launches of `kernels/conv2d_grouped.cu`. Shapes are checked by the callers; sizes and alignment here.

use super::{Groups, OP};
use crate::Result;
use crate::autograd::GradMode;
use crate::device::{Gpu, Launch};
use crate::tensor::Tensor;

/// Neighbouring outputs of a row that one thread computes.
const STRIP: usize = 4;
/// Channels of a group that one block of the filter gradient serves.
const CHANNELS: usize = 8;
/// Blocks that the parts of a filter gradient aim at, on any device.
const PART_BLOCKS: usize = 1056;
/// Fewest pixels of a part.
const PART_PIXELS: usize = 256;

/// `GroupedShape` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Sizes {
    x: [i32; 4],
    k: i32,
    r: i32,
    s: i32,
    p: i32,
    q: i32,
    /// Of rows and columns, here and below.
    stride: [i32; 2],
    /// Above and left.
    pad: [i32; 2],
    dilation: [i32; 2],
    /// Input and output channels of a group.
    group: [i32; 2],
}

impl Sizes {
    /// Errors if a tensor is too large for 32-bit offsets.
    pub(crate) fn new(groups: &Groups) -> Result<Self> {
        let g = &groups.each;
        let reach = |axis: usize, taps: usize| (taps + STRIP) * g.dilation[axis] + g.pad[axis] + STRIP * g.stride[axis];
        let (down, across) = (reach(0, g.r), reach(1, g.s));
        let sizes = [
            g.n * (g.h + down) * (g.w + across) * groups.c(),
            g.n * (g.p + down) * (g.q + across) * groups.k(),
            groups.w().iter().product(),
        ];
        crate::ensure_op!(
            sizes.iter().all(|&s| s < i32::MAX as usize),
            OP,
            "input, output and filter of {sizes:?} elements with the filter's reach: the kernels take fewer than 2^31; lower \
             the batch"
        );
        let i = |v: usize| v as i32;
        Ok(Self {
            x: groups.x().map(i),
            k: i(groups.k()),
            r: i(g.r),
            s: i(g.s),
            p: i(g.p),
            q: i(g.q),
            stride: g.stride.map(i),
            pad: [i(g.pad[0]), i(g.pad[1])],
            dilation: g.dilation.map(i),
            group: [i(g.c), i(g.k)],
        })
    }
}

fn device(t: &Tensor) -> &Gpu {
    t.gpu().expect("called for GPU tensors")
}

/// Both gathers: `kernels` are the ones for single channels and for four at once, `width` the output channels of a group.
fn gather(
    kernels: [&'static str; 2],
    transposed: bool,
    [from, w]: [&Tensor; 2],
    bias: Option<&Tensor>,
    (out, beta): (&Tensor, f32),
    g: &Groups,
) -> Result<()> {
    let sizes = Sizes::new(g)?;
    let packed = Tensor::empty_like(w, [w.len()])?;
    Launch::over("conv2d_grouped_pack_f32", w.len(), 256)
        .ptr(w.address())
        .ptr(packed.address())
        .val(sizes)
        .val(i32::from(transposed))
        .run(device(w))?;
    let width = if transposed { g.each.c } else { g.each.k };
    let quads = width.is_multiple_of(4) && out.address().is_multiple_of(16);
    let [n, h, cols, c] = out.shape().nhwc(OP)?;
    Launch::over(kernels[usize::from(quads)], n * h * cols.div_ceil(STRIP) * if quads { c / 4 } else { c }, 256)
        .val(sizes)
        .ptr(from.address())
        .ptr(packed.address())
        .ptr(bias.map_or(0, Tensor::address))
        .ptr(out.address())
        .val(beta)
        .flops(g.flops())
        .run(device(from))
}

/// `y[n p q k]` of `x[n h w c]`, `w[k r s c/groups]`. F32.
pub(super) fn fprop(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, y: &Tensor, g: &Groups) -> Result<()> {
    gather(["conv2d_grouped_fprop_f32", "conv2d_grouped_fprop_vec4_f32"], false, [x, w], bias, (y, 0.0), g)
}

/// `dx[n h w c]` from `dy[n p q k]`, `w[k r s c/groups]`. F32.
pub(super) fn dgrad(dy: &Tensor, w: &Tensor, dx: &Tensor, mode: GradMode, g: &Groups) -> Result<()> {
    gather(["conv2d_grouped_dgrad_f32", "conv2d_grouped_dgrad_vec4_f32"], true, [dy, w], None, (dx, mode.beta()), g)
}

/// `dw[k r s c/groups]` from `x[n h w c]`, `dy[n p q k]`. F32.
pub(super) fn wgrad(x: &Tensor, dy: &Tensor, dw: &Tensor, mode: GradMode, g: &Groups) -> Result<()> {
    let each = &g.each;
    let (pixels, terms) = (each.n * each.p * each.q, each.r * each.s * each.c);
    let (columns, tiles) = (g.k().div_ceil(32), each.r * each.s * each.c.div_ceil(CHANNELS));
    let parts = (PART_BLOCKS / (columns * tiles)).clamp(1, pixels.div_ceil(PART_PIXELS));
    let per_part = pixels.div_ceil(parts);
    let parts = pixels.div_ceil(per_part);
    crate::ensure_op!(
        tiles <= 65_535 && parts * dw.len() < i32::MAX as usize,
        OP,
        "a filter of {} elements: its gradient takes up to 65535 taps times eights of channels",
        dw.len()
    );
    let partial = Tensor::empty_like(x, [parts, terms, g.k()])?;
    Launch::new("conv2d_grouped_wgrad_partial_f32")
        .grid([columns as u32, tiles as u32, parts as u32])
        .block([256, 1, 1])
        .val(Sizes::new(g)?)
        .ptr(x.address())
        .ptr(dy.address())
        .ptr(partial.address())
        .val(per_part as i32)
        .flops(g.flops())
        .run(device(x))?;
    Launch::over("conv2d_grouped_wgrad_final_f32", dw.len(), 256)
        .ptr(partial.address())
        .ptr(dw.address())
        .val(g.k() as i32)
        .val(terms as i32)
        .val(parts as i32)
        .val(mode.beta())
        .run(device(x))
}
