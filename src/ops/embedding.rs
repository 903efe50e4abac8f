//! Rows of a table by label.
//!
//! `y[i, :] = table[labels[i], :]`; backward `dtable[v, :] = sum over i with labels[i] = v of dy[i, :]`, added in the
//! order of `i` (one worker per table row, so nothing depends on scheduling).

use super::case::{Case, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Shape, Tensor};
use rayon::prelude::*;

/// Gathers `table[v d]` (F32, or F64 on the CPU) at `labels[n]` (I32): `[n d]`. Errors on other shapes, and on the CPU
/// on a label outside `0..v`; on a GPU, where reading labels would stall, such a row is NaN.
pub fn embedding(tape: &mut Tape, table: &Var, labels: &Tensor) -> Result<Var> {
    crate::ensure_op!(
        table.shape().len() == 2 && labels.dtype() == DType::I32 && !table.value.is_empty(),
        "embedding",
        "expected a table (v d) and I32 labels, got {} and {:?}",
        table.shape(),
        labels.dtype()
    );
    let (v, d, n) = (table.value.dim(0), table.value.dim(1), labels.len());
    let mut y = Tensor::empty_like(&table.value, [n, d])?;
    if let Some(gpu) = table.value.gpu() {
        Launch::over("embedding_fwd_f32", n * d, 256)
            .ptr(table.value.address())
            .ptr(labels.address())
            .ptr(y.address())
            .val(n as i32)
            .val(d as i32)
            .val(v as i32)
            .run(gpu)?;
    } else {
        for (i, &l) in labels.host::<i32>().iter().enumerate() {
            crate::ensure_op!((0..v as i32).contains(&l), "embedding", "label {i} is {l}, the table has {v} rows");
        }
        crate::for_real!("embedding", table.dtype(), T => {
            let rows = table.value.host::<T>();
            for (y, &l) in y.host_mut::<T>().chunks_mut(d).zip(labels.host::<i32>()) {
                y.copy_from_slice(&rows[l as usize * d..][..d]);
            }
            Ok(())
        })?;
    }
    let op = EmbeddingOp { labels: labels.clone(), shape: table.shape() };
    Ok(tape.record_one(op, &[table], y))
}

struct EmbeddingOp {
    labels: Tensor,
    shape: Shape,
}

impl Op for EmbeddingOp {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let (v, d) = (self.shape[0], self.shape[1]);
        let mut dtable = Tensor::empty_like(&dy, self.shape)?;
        if let Some(gpu) = dy.gpu() {
            Launch::new("embedding_bwd_f32")
                .grid([v as u32, 1, 1])
                .block([128, 1, 1])
                .ptr(dy.address())
                .ptr(self.labels.address())
                .ptr(dtable.address())
                .val(self.labels.len() as i32)
                .val(d as i32)
                .run(gpu)?;
        } else {
            crate::for_real!("embedding", dy.dtype(), T => {
                cpu_backward::<T>(dtable.host_mut(), dy.host(), self.labels.host(), d);
                Ok(())
            })?;
        }
        cx.give(0, dtable)
    }
}

fn cpu_backward<T: Real>(dtable: &mut [T], dy: &[T], labels: &[i32], d: usize) {
    dtable.par_chunks_mut(d).enumerate().for_each(|(row, out)| {
        out.fill(T::of(0.0));
        for (_, dy) in labels.iter().zip(dy.chunks(d)).filter(|(l, _)| **l as usize == row) {
            for (o, g) in out.iter_mut().zip(dy) {
                *o += *g;
            }
        }
    });
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![embedding(t, &v[0], &v[1].value)?]);
    let case = |v: usize, d: usize, n: usize| {
        Case::new(format!("v{v}_d{d}_n{n}"), vec![Input::grad([v, d]), Input::labels(n, v)], run)
            .reduction(n)
            .cost(0.0, 8.0 * (n * d) as f64)
    };
    vec![case(1, 1, 1), case(3, 1, 7), case(7, 11, 13), case(10, 100, 5), case(5, 131, 40), case(10, 100, 64).bench()]
}
