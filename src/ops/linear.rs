//! Fully connected layer: `y[i, j] = sum over l of x[i, l] w[j, l] + bias[j]`.
//!
//! Gradients `dx = dy w`, `dw = dy^T x`, `dbias[j] = sum over i of dy[i, j]`.

mod cpu;
mod gpu;

use super::case::{Case, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::tensor::{Real, Tensor};
use cpu::Matrix;

/// `x[n c] w[k c]^T + bias[k]`: `[n k]`. F32 (F64 on the CPU). Errors if shapes do not fit.
pub fn linear(tape: &mut Tape, x: &Var, w: &Var, bias: Option<&Var>) -> Result<Var> {
    let fits = x.shape().len() == 2 && w.shape().len() == 2 && x.shape()[1] == w.shape()[1];
    crate::ensure_op!(fits && !w.value.is_empty(), "linear", "x of shape {} does not fit w of {}", x.shape(), w.shape());
    let (n, c, k) = (x.shape()[0], x.shape()[1], w.shape()[0]);
    if let Some(b) = bias {
        crate::ensure_op!(b.value.len() == k, "linear", "bias of shape {} for {k} outputs", b.shape());
    }
    let mut y = Tensor::empty_like(&x.value, [n, k])?;
    let bias_value = bias.map(|b| &b.value);
    if x.value.gpu().is_some() {
        gpu::forward(&x.value, &w.value, bias_value, &mut y)?;
    } else {
        crate::for_real!("linear", x.dtype(), T => {
            let (x, wt) = (Matrix::new(x.value.host::<T>(), c), Matrix::transposed(w.value.host::<T>(), c));
            cpu::product(x, wt, y.host_mut(), [n, k, c]);
            if let Some(b) = bias_value {
                y.host_mut::<T>().chunks_mut(k).for_each(|y| y.iter_mut().zip(b.host::<T>()).for_each(|(y, b)| *y += *b));
            }
            Ok(())
        })?;
    }
    Ok(record(tape, x, w, bias, y))
}

/// Records `y[n k]`, however it was computed, as `x[n c] w[k c]^T + bias`.
pub(crate) fn record(tape: &mut Tape, x: &Var, w: &Var, bias: Option<&Var>, y: Tensor) -> Var {
    let none = Var::constant(y.clone());
    let bias = bias.unwrap_or(&none);
    // Each factor is kept for the other's gradient.
    let op = LinearOp {
        x: w.needs_grad().then(|| x.value.clone()),
        w: x.needs_grad().then(|| w.value.clone()),
        sizes: [x.shape()[0], x.shape()[1], w.shape()[0]],
    };
    tape.record_one(op, &[x, w, bias], y)
}

struct LinearOp {
    x: Option<Tensor>,
    w: Option<Tensor>,
    /// n, c, k.
    sizes: [usize; 3],
}

impl Op for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let [n, c, k] = self.sizes;
        if let (true, Some(w)) = (cx.needs(0), &self.w) {
            let mut dx = Tensor::empty_like(&dy, [n, c])?;
            if dy.gpu().is_some() {
                gpu::backward_x(&dy, w, &mut dx)?;
            } else {
                crate::for_real!("linear", dy.dtype(), T => {
                    let (dy, w) = (Matrix::new(dy.host::<T>(), k), Matrix::new(w.host::<T>(), c));
                    cpu::product(dy, w, dx.host_mut(), [n, c, k]);
                    Ok(())
                })?;
            }
            cx.give(0, dx)?;
        }
        if let (true, Some(x)) = (cx.needs(1), &self.x) {
            let mut dw = Tensor::empty_like(&dy, [k, c])?;
            if dy.gpu().is_some() {
                gpu::backward_w(&dy, x, &mut dw)?;
            } else {
                crate::for_real!("linear", dy.dtype(), T => {
                    let (dyt, x) = (Matrix::transposed(dy.host::<T>(), k), Matrix::new(x.host::<T>(), c));
                    cpu::product(dyt, x, dw.host_mut(), [k, c, n]);
                    Ok(())
                })?;
            }
            cx.give(1, dw)?;
        }
        if cx.needs(2) {
            let mut db = Tensor::empty_like(&dy, [k])?;
            if dy.gpu().is_some() {
                gpu::backward_bias(&dy, &mut db)?;
            } else {
                crate::for_real!("linear", dy.dtype(), T => {
                    let db = db.host_mut::<T>();
                    db.fill(T::of(0.0));
                    dy.host::<T>().chunks(k).for_each(|dy| db.iter_mut().zip(dy).for_each(|(b, d)| *b += *d));
                    Ok(())
                })?;
            }
            cx.give(2, db)?;
        }
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    let with = |t: &mut Tape, v: &[Var]| Ok(vec![linear(t, &v[0], &v[1], Some(&v[2]))?]);
    let without = |t: &mut Tape, v: &[Var]| Ok(vec![linear(t, &v[0], &v[1], None)?]);
    let case = |n: usize, c: usize, k: usize| {
        let inputs = vec![Input::grad([n, c]), Input::grad([k, c]), Input::grad([k])];
        Case::new(format!("n{n}_c{c}_k{k}"), inputs, with)
            .reduction(n.max(c).max(k))
            .cost(2.0 * (n * c * k) as f64, 4.0 * (n * c + c * k + n * k) as f64)
    };
    let plain = vec![Input::grad([5, 3]), Input::grad([7, 3])];
    let frozen = vec![Input::grad([4, 9]), Input::plain([5, 9]), Input::plain([5])];
    let weights_only = vec![Input::plain([4, 9]), Input::grad([5, 9]), Input::grad([5])];
    vec![
        case(1, 1, 1),
        case(3, 3, 5),
        case(7, 13, 11),
        case(5, 100, 131),
        case(33, 64, 10),
        case(2, 37, 521),
        Case::new("no_bias", plain, without).reduction(7),
        Case::new("frozen_weights", frozen, with).reduction(9),
        Case::new("weights_only", weights_only, with).reduction(9),
        case(64, 100, 8192).bench(),
        case(64, 64, 10).bench(),
    ]
}
