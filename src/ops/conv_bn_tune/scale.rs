//! Scaled filters of many layers at once.

use super::{OP, TuneNorm, checked_vectors};
use crate::Result;
use crate::device::{Gpu, Launch};
use crate::tensor::Tensor;

/// Layers of a launch, mirrored in `kernels/conv_bn_tune.cu`.
const LAYERS: usize = 48;

/// A convolution and its batch normalization.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// `[k r s c]`.
    pub w: &'a Tensor,
    /// `[k]`.
    pub bias: Option<&'a Tensor>,
    pub norm: TuneNorm<'a>,
}

/// A filter `w' = s w [k r s c]` and a shift `b' = beta + s (b - mu) [k]`, see [`super`].
#[derive(Clone)]
pub struct Scaled {
    pub(super) filter: Tensor,
    pub(super) shift: Tensor,
}

impl Scaled {
    /// For a filter `w` of `k` outputs, to be written.
    pub(super) fn empty(w: &Tensor, k: usize) -> Result<Self> {
        Ok(Self { filter: Tensor::empty_like(w, w.shape())?, shift: Tensor::empty_like(w, [k])? })
    }

    /// The filter and the shift.
    pub(in crate::ops) fn parts(self) -> (Tensor, Tensor) {
        (self.filter, self.shift)
    }
}

/// Scales the filters of all `layers`, which on a GPU is one launch per 48. F32 (F64 on the CPU), all on one device; what a
/// layer's `norm` holds already is not looked at. Errors on vectors that do not fit their filter. Pass the results on as
/// [`TuneNorm::scaled`].
pub fn scale(layers: &[Layer]) -> Result<Vec<Scaled>> {
    let Some(first) = layers.first() else { return Ok(Vec::new()) };
    for l in layers {
        crate::ensure_op!(l.w.device() == first.w.device(), OP, "{:?} and {:?} differ in device", l.w, first.w);
    }
    let folds = layers.iter().map(|l| checked_vectors(l.w, l.bias, l.norm)).collect::<Result<Vec<_>>>()?;
    let Some(gpu) = first.w.gpu() else {
        return folds.iter().zip(layers).map(|(fold, l)| fold.apply(l.w)).collect();
    };
    let made = layers.iter().map(|l| Scaled::empty(l.w, l.norm.mean.len())).collect::<Result<Vec<_>>>()?;
    let rows: Vec<Row> =
        folds.iter().zip(layers).zip(&made).map(|((fold, l), made)| fold.row(l.w, made)).collect();
    for rows in rows.chunks(LAYERS) {
        launch(rows, gpu)?;
    }
    Ok(made)
}

/// Mirrors `TuneLayer` in `kernels/conv_bn_tune.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Row {
    /// Gamma, beta and bias; 0 for an absent one.
    pub vectors: [u64; 3],
    /// Mean and variance.
    pub stored: [u64; 2],
    pub w: u64,
    pub scaled: u64,
    pub shift: u64,
    pub k: i32,
    pub length: i32,
    pub eps: f32,
    pub padding: i32,
}

/// Up to [`LAYERS`] layers.
pub(super) fn launch(rows: &[Row], gpu: &Gpu) -> Result<()> {
    let mut table = [bytemuck::Zeroable::zeroed(); LAYERS];
    table[..rows.len()].copy_from_slice(rows);
    let most = rows.iter().map(|r| r.k as u32).max().unwrap_or(1);
    let behind: Vec<u64> = rows.iter().flat_map(|r| [r.w, r.scaled]).collect();
    Launch::new("conv_bn_tune_scale_f32")
        .grid([most, rows.len() as u32, 1])
        .block([128, 1, 1])
        .val::<[Row; LAYERS]>(table)
        .behind(&behind)
        .run(gpu)
}
