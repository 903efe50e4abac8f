//! Nearest-neighbour enlargement by a whole factor: `y[n, i, j, :] = x[n, i / f, j / f, :]`. Backward sums each block.

use super::case::{Case, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

/// `x[n h w c]` to `[n h*factor w*factor c]`. F32 (F64 on the CPU). Errors if `factor` is 0.
pub fn upsample_nearest(tape: &mut Tape, x: &Var, factor: usize) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc("upsample_nearest")?;
    crate::ensure_op!(factor > 0 && c > 0, "upsample_nearest", "x of shape {} by factor {factor}", x.shape());
    let mut y = Tensor::empty_like(&x.value, [n, h * factor, w * factor, c])?;
    if x.value.gpu().is_some() {
        gpu("upsample_fwd_f32", &x.value, &mut y, [w, c, factor])?;
    } else {
        crate::for_real!("upsample_nearest", x.dtype(), T => {
            let bands = y.host_mut::<T>().par_chunks_mut(factor * factor * w * c);
            bands.zip(x.value.host::<T>().par_chunks(w * c)).for_each(|(y, x)| {
                let (first, rest) = y.split_at_mut(factor * w * c);
                for (y, x) in first.chunks_exact_mut(factor * c).zip(x.chunks_exact(c)) {
                    y.chunks_exact_mut(c).for_each(|y| y.copy_from_slice(x));
                }
                rest.chunks_exact_mut(first.len()).for_each(|row| row.copy_from_slice(first));
            });
            Ok(())
        })?;
    }
    Ok(tape.record_one(UpsampleOp { factor }, &[x], y))
}

struct UpsampleOp {
    factor: usize,
}

impl Op for UpsampleOp {
    fn name(&self) -> &'static str {
        "upsample_nearest"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let f = self.factor;
        let [n, h, w, c] = dy.shape().nhwc("upsample_nearest")?;
        let (h, w) = (h / f, w / f);
        let mut dx = Tensor::empty_like(&dy, [n, h, w, c])?;
        if dy.gpu().is_some() {
            gpu("upsample_bwd_f32", &dy, &mut dx, [w, c, f])?;
        } else {
            crate::for_real!("upsample_nearest", dy.dtype(), T => {
                let bands = dy.host::<T>().par_chunks(f * f * w * c);
                dx.host_mut::<T>().par_chunks_mut(w * c).zip(bands).for_each(|(dx, dy)| {
                    vectorize(#[inline(always)] || sum_blocks(dx, dy, w, c, f));
                });
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

#[inline(always)]
fn sum_blocks<T: Real>(dx: &mut [T], dy: &[T], w: usize, c: usize, f: usize) {
    dx.fill(T::of(0.0));
    for row in dy.chunks_exact(f * w * c) {
        for (dx, block) in dx.chunks_exact_mut(c).zip(row.chunks_exact(f * c)) {
            for dy in block.chunks_exact(c) {
                for (d, g) in dx.iter_mut().zip(dy) {
                    *d += *g;
                }
            }
        }
    }
}

/// One thread per element of `out`; `[w, c, factor]` of the small image.
fn gpu(kernel: &'static str, a: &Tensor, out: &mut Tensor, sizes: [usize; 3]) -> Result<()> {
    let [w, c, factor] = sizes.map(|v| v as i32);
    Launch::over(kernel, out.len(), 256)
        .ptr(a.address())
        .ptr(out.address())
        .val(out.len() as i32)
        .val(w)
        .val(c)
        .val(factor)
        .run(a.gpu().expect("called for GPU tensors"))
}

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], factor: usize| {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![upsample_nearest(t, &v[0], factor)?]);
        let bytes = 4.0 * shape.iter().product::<usize>() as f64 * (1 + factor * factor) as f64;
        Case::new(format!("{}_x{factor}", crate::tensor::Shape::from(shape)), vec![Input::grad(shape)], run)
            .reduction(factor * factor)
            .cost(0.0, bytes)
    };
    vec![
        case([1, 1, 1, 1], 2),
        case([3, 5, 7, 11], 2),
        case([2, 4, 4, 3], 2),
        case([2, 3, 2, 5], 3),
        case([64, 16, 16, 128], 2).bench(),
    ]
}
