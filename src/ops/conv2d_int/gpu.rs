//! Launches of `kernels/conv2d_int.cu`.

use super::Codes;
use super::wgmma::WgmmaTile;
use crate::Result;
use crate::device::Launch;
use crate::ops::conv2d::{Geometry, KernelShape};
use crate::tensor::{DType, Tensor};

/// Rows of a block tile, `CONV_ROWS` of `kernels/include/conv_tile.cuh`.
const ROWS: usize = 128;
const THREADS: u32 = 256;
/// Sums per tap that a block has room for, `INT_ROOM` of `kernels/include/conv_int.cuh`: 34 taps of 64 filters.
const ROOM: usize = 2176;

/// `Quantizers` of `kernels/include/int_value.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Quantizers {
    ranges: [u64; 4],
    x_bits: i32,
    w_bits: i32,
}

impl Quantizers {
    pub(crate) fn new(x: &Codes, w: &Codes) -> Self {
        Self {
            ranges: [&x.lo, &x.hi, &w.lo, &w.hi].map(Tensor::address),
            x_bits: x.bits.into(),
            w_bits: w.bits.into(),
        }
    }
}

/// Kernel names.
pub(crate) struct Kernels {
    /// Column tiles of 16, 32 and 64; channels in fours; any.
    pub tiles: [&'static str; 5],
    /// Products of warpgroups, 64 and 128 columns.
    pub wgmma: [&'static str; 2],
}
const VALUES: Kernels = Kernels {
    tiles: ["conv2d_int_n16", "conv2d_int_n32", "conv2d_int_n64", "conv2d_int_c4", "conv2d_int_any"],
    wgmma: ["conv2d_int_wgmma64", "conv2d_int_wgmma128"],
};

/// Writes `y[n p q k]`.
pub(super) fn forward(x: &Codes, w: &Codes, bias: Option<&Tensor>, y: &mut Tensor, g: &Geometry) -> Result<()> {
    convolve(&VALUES, [x, w], bias, g, |launch| launch.ptr(y.address()))
}

/// Launches one of `kernels`, chosen by the shape, the alignment of views and whether the device has products of warpgroups; `to` adds the arguments that say where the
/// values go. Filters of very many taps take a launch more and a workspace of 8 bytes per output channel and tap.
pub(crate) fn convolve(
    kernels: &Kernels,
    [x, w]: [&Codes; 2],
    bias: Option<&Tensor>,
    g: &Geometry,
    to: impl FnOnce(Launch) -> Launch,
) -> Result<()> {
    let gpu = x.values.gpu().expect("a GPU tensor");
    let shape = KernelShape::new(g)?;
    let q = Quantizers::new(x, w);
    let aligned = |to: u64| [x, w].iter().all(|q| q.values.address().is_multiple_of(to));
    let tile = if aligned(16) { WgmmaTile::of(gpu, g) } else { None };
    let (kernel, cols, smem) = match (tile, g.k) {
        (Some(t), _) => (kernels.wgmma[t.variant], t.cols, t.smem),
        _ if !g.c.is_multiple_of(4) || !aligned(4) => (kernels.tiles[4], 32, 0),
        _ if !g.c.is_multiple_of(16) || !aligned(16) => (kernels.tiles[3], 32, 0),
        (_, 0..=16) => (kernels.tiles[0], 16, 0),
        (_, 17..=32) => (kernels.tiles[1], 32, 0),
        _ => (kernels.tiles[2], 64, 0),
    };
    let taps = if cols * g.r * g.s > ROOM { Some(sum_taps(w, q, g)?) } else { None };
    let launch = Launch::new(kernel)
        .grid([(g.n * g.p * g.q).div_ceil(ROWS) as u32, g.k.div_ceil(cols) as u32, 1])
        .block([THREADS, 1, 1])
        .smem(smem)
        .val(shape)
        .ptr(x.values.address())
        .ptr(w.values.address())
        .val(q)
        .ptr(taps.as_ref().map_or(0, Tensor::address))
        .ptr(bias.map_or(0, Tensor::address));
    to(launch).flops(g.flops()).run(gpu)
}

/// Sums per tap of all filters, 8 bytes each.
fn sum_taps(w: &Codes, q: Quantizers, g: &Geometry) -> Result<Tensor> {
    let sums = g.k * g.r * g.s;
    let taps = Tensor::empty(&w.values.device(), [8 * sums], DType::U8)?;
    Launch::over("conv2d_int_taps", sums, 128)
        .ptr(w.values.address())
        .val(q)
        .ptr(taps.address())
        .val(g.k as i32)
        .val((g.r * g.s) as i32)
        .val(g.c as i32)
        .run(w.values.gpu().expect("a GPU tensor"))?;
    Ok(taps)
}
