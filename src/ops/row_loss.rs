//! What scalar losses that are sums of row losses share: rows and their gradients are computed together in the forward
//! pass, in f64 (rows are small, and differences of logarithms cancel), rounded once; the backward pass only scales, and where
//! the loss is what the tape differentiates it has nothing to do.

use crate::autograd::{Backward, Op, Scale, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
use crate::{Error, Result};
use rayon::prelude::*;

/// `loss[0]` = sum of `rows` (F64), in a fixed order; both on a GPU.
pub(crate) fn sum_on_gpu(rows: &Tensor, loss: &Tensor) -> Result<()> {
    let Some(gpu) = rows.gpu() else { return Err(Error::op("loss_sum", "the rows are not on a GPU")) };
    Launch::new("loss_sum_f32")
        .block([256, 1, 1])
        .ptr(rows.address())
        .ptr(loss.address())
        .val(rows.len() as i32)
        .run(gpu)
}

/// Room for the gradient of each input that the tape wants one of.
pub(crate) fn slopes(tape: &Tape, inputs: &[&Var]) -> Result<Vec<Option<Tensor>>> {
    let make = |v: &&Var| tape.wants(&[v]).then(|| Tensor::empty_like(&v.value, v.shape())).transpose();
    inputs.iter().map(make).collect()
}

/// Address of a slope, null if it is not wanted.
pub(crate) fn address(slope: &Option<Tensor>) -> u64 {
    slope.as_ref().map_or(0, Tensor::address)
}

/// Rows on the CPU: `row(i, g)` returns row `i`'s loss and adds its gradients to `g`, zero at first, `width` values for
/// each of `slopes` in turn. Returns the sum of losses.
pub(crate) fn on_cpu<T: Real>(
    rows: usize,
    width: usize,
    slopes: &mut [Option<Tensor>],
    row: impl Fn(usize, &mut [f64]) -> f64 + Sync,
) -> f64 {
    let results: Vec<(f64, Vec<f64>)> = (0..rows)
        .into_par_iter()
        .map(|i| {
            let mut g = vec![0.0; width * slopes.len()];
            (row(i, &mut g), g)
        })
        .collect();
    for (at, slope) in slopes.iter_mut().enumerate() {
        let Some(slope) = slope else { continue };
        for (out, (_, g)) in slope.host_mut::<T>().chunks_exact_mut(width).zip(&results) {
            out.iter_mut().zip(&g[at * width..]).for_each(|(o, g)| *o = T::of(*g));
        }
    }
    results.iter().map(|(loss, _)| loss).sum()
}

/// Records `loss` `[1]` with these gradients to `inputs`.
pub(crate) fn record(
    tape: &mut Tape,
    op: &'static str,
    inputs: &[&Var],
    slopes: Vec<Option<Tensor>>,
    loss: Tensor,
) -> Var {
    tape.record_one(SlopeOp { op, slopes }, inputs, loss)
}

/// `[n, c]` of logits or features that are not empty.
pub(crate) fn rows_of(op: &'static str, x: &Tensor) -> Result<[usize; 2]> {
    let s = x.shape();
    crate::ensure_op!(s.len() == 2 && s.elements() > 0, op, "expected [n, c], not empty, got {s}");
    crate::ensure_op!(s.elements() <= i32::MAX as usize, op, "{s} has more than 2^31 - 1 elements");
    Ok([s[0], s[1]])
}

/// `labels` must be I32 `[n]`; on the CPU each in `0..classes` (a GPU's kernel must make the loss NaN otherwise).
pub(crate) fn check_labels(op: &'static str, labels: &Tensor, n: usize, classes: usize) -> Result<()> {
    let same = labels.dtype() == DType::I32 && labels.len() == n;
    crate::ensure_op!(same, op, "labels must be I32 [{n}], got {:?} {}", labels.dtype(), labels.shape());
    if labels.gpu().is_none() {
        let bad = labels.host::<i32>().iter().position(|&l| !(0..classes as i32).contains(&l));
        if let Some(i) = bad {
            let detail = format!("label {} of sample {i} is not in 0..{classes}", labels.host::<i32>()[i]);
            return Err(Error::op(op, detail));
        }
    }
    Ok(())
}

/// `t` must have the shape and dtype of `like`.
pub(crate) fn check_like(op: &'static str, name: &str, t: &Tensor, like: &Tensor) -> Result<()> {
    let same = t.shape() == like.shape() && t.dtype() == like.dtype();
    crate::ensure_op!(
        same,
        op,
        "{name} is {:?} {}, expected {:?} {}",
        t.dtype(),
        t.shape(),
        like.dtype(),
        like.shape()
    );
    Ok(())
}

struct SlopeOp {
    op: &'static str,
    /// Gradients of the loss to the inputs.
    slopes: Vec<Option<Tensor>>,
}

impl Op for SlopeOp {
    fn name(&self) -> &'static str {
        self.op
    }
    fn takes_scale(&self) -> bool {
        true
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.scale() else { return Ok(()) };
        for (i, slope) in self.slopes.into_iter().enumerate() {
            let Some(slope) = slope else { continue };
            if matches!(dy, Scale::Known(1.0)) {
                cx.give(i, slope)?;
                continue;
            }
            let mut dx = Tensor::empty_like(&slope, slope.shape())?;
            if let Some(gpu) = dx.gpu() {
                let (stored, known) = dy.on_device();
                Launch::over("loss_scale_f32", dx.len(), 256)
                    .ptr(slope.address())
                    .ptr(stored)
                    .ptr(dx.address())
                    .val(known)
                    .val(dx.len() as i32)
                    .run(gpu)?;
            } else {
                crate::for_real!(self.op, dx.dtype(), T => {
                    let dy = dy.on_host::<T>();
                    dx.host_mut::<T>().iter_mut().zip(slope.host::<T>()).for_each(|(d, s)| *d = *s * dy);
                    Ok(())
                })?;
            }
            cx.give(i, dx)?;
        }
        Ok(())
    }
}
