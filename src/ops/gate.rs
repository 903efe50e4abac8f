//! A gate per image and channel: squeeze-and-excitation (Hu et al. 2018), `y[n, h, w, c] = x[n, h, w, c] g[n, c]`.
//!
//! `dx = dy g`, `dg[n, c] = sum over pixels of dy x`.

use super::case::{Case, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

/// `x[n h w c]` times `g`, `[n c]` or `[n 1 1 c]`, which holds for all pixels of an image. F32 (F64 on the CPU). Errors if
/// shapes or dtypes do not fit or `x` is empty.
pub fn gate(tape: &mut Tape, x: &Var, g: &Var) -> Result<Var> {
    let [n, _, _, c] = x.shape().nhwc("gate")?;
    let fits = g.shape()[..] == [n, c] || g.shape()[..] == [n, 1, 1, c];
    crate::ensure_op!(
        fits && g.dtype() == x.dtype() && !x.value.is_empty(),
        "gate",
        "a gate of shape {} {:?} does not fit {} {:?}: one value per image and channel is expected",
        g.shape(),
        g.dtype(),
        x.shape(),
        x.dtype()
    );
    let y = scaled(&x.value, &g.value)?;
    // Each value is the other input's derivative.
    let op = GateOp { x: g.needs_grad().then(|| x.value.clone()), g: g.value.clone() };
    Ok(tape.record_one(op, &[x, g], y))
}

struct GateOp {
    /// Kept where the gate needs a gradient.
    x: Option<Tensor>,
    g: Tensor,
}

impl Op for GateOp {
    fn name(&self) -> &'static str {
        "gate"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        if cx.needs(0) {
            cx.give(0, scaled(&dy, &self.g)?)?;
        }
        if let (true, Some(x)) = (cx.needs(1), &self.x) {
            cx.give(1, products(&dy, x, &self.g)?)?;
        }
        Ok(())
    }
}

/// Every pixel of `x` times its image's `g`.
fn scaled(x: &Tensor, g: &Tensor) -> Result<Tensor> {
    let [_, h, w, c] = x.shape().nhwc("gate")?;
    let mut y = Tensor::empty_like(x, x.shape())?;
    if let Some(gpu) = x.gpu() {
        Launch::over("gate_fwd_f32", x.len(), 256)
            .ptr(x.address())
            .ptr(g.address())
            .ptr(y.address())
            .val([x.len(), h * w, c].map(|v| v as i32))
            .run(gpu)?;
        return Ok(y);
    }
    crate::for_real!("gate", x.dtype(), T => {
        let rows = x.host::<T>().par_chunks(w * c);
        y.host_mut::<T>().par_chunks_mut(w * c).zip(rows).enumerate().for_each(|(row, (y, x))| {
            let g = &g.host::<T>()[row / h * c..][..c];
            vectorize(
                #[inline(always)]
                || {
                    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                        for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
                            *y = *x * *g;
                        }
                    }
                },
            );
        });
        Ok(())
    })?;
    Ok(y)
}

/// Sums of `dy x` over the pixels of each image, in `g`'s shape.
fn products(dy: &Tensor, x: &Tensor, g: &Tensor) -> Result<Tensor> {
    let [n, h, w, c] = x.shape().nhwc("gate")?;
    let mut dg = Tensor::empty_like(x, g.shape())?;
    if let Some(gpu) = x.gpu() {
        Launch::new("gate_bwd_sums_f32")
            .grid([n as u32, c.div_ceil(32) as u32, 1])
            .block([256, 1, 1])
            .ptr(dy.address())
            .ptr(x.address())
            .ptr(dg.address())
            .val([h * w, c].map(|v| v as i32))
            .run(gpu)?;
        return Ok(dg);
    }
    crate::for_real!("gate", x.dtype(), T => {
        let images = dy.host::<T>().par_chunks(h * w * c).zip(x.host::<T>().par_chunks(h * w * c));
        dg.host_mut::<T>().par_chunks_mut(c).zip(images).for_each(|(dg, (dy, x))| {
            vectorize(#[inline(always)] || sum_products(dg, dy, x));
        });
        Ok(())
    })?;
    Ok(dg)
}

#[inline(always)]
fn sum_products<T: Real>(sums: &mut [T], a: &[T], b: &[T]) {
    let c = sums.len();
    sums.fill(T::zero());
    for (a, b) in a.chunks_exact(c).zip(b.chunks_exact(c)) {
        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
            *s += *a * *b;
        }
    }
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![gate(t, &v[0], &v[1])?]);
    let case = |shape: [usize; 4], g: &[usize]| {
        let elements = shape.iter().product::<usize>() as f64;
        Case::new(format!("{}", crate::tensor::Shape::from(shape)), vec![Input::grad(shape), Input::grad(g)], run)
            .reduction(shape[1] * shape[2])
            .cost(elements, 8.0 * elements)
    };
    let frozen = |name: &str, inputs| Case::new(name, inputs, run).reduction(15);
    vec![
        case([1, 1, 1, 1], &[1, 1]),
        case([3, 5, 7, 11], &[3, 11]),
        case([2, 4, 4, 3], &[2, 1, 1, 3]),
        case([1, 3, 2, 37], &[1, 37]),
        case([2, 1, 1, 5], &[2, 1, 1, 5]),
        frozen("constant_gate", vec![Input::grad([2, 3, 5, 7]), Input::plain([2, 7])]),
        frozen("constant_map", vec![Input::plain([2, 3, 5, 7]), Input::grad([2, 7])]),
        case([32, 28, 28, 96], &[32, 96]).bench(),
    ]
}
