//! Launches of `kernels/integer_layer.cu`.

use super::{Branch, OP, Steps};
use crate::Result;
use crate::device::{Device, Launch};
use crate::ops::conv2d::{Geometry, KernelShape};
use crate::ops::conv2d_int::{Ranges, WgmmaTile};
use crate::quant::{Affine, pack_int4};
use crate::tensor::{Element, Tensor};

/// Rows of a block tile, `CONV_ROWS` of `kernels/include/conv_tile.cuh`.
const ROWS: usize = 128;
const THREADS: u32 = 256;
/// Kernels of warpgroups: filters of a byte and packed ones, 64 and 128 columns.
const WGMMA: [[&str; 2]; 2] =
    [["integer_layer_wgmma64", "integer_layer_wgmma128"], ["integer_layer_wgmma64_w4", "integer_layer_wgmma128_w4"]];

/// The steps' vectors on the device.
pub struct Tables {
    /// Bias, mean, scale, shift.
    vectors: [Option<Tensor>; 4],
}

fn upload<T: Element>(device: &Device, v: &[T]) -> Result<Tensor> {
    Tensor::from_slice(&Device::cpu(), [v.len()], v)?.to_device(device)
}

impl Tables {
    pub fn new(device: &Device, steps: &Steps) -> Result<Self> {
        let of = |v: Option<&Vec<f32>>| v.map(|v| upload(device, v)).transpose();
        let norm = |i: usize| steps.norm.as_ref().map(|n| &n[i]);
        Ok(Self { vectors: [of(steps.bias.as_ref())?, of(norm(0))?, of(norm(1))?, of(norm(2))?] })
    }
}

/// A layer's weights on the device.
pub struct Weights {
    codes: Tensor,
    /// Two codes to a byte.
    packed: bool,
    unit: Tensor,
    zero: Tensor,
    taps: Tensor,
    x_zero: i32,
}

impl Weights {
    pub fn new(device: &Device, codes: &[i8], bits: u8, ranges: &Ranges<f32>, g: &Geometry) -> Result<Self> {
        let packed = bits <= 4 && g.c.is_multiple_of(16);
        let unit: Vec<f32> = ranges.w.iter().map(|w| ranges.unit(w)).collect();
        let zero: Vec<i32> = ranges.w_zero.iter().map(|z| *z as i32).collect();
        let of_taps = codes.chunks_exact(g.c).enumerate().map(|(i, codes)| {
            codes.iter().map(|q| i64::from(*q)).sum::<i64>() + g.c as i64 * ranges.w_zero[i / (g.r * g.s)]
        });
        let taps: Vec<i64> = of_taps.collect();
        Ok(Self {
            codes: if packed { upload(device, &pack_int4(codes)?)? } else { upload(device, codes)? },
            packed,
            unit: upload(device, &unit)?,
            zero: upload(device, &zero)?,
            taps: upload(device, bytemuck::cast_slice::<i64, u8>(&taps))?,
            x_zero: ranges.x_zero as i32,
        })
    }
}

/// `Weights` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct WeightArgs {
    unit: u64,
    zero: u64,
    taps: u64,
    x_zero: i32,
    padding: i32,
}

/// `Affine` of `kernels/include/quant.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct AffineArgs {
    scale: f32,
    zero: f32,
    low: f32,
    high: f32,
}

impl From<&Affine<f32>> for AffineArgs {
    fn from(a: &Affine<f32>) -> Self {
        Self { scale: a.scale, zero: a.zero, low: a.low, high: a.high }
    }
}

/// `StepArgs` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct StepArgs {
    vectors: [u64; 4],
    residual: u64,
    from: AffineArgs,
    to: AffineArgs,
    flags: i32,
    padding: i32,
}

/// Address of a branch, whether it is codes, and their quantizer.
fn branch(b: &Branch) -> (u64, bool, AffineArgs) {
    match b {
        Branch::Real(t) => (t.address(), false, AffineArgs::default()),
        Branch::Codes(t, a) => (t.address(), true, a.into()),
    }
}

fn args(tables: &Tables, steps: &Steps, residual: Option<&Branch>) -> StepArgs {
    let (address, codes, from) = residual.map(branch).unwrap_or_default();
    // In the order of the kernels' flags.
    let set = [steps.bias.is_some(), steps.norm.is_some(), residual.is_some(), codes, steps.relu, steps.to.is_some()];
    StepArgs {
        vectors: [0, 1, 2, 3].map(|i: usize| tables.vectors[i].as_ref().map_or(0, Tensor::address)),
        residual: address,
        from,
        to: steps.to.as_ref().map(AffineArgs::from).unwrap_or_default(),
        flags: set.iter().rev().fold(0, |flags, set| flags << 1 | i32::from(*set)),
        padding: 0,
    }
}

pub fn finish(
    tables: &Tables,
    steps: &Steps,
    channels: usize,
    x: &Branch,
    residual: Option<&Branch>,
    y: &mut Tensor,
) -> Result<()> {
    crate::ensure_op!(y.len() < i32::MAX as usize, OP, "{} values; a launch takes fewer than 2^31", y.len());
    let (address, codes, from) = branch(x);
    Launch::over("integer_layer_finish", y.len(), THREADS)
        .ptr(address)
        .val(i32::from(codes))
        .val(from)
        .val(args(tables, steps, residual))
        .ptr(y.address())
        .val(y.len() as i32)
        .val(channels as i32)
        .run(y.gpu().expect("a GPU tensor"))
}

pub fn layer(
    weights: &Weights,
    tables: &Tables,
    steps: &Steps,
    g: &Geometry,
    x: &Tensor,
    residual: Option<&Branch>,
    y: &mut Tensor,
) -> Result<()> {
    let aligned = |to: u64| [x, &weights.codes].iter().all(|t| t.address().is_multiple_of(to));
    let sixteens = g.c.is_multiple_of(16) && aligned(16);
    crate::ensure_op!(!weights.packed || sixteens, OP, "packed filters and their input must be 16-byte aligned");
    let gpu = y.gpu().expect("a GPU tensor");
    let tile = if sixteens { WgmmaTile::of(gpu, g) } else { None };
    let (kernel, cols, smem) = match (tile, g.k, weights.packed) {
        (Some(t), _, packed) => (WGMMA[usize::from(packed)][t.variant], t.cols, t.smem),
        _ if !g.c.is_multiple_of(4) || !aligned(4) => ("integer_layer_any", 32, 0),
        _ if !sixteens => ("integer_layer_c4", 32, 0),
        (_, 0..=16, false) => ("integer_layer_n16", 16, 0),
        (_, 17..=32, false) => ("integer_layer_n32", 32, 0),
        (_, _, false) => ("integer_layer_n64", 64, 0),
        (_, 0..=16, true) => ("integer_layer_n16_w4", 16, 0),
        (_, 17..=32, true) => ("integer_layer_n32_w4", 32, 0),
        (_, _, true) => ("integer_layer_n64_w4", 64, 0),
    };
    let w = WeightArgs {
        unit: weights.unit.address(),
        zero: weights.zero.address(),
        taps: weights.taps.address(),
        x_zero: weights.x_zero,
        padding: 0,
    };
    Launch::new(kernel)
        .grid([(g.n * g.p * g.q).div_ceil(ROWS) as u32, g.k.div_ceil(cols) as u32, 1])
        .block([THREADS, 1, 1])
        .smem(smem)
        .val(KernelShape::new(g)?)
        .ptr(x.address())
        .ptr(weights.codes.address())
        .val(w)
        .val(args(tables, steps, residual))
        .ptr(y.address())
        .run(gpu)
}
