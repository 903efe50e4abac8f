//! The parameter-free shortcut of residual networks where size or width changes (He et al. 2016, option A): every
//! `stride`-th pixel, and zero channels before and after.

use super::case::{Case, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Shape, Tensor};
use rayon::prelude::*;

/// `x[n h w c]` to `[n ceil(h / stride) ceil(w / stride) c_out]`, where channel `j` of x becomes `j + (c_out - c) / 2`
/// and all others are zero. F32 (F64 on the CPU). Errors if `c_out < c` or `stride` is 0.
pub fn shortcut_a(tape: &mut Tape, x: &Var, stride: usize, c_out: usize) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc("shortcut_a")?;
    crate::ensure_op!(
        stride > 0 && c_out >= c && c > 0,
        "shortcut_a",
        "x of shape {} to {c_out} channels at stride {stride}",
        x.shape()
    );
    let shape = [n, h.div_ceil(stride), w.div_ceil(stride), c_out];
    let mut y = Tensor::empty_like(&x.value, shape)?;
    if x.value.gpu().is_some() {
        gpu("shortcut_fwd_f32", &x.value, &mut y, x.shape(), shape.into(), stride)?;
    } else {
        crate::for_real!("shortcut_a", x.dtype(), T => {
            let (x, first) = (x.value.host::<T>(), (c_out - c) / 2);
            y.host_mut::<T>().par_chunks_mut(shape[2] * c_out).enumerate().for_each(|(row, y)| {
                y.fill(T::of(0.0));
                let source = (row / shape[1] * h + row % shape[1] * stride) * w;
                for (i, y) in y.chunks_exact_mut(c_out).enumerate() {
                    y[first..first + c].copy_from_slice(&x[(source + i * stride) * c..][..c]);
                }
            });
            Ok(())
        })?;
    }
    Ok(tape.record_one(ShortcutOp { shape: x.shape(), stride }, &[x], y))
}

struct ShortcutOp {
    shape: Shape,
    stride: usize,
}

impl Op for ShortcutOp {
    fn name(&self) -> &'static str {
        "shortcut_a"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let (stride, small) = (self.stride, dy.shape());
        let [_, h, w, c] = self.shape.nhwc("shortcut_a")?;
        let mut dx = Tensor::empty_like(&dy, self.shape)?;
        if dy.gpu().is_some() {
            gpu("shortcut_bwd_f32", &dy, &mut dx, self.shape, small, stride)?;
        } else {
            crate::for_real!("shortcut_a", dy.dtype(), T => {
                let (dy, first) = (dy.host::<T>(), (small[3] - c) / 2);
                dx.host_mut::<T>().par_chunks_mut(w * c).enumerate().for_each(|(row, dx)| {
                    dx.fill(T::of(0.0));
                    let (image, y) = (row / h, row % h);
                    if y % stride != 0 {
                        return;
                    }
                    let source = (image * small[1] + y / stride) * small[2];
                    for (i, dx) in dx.chunks_exact_mut(c).step_by(stride).enumerate() {
                        dx.copy_from_slice(&dy[(source + i) * small[3] + first..][..c]);
                    }
                });
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

/// One thread per element of `out`; `large` is x's shape, `small` y's.
fn gpu(kernel: &'static str, a: &Tensor, out: &mut Tensor, large: Shape, small: Shape, stride: usize) -> Result<()> {
    Launch::over(kernel, out.len(), 256)
        .ptr(a.address())
        .ptr(out.address())
        .val([large[1], large[2], large[3], small[1], small[2], small[3], stride, out.len()].map(|v| v as i32))
        .run(a.gpu().expect("called for GPU tensors"))
}

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], stride: usize, c_out: usize| {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![shortcut_a(t, &v[0], stride, c_out)?]);
        let bytes = 4.0 * (shape.iter().product::<usize>() as f64 + (shape[0] * shape[1] * shape[2] * c_out) as f64)
            / (stride * stride) as f64;
        Case::new(format!("{}_s{stride}_c{c_out}", Shape::from(shape)), vec![Input::grad(shape)], run).cost(0.0, bytes)
    };
    vec![
        case([1, 1, 1, 1], 1, 1),
        case([1, 1, 1, 1], 2, 4),
        case([3, 5, 7, 11], 2, 22),
        case([2, 4, 4, 3], 2, 8),
        case([2, 7, 5, 4], 3, 7),
        case([64, 32, 32, 16], 2, 32).bench(),
    ]
}
