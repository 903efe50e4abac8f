//! Mixing a tensor with its quantized form element by element (QDrop, Wei et al. 2022, arXiv 2203.05740): what is rebuilt
//! block by block sees quantized activations only in part.
//!
//! `y = draw < drop ? full : quantized`, `draw` uniform in `[0, 1)`; gradients go to where the value came from.

use super::case::{Case, Fill, Input};
use super::row_loss;
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

const OP: &str = "qdrop";
/// Elements per task on the CPU.
const CHUNK: usize = 1 << 14;

/// `full` where `draw < drop`, else `quantized`. All of one shape (any) and dtype, F32 (F64 on the CPU); `drop` in `0..=1`.
/// Gradients to both. Errors otherwise.
pub fn qdrop(tape: &mut Tape, full: &Var, quantized: &Var, draw: &Tensor, drop: f32) -> Result<Var> {
    row_loss::check_like(OP, "the quantized tensor", &quantized.value, &full.value)?;
    row_loss::check_like(OP, "the draw", draw, &full.value)?;
    crate::ensure_op!((0.0..=1.0).contains(&drop), OP, "drop must lie in 0..=1, got {drop}");
    let n = full.value.len();
    crate::ensure_op!((1..=1 << 30).contains(&n), OP, "cannot mix {}", full.shape());
    let mut y = Tensor::empty_like(&full.value, full.shape())?;
    if let Some(gpu) = y.gpu() {
        Launch::over("qdrop_fwd_f32", n, 256)
            .ptr(full.value.address())
            .ptr(quantized.value.address())
            .ptr(draw.address())
            .ptr(y.address())
            .val(n as i32)
            .val(drop)
            .run(gpu)?;
    } else {
        crate::for_real!(OP, full.dtype(), T => {
            select::<T>(y.host_mut(), draw.host(), full.value.host(), quantized.value.host(), drop);
            Ok(())
        })?;
    }
    Ok(tape.record_one(QdropOp { draw: draw.clone(), drop }, &[full, quantized], y))
}

fn select<T: Real>(y: &mut [T], draw: &[T], a: &[T], b: &[T], drop: f32) {
    let drop = T::of(drop.into());
    let inputs = draw.par_chunks(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)));
    y.par_chunks_mut(CHUNK).zip(inputs).for_each(|(y, (draw, (a, b)))| {
        vectorize(
            #[inline(always)]
            move || {
                for ((y, d), (a, b)) in y.iter_mut().zip(draw).zip(a.iter().zip(b)) {
                    let (a, b) = (*a, *b);
                    *y = if *d < drop { a } else { b };
                }
            },
        );
    });
}

struct QdropOp {
    draw: Tensor,
    drop: f32,
}

impl Op for QdropOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        for i in [0, 1] {
            if !cx.needs(i) {
                continue;
            }
            let mut dx = Tensor::empty_like(&dy, dy.shape())?;
            if let Some(gpu) = dy.gpu() {
                Launch::over("qdrop_bwd_f32", dy.len(), 256)
                    .ptr(self.draw.address())
                    .ptr(dy.address())
                    .ptr(dx.address())
                    .val(dy.len() as i32)
                    .val(self.drop)
                    .val(i as i32)
                    .run(gpu)?;
            } else {
                crate::for_real!(OP, dy.dtype(), T => {
                    let drop = T::of(self.drop.into());
                    let tasks = dx.host_mut::<T>().par_chunks_mut(CHUNK)
                        .zip(self.draw.host::<T>().par_chunks(CHUNK).zip(dy.host::<T>().par_chunks(CHUNK)));
                    tasks.for_each(|(dx, (draw, dy))| {
                        for (dx, (d, dy)) in dx.iter_mut().zip(draw.iter().zip(dy)) {
                            let dy = *dy;
                            *dx = if (*d < drop) == (i == 0) { dy } else { T::of(0.0) };
                        }
                    });
                    Ok(())
                })?;
            }
            cx.give(i, dx)?;
        }
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], drop: f32| {
        let draw = Input::plain(shape).fill(Fill::Uniform { low: 0.0, high: 1.0 });
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![qdrop(t, &v[0], &v[1], &v[2].value, drop)?]);
        let name = format!("{}_{drop}", crate::tensor::Shape::from(shape));
        Case::new(name, vec![Input::grad(shape), Input::grad(shape), draw], run)
    };
    let n = (32 * 32 * 32 * 16) as f64;
    vec![
        case([1, 1, 1, 1], 0.5),
        case([3, 5, 7, 11], 0.5),
        case([2, 4, 4, 3], 0.0),
        case([2, 4, 4, 3], 1.0),
        case([2, 13, 17, 5], 0.3),
        case([32, 32, 32, 16], 0.5).cost(n, 16.0 * n).bench(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn a_share_of_the_elements_is_dropped() {
        let d = Device::cpu();
        let draw = crate::ops::random::uniform(&d, [40_000], 1, 2).unwrap();
        let full = Var::constant(crate::tensor::init::full(&d, [40_000], 1.0).unwrap());
        let quantized = Var::constant(Tensor::zeros(&d, [40_000], full.dtype()).unwrap());
        let mut tape = Tape::inference(&d);
        let y = qdrop(&mut tape, &full, &quantized, &draw, 0.3).unwrap().value.to_vec::<f32>().unwrap();
        let share = y.iter().sum::<f32>() / 40_000.0;
        assert!((share - 0.3).abs() < 0.012, "{share}");
        assert!(qdrop(&mut tape, &full, &quantized, &draw, 1.5).is_err());
    }
}
