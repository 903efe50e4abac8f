//! Tensors side by side along their last dimension: channels of maps, columns of rows.
//!
//! `y[.., o_i + j] = x_i[.., j]`, where `o_i` channels stand before those of `x_i`. The gradient of `x_i` is its part of `dy`.

use super::case::{Case, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Element, Shape, Tensor};
use rayon::prelude::*;

/// `x_i[.. c_i]`, all alike but for their last dimension, to `[.. sum of c_i]`. F32 (F64 on the CPU). Errors without inputs,
/// on ranks below 2, and if other dimensions or dtypes differ.
pub fn concat(tape: &mut Tape, x: &[&Var]) -> Result<Var> {
    let Some(first) = x.first() else { return Err(crate::Error::op("concat", "no inputs")) };
    let shape = first.shape();
    let rank = shape.len();
    for v in x {
        let s = v.shape();
        crate::ensure_op!(
            rank >= 2 && s.len() == rank && s[..rank - 1] == shape[..rank - 1] && v.dtype() == first.dtype(),
            "concat",
            "{s} {:?} does not fit beside {shape} {:?}",
            v.dtype(),
            first.dtype()
        );
    }
    let widths: Vec<usize> = x.iter().map(|v| v.shape()[rank - 1]).collect();
    let mut all = shape.to_vec();
    all[rank - 1] = widths.iter().sum();
    let mut y = Tensor::empty_like(&first.value, &all[..])?;
    let mut from = 0;
    for v in x {
        let part = Part::of(&y, from, v.shape()[rank - 1]);
        if y.gpu().is_some() {
            part.launch("concat_fwd_f32", &v.value, &mut y)?;
        } else {
            crate::for_real!("concat", first.dtype(), T => {
                part.put::<T>(v.value.host(), y.host_mut());
                Ok(())
            })?;
        }
        from += part.c;
    }
    Ok(tape.record_one(ConcatOp { shape, widths }, x, y))
}

struct ConcatOp {
    /// Of the first input.
    shape: Shape,
    /// Last dimensions.
    widths: Vec<usize>,
}

impl Op for ConcatOp {
    fn name(&self) -> &'static str {
        "concat"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut from = 0;
        for (i, &c) in self.widths.iter().enumerate() {
            let part = Part::of(&dy, from, c);
            from += c;
            if !cx.needs(i) {
                continue;
            }
            let mut shape = self.shape.to_vec();
            *shape.last_mut().expect("a rank of at least 2") = c;
            let mut dx = Tensor::empty_like(&dy, &shape[..])?;
            if dy.gpu().is_some() {
                part.launch("concat_bwd_f32", &dy, &mut dx)?;
            } else {
                crate::for_real!("concat", dy.dtype(), T => {
                    part.take::<T>(dy.host(), dx.host_mut());
                    Ok(())
                })?;
            }
            cx.give(i, dx)?;
        }
        Ok(())
    }
}

/// Columns `from..from + c` of rows of `all`; mirrors `Part` in `kernels/concat.cu`.
#[derive(Clone, Copy)]
struct Part {
    rows: usize,
    all: usize,
    from: usize,
    c: usize,
}

/// Rows that a thread copies.
const ROWS: usize = 1 << 10;

impl Part {
    fn of(whole: &Tensor, from: usize, c: usize) -> Self {
        let [rows, all] = whole.shape().rows_cols();
        Self { rows, all, from, c }
    }

    fn put<T: Element>(self, x: &[T], y: &mut [T]) {
        let Self { all, from, c, .. } = self;
        y.par_chunks_mut(ROWS * all.max(1)).zip(x.par_chunks(ROWS * c.max(1))).for_each(|(y, x)| {
            y.chunks_exact_mut(all).zip(x.chunks_exact(c)).for_each(|(y, x)| y[from..from + c].copy_from_slice(x));
        });
    }

    fn take<T: Element>(self, y: &[T], x: &mut [T]) {
        let Self { all, from, c, .. } = self;
        x.par_chunks_mut(ROWS * c.max(1)).zip(y.par_chunks(ROWS * all.max(1))).for_each(|(x, y)| {
            x.chunks_exact_mut(c).zip(y.chunks_exact(all)).for_each(|(x, y)| x.copy_from_slice(&y[from..from + c]));
        });
    }

    /// One thread per element of the part.
    fn launch(self, kernel: &'static str, source: &Tensor, target: &mut Tensor) -> Result<()> {
        Launch::over(kernel, self.rows * self.c, 256)
            .ptr(source.address())
            .ptr(target.address())
            .val([self.rows * self.c, self.all, self.from, self.c].map(|v| v as i32))
            .run(source.gpu().expect("called for GPU tensors"))
    }
}

pub fn cases() -> Vec<Case> {
    let case = |name: &str, shapes: &[&[usize]]| {
        let inputs = shapes.iter().map(|s| Input::grad(*s)).collect();
        let run = |t: &mut Tape, v: &[Var]| Ok(vec![concat(t, &v.iter().collect::<Vec<_>>())?]);
        let elements: usize = shapes.iter().map(|s| s.iter().product::<usize>()).sum();
        Case::new(name, inputs, run).cost(0.0, 8.0 * elements as f64)
    };
    let twice = |t: &mut Tape, v: &[Var]| Ok(vec![concat(t, &[&v[0], &v[1], &v[0]])?]);
    vec![
        case("one", &[&[1, 1, 1, 1]]),
        case("two", &[&[1, 1, 1, 1], &[1, 1, 1, 1]]),
        case("three", &[&[3, 5, 7, 11], &[3, 5, 7, 3], &[3, 5, 7, 1]]),
        case("rows", &[&[5, 3], &[5, 17]]),
        Case::new("same_input_twice", vec![Input::grad([2, 3, 2, 3]), Input::plain([2, 3, 2, 5])], twice),
        case("64x32x32x16_48", &[&[64, 32, 32, 16], &[64, 32, 32, 48]]).bench(),
    ]
}
