//! Channels picked by number: slices, splits, shuffles, repeats. `y[.., j] = x[.., index[j]]`.
//!
//! The gradient of channel `i` is the sum of `dy[.., j]` over all `j` with `index[j] = i`, in ascending order.

use super::case::{Case, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Element, Shape, Tensor};
use rayon::prelude::*;

const OP: &str = "gather_channels";

/// `x[.. c]` to `[.. index.len()]`. F32 (F64 on the CPU), ranks from 1 on. Errors if `index` is empty or names a channel that
/// `x` does not have.
pub fn gather_channels(tape: &mut Tape, x: &Var, index: &[usize]) -> Result<Var> {
    let y = if x.value.gpu().is_some() {
        crate::ensure_op!(x.dtype() == DType::F32, OP, "dtype {:?} is not supported; use F32", x.dtype());
        gathered::<f32>(&x.value, index)?
    } else {
        crate::for_real!(OP, x.dtype(), T => gathered::<T>(&x.value, index))?
    };
    Ok(tape.record_one(GatherOp { shape: x.shape(), index: index.to_vec() }, &[x], y))
}

/// [`gather_channels`] of I8 codes.
pub fn gather_codes(x: &Tensor, index: &[usize]) -> Result<Tensor> {
    crate::ensure_op!(x.dtype() == DType::I8, OP, "codes are I8, got {:?}", x.dtype());
    gathered::<i8>(x, index)
}

fn gathered<T: Element>(x: &Tensor, index: &[usize]) -> Result<Tensor> {
    let [rows, c] = x.shape().rows_cols();
    crate::ensure_op!(!index.is_empty() && !x.shape().is_empty(), OP, "no channels of {} are picked", x.shape());
    if let Some(wrong) = index.iter().find(|&&i| i >= c) {
        return Err(crate::Error::op(OP, format!("x of shape {} has no channel {wrong}", x.shape())));
    }
    let mut y = Tensor::empty_like(x, last(x.shape(), index.len()))?;
    let c_out = index.len();
    if x.gpu().is_some() {
        let kernels =
            if T::DTYPE == DType::I8 { ["gather_channels_range_i8", "gather_channels_fwd_i8"] } else { KERNELS };
        match range(index) {
            Some(first) => copy_range(kernels[0], x, &mut y, Range { rows, c, first, width: c_out })?,
            None => pick(kernels[1], x, &mut y, index.iter().map(|&i| i as i32), false)?,
        }
        return Ok(y);
    }
    let (from, to) = (x.host::<T>().par_chunks(ROWS * c), y.host_mut::<T>().par_chunks_mut(ROWS * c_out));
    to.zip(from).for_each(|(y, x)| match range(index) {
        Some(first) => {
            let rows = y.chunks_exact_mut(c_out).zip(x.chunks_exact(c));
            rows.for_each(|(y, x)| y.copy_from_slice(&x[first..first + c_out]));
        }
        None => {
            for (y, x) in y.chunks_exact_mut(c_out).zip(x.chunks_exact(c)) {
                y.iter_mut().zip(index).for_each(|(y, &i)| *y = x[i]);
            }
        }
    });
    Ok(y)
}

/// The first channel if they follow each other.
fn range(index: &[usize]) -> Option<usize> {
    index.windows(2).all(|w| w[0] + 1 == w[1]).then(|| index[0])
}

/// `shape` with `c` channels.
fn last(shape: Shape, c: usize) -> Shape {
    let mut dims = shape.to_vec();
    *dims.last_mut().expect("a dimension, as was checked") = c;
    Shape::new(&dims)
}

struct GatherOp {
    shape: Shape,
    index: Vec<usize>,
}

impl Op for GatherOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut dx = Tensor::empty_like(&dy, self.shape)?;
        let [rows, c] = self.shape.rows_cols();
        if dy.gpu().is_some() {
            match range(&self.index) {
                Some(first) => {
                    let range = Range { rows, c, first, width: self.index.len() };
                    copy_range("gather_channels_range_bwd_f32", &dy, &mut dx, range)?;
                }
                None => {
                    for (pass, sources) in passes(&self.index, c).into_iter().enumerate() {
                        pick(KERNELS[1], &dy, &mut dx, sources.into_iter(), pass > 0)?;
                    }
                }
            }
        } else {
            crate::for_real!(OP, dy.dtype(), T => {
                let c_out = self.index.len();
                let parts = dx.host_mut::<T>().par_chunks_mut(ROWS * c).zip(dy.host::<T>().par_chunks(ROWS * c_out));
                parts.for_each(|(dx, dy)| {
                    dx.fill(0.0);
                    for (dx, dy) in dx.chunks_exact_mut(c).zip(dy.chunks_exact(c_out)) {
                        dy.iter().zip(&self.index).for_each(|(d, &i)| dx[i] += *d);
                    }
                });
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

/// Per channel of x the first `j` that reads it, then the second and so on; -1 where there is none.
fn passes(index: &[usize], c: usize) -> Vec<Vec<i32>> {
    let mut passes = vec![vec![-1; c]];
    let mut reads = vec![0; c];
    for (j, &i) in index.iter().enumerate() {
        if reads[i] == passes.len() {
            passes.push(vec![-1; c]);
        }
        passes[reads[i]][i] = j as i32;
        reads[i] += 1;
    }
    passes
}

/// Rows that a task copies.
const ROWS: usize = 1 << 8;
const KERNELS: [&str; 2] = ["gather_channels_range_f32", "gather_channels_fwd_f32"];

/// `width` of `c` channels from `first` on; mirrors `Range` in `kernels/gather_channels.cu`.
struct Range {
    rows: usize,
    c: usize,
    first: usize,
    width: usize,
}

/// One thread per element of `out`.
fn copy_range(kernel: &'static str, a: &Tensor, out: &mut Tensor, r: Range) -> Result<()> {
    Launch::over(kernel, out.len(), 256)
        .ptr(a.address())
        .ptr(out.address())
        .val([r.rows, r.c, r.first, r.width].map(|v| v as i32))
        .run(a.gpu().expect("called for GPU tensors"))
}

/// Channels that one launch writes: their sources travel as a parameter, so that a recorded step uploads nothing.
const PICKED: usize = 512;

/// Mirrors `Picked` in `kernels/gather_channels.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Picked {
    rows: i32,
    c_in: i32,
    c_out: i32,
    first: i32,
    count: i32,
    accumulate: i32,
    source: [i32; PICKED],
}

/// Writes or adds `a[.., source[j]]` to `out[.., j]`; a source of -1 is 0.
fn pick(
    kernel: &'static str,
    a: &Tensor,
    out: &mut Tensor,
    sources: impl Iterator<Item = i32>,
    accumulate: bool,
) -> Result<()> {
    let ([rows, c_in], [_, c_out]) = (a.shape().rows_cols(), out.shape().rows_cols());
    let sources: Vec<i32> = sources.collect();
    for (part, chunk) in sources.chunks(PICKED).enumerate() {
        let mut source = [-1; PICKED];
        source[..chunk.len()].copy_from_slice(chunk);
        let [rows, c_in, c_out, first, count] = [rows, c_in, c_out, part * PICKED, chunk.len()].map(|v| v as i32);
        // A block reads the sources once for several elements per thread.
        let elements = (rows as usize * chunk.len()).div_ceil(8);
        Launch::over(kernel, elements, 256)
            .ptr(a.address())
            .ptr(out.address())
            .val(Picked { rows, c_in, c_out, first, count, accumulate: i32::from(accumulate), source })
            .run(a.gpu().expect("called for GPU tensors"))?;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let case = |name: &str, shape: &[usize], index: Vec<usize>| {
        let bytes = 8.0 * (shape.iter().product::<usize>() / shape[shape.len() - 1] * index.len()) as f64;
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![gather_channels(t, &v[0], &index)?]);
        Case::new(name, vec![Input::grad(shape)], run).cost(0.0, bytes)
    };
    let shuffle = |c: usize, groups: usize| (0..c).map(|j| j % groups * (c / groups) + j / groups).collect::<Vec<_>>();
    vec![
        case("one", &[1, 1, 1, 1], vec![0]),
        case("slice", &[3, 5, 7, 11], (3..8).collect()),
        case("end", &[2, 4, 4, 3], vec![2]),
        case("shuffle", &[2, 3, 5, 12], shuffle(12, 3)),
        case("repeats", &[2, 3, 3, 5], vec![4, 0, 4, 2, 4, 0, 1]).reduction(3),
        case("every_second", &[2, 4, 3, 17], (0..17).step_by(2).collect()),
        case("rows", &[5, 7], vec![6, 5, 4, 3, 2, 1, 0]),
        case("vector", &[5], vec![3, 1]),
        // More channels than one launch writes.
        case("wide", &[3, 1100], (0..1100).rev().collect()),
        case("slice_32x28x28x116", &[32, 28, 28, 116], (58..116).collect()).bench(),
        case("shuffle_32x28x28x116", &[32, 28, 28, 116], shuffle(116, 2)).bench(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn codes_follow_their_channels() {
        let x = Tensor::from_slice(&Device::cpu(), [2, 3], &[1i8, 2, -3, 4, -5, 127]).unwrap();
        let picked = |index: &[usize]| gather_codes(&x, index).unwrap().to_vec::<i8>().unwrap();
        assert_eq!(picked(&[2, 0, 2]), [-3, 1, -3, 127, 4, 127]);
        assert_eq!(picked(&[1, 2]), [2, -3, -5, 127]);
        assert!(gather_codes(&x, &[3]).unwrap_err().to_string().contains("has no channel 3"));
        assert!(gather_codes(&x, &[]).unwrap_err().to_string().contains("no channels"));
    }

    #[test]
    fn passes_list_every_read_once_in_order() {
        assert_eq!(passes(&[2, 0, 2, 2], 3), [[1, -1, 0], [-1, -1, 2], [-1, -1, 3]]);
    }
}
