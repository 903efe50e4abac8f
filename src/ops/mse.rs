//! Squared distance of two tensors, `weight * sum(d^2)`, `d = a - b`: mean over elements (`mse`) or over rows
//! (`mean_squared_distance`), or with differences up to a slack for free, `d = sign(a - b) max(|a - b| - slack, 0)`.
//! Gradients `2 weight d` and its negative.

use super::case::{Case, Fill, Input};
use super::row_loss;
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

const OP: &str = "mse";
/// Elements of one partial sum, mirrored in `kernels/mse.cu`.
const CHUNK: usize = 16384;

/// Mean over all elements of `(a - b)^2`: a scalar `[1]`. `a`, `b` of one shape (any) and dtype, F32 (F64 on the CPU).
/// Gradients to both. Errors if they differ or are empty.
pub fn mse(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    distance(tape, a, b, a.value.len(), 0.0)
}

/// Mean over rows (the first dimension) of `|a_i - b_i|^2`: a scalar `[1]`; otherwise as [`mse`]. On L2-normalised
/// attention maps, the consistency of two modes of a network (reconstructed for ACQ, Li et al. 2023) and feature
/// alignment (HAST, Li et al. 2023, up to its mean).
pub fn mean_squared_distance(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    mean_squared_distance_beyond(tape, a, b, 0.0)
}

/// [`mean_squared_distance`] of what exceeds `slack >= 0` in each element.
pub fn mean_squared_distance_beyond(tape: &mut Tape, a: &Var, b: &Var, slack: f32) -> Result<Var> {
    distance(tape, a, b, a.shape().first().copied().unwrap_or(1), slack)
}

fn distance(tape: &mut Tape, a: &Var, b: &Var, norm: usize, slack: f32) -> Result<Var> {
    crate::ensure_op!(slack >= 0.0 && slack.is_finite(), OP, "the slack must be finite and >= 0, got {slack}");
    row_loss::check_like(OP, "the second input", &b.value, &a.value)?;
    let n = a.value.len();
    crate::ensure_op!((1..=1 << 30).contains(&n), OP, "cannot take the distance of {}", a.shape());
    let weight = 1.0 / norm as f64;
    let mut loss = Tensor::empty_like(&a.value, [1])?;
    if let Some(gpu) = a.value.gpu() {
        let sums = Tensor::empty(tape.device(), [n.div_ceil(CHUNK)], DType::F64)?;
        Launch::new("mse_fwd_f32")
            .grid([sums.len() as u32, 1, 1])
            .block([256, 1, 1])
            .ptr(a.value.address())
            .ptr(b.value.address())
            .ptr(sums.address())
            .val(n as i32)
            .val(slack)
            .val(weight)
            .run(gpu)?;
        row_loss::sum_on_gpu(&sums, &loss)?;
    } else {
        crate::for_real!(OP, a.dtype(), T => {
            let chunks = a.value.host::<T>().par_chunks(CHUNK).zip(b.value.host::<T>().par_chunks(CHUNK));
            let slack = f64::from(slack);
            let sums: Vec<f64> = chunks.map(|(a, b)| vectorize(#[inline(always)] move || squares(a, b, slack))).collect();
            loss.host_mut::<T>()[0] = T::of(sums.iter().sum::<f64>() * weight);
            Ok(())
        })?;
    }
    Ok(tape.record_one(MseOp { a: a.value.clone(), b: b.value.clone(), weight, slack }, &[a, b], loss))
}

/// Sum of squared differences, in f64.
#[inline(always)]
fn squares<T: Real>(a: &[T], b: &[T], slack: f64) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0f64; LANES];
    let (a_whole, b_whole) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (s, (a, b)) in sums.iter_mut().zip(a_whole.remainder().iter().zip(b_whole.remainder())) {
        let d = ((a.f64() - b.f64()).abs() - slack).max(0.0);
        *s = d * d;
    }
    for (a, b) in a_whole.zip(b_whole) {
        for i in 0..LANES {
            let d = ((a[i].f64() - b[i].f64()).abs() - slack).max(0.0);
            sums[i] += d * d;
        }
    }
    sums.iter().sum()
}

struct MseOp {
    a: Tensor,
    b: Tensor,
    weight: f64,
    slack: f32,
}

impl Op for MseOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let (a, b) = (&self.a, &self.b);
        let mut grads = [None, None];
        for (i, g) in grads.iter_mut().enumerate() {
            if cx.needs(i) {
                *g = Some(Tensor::empty_like(a, a.shape())?);
            }
        }
        if let Some(gpu) = a.gpu() {
            Launch::over("mse_bwd_f32", a.len(), 256)
                .ptr(a.address())
                .ptr(b.address())
                .ptr(dy.address())
                .ptr(row_loss::address(&grads[0]))
                .ptr(row_loss::address(&grads[1]))
                .val(a.len() as i32)
                .val(self.slack)
                .val((2.0 * self.weight) as f32)
                .run(gpu)?;
        } else {
            crate::for_real!(OP, a.dtype(), T => {
                for (g, sign) in grads.iter_mut().zip([1.0, -1.0]) {
                    let Some(g) = g else { continue };
                    let slope = dy.host::<T>()[0] * T::of(sign * 2.0 * self.weight);
                    let slack = T::of(f64::from(self.slack));
                    let beyond = move |d: T| d - d.max(-slack).min(slack);
                    let pairs = a.host::<T>().par_chunks(CHUNK).zip(b.host::<T>().par_chunks(CHUNK));
                    g.host_mut::<T>().par_chunks_mut(CHUNK).zip(pairs).for_each(|(g, (a, b))| {
                        g.iter_mut().zip(a.iter().zip(b)).for_each(|(g, (a, b))| *g = slope * beyond(*a - *b));
                    });
                }
                Ok(())
            })?;
        }
        for (i, g) in grads.into_iter().enumerate() {
            if let Some(g) = g {
                cx.give(i, g)?;
            }
        }
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![mse(t, &v[0], &v[1])?]);
    let rows = |t: &mut Tape, v: &[Var]| Ok(vec![mean_squared_distance(t, &v[0], &v[1])?]);
    let pair = |shape: &[usize]| vec![Input::grad(shape), Input::grad(shape)];
    let mut cases = Vec::new();
    for shape in [&[1usize][..], &[3, 7], &[2, 3, 5, 11], &[5, 13, 3, 3], &[1, 16421]] {
        let name = crate::tensor::Shape::from(shape);
        cases.push(Case::new(format!("{name}"), pair(shape), run).reduction(64));
        cases.push(Case::new(format!("rows_{name}"), pair(shape), rows).reduction(64));
    }
    // Differences of halves, a quarter for free: none at the kink.
    let halves = || Input::grad([5, 3]).fill(Fill::Away { scale: 1.0, step: 0.5, gap: 0.26 });
    let beyond = |t: &mut Tape, v: &[Var]| Ok(vec![mean_squared_distance_beyond(t, &v[0], &v[1], 0.2)?]);
    cases.push(Case::new("beyond_5x3", vec![halves(), Input::plain([5, 3]).fill(Fill::Values(vec![0.0; 15]))], beyond));
    let one_side = vec![Input::grad([3, 7]), Input::plain([3, 7])];
    cases.push(Case::new("first_only", one_side, run));
    let one_side = vec![Input::plain([3, 7]), Input::grad([3, 7])];
    cases.push(Case::new("second_only", one_side, run));
    cases.push(Case::new("64x32x32x64", pair(&[64, 32, 32, 64]), run).reduction(64).cost(1.3e7, 3.4e7).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn means_are_over_elements_and_over_rows() {
        let d = Device::cpu();
        let mut tape = Tape::inference(&d);
        let a = Var::constant(Tensor::from_slice(&d, [2, 3], &[1f32, 2.0, 3.0, 0.0, 0.0, 0.0]).unwrap());
        let b = Var::constant(Tensor::zeros(&d, [2, 3], DType::F32).unwrap());
        assert_eq!(mse(&mut tape, &a, &b).unwrap().value.item().unwrap(), f64::from(14.0f32 / 6.0));
        assert_eq!(mean_squared_distance(&mut tape, &a, &b).unwrap().value.item().unwrap(), 7.0);
        assert_eq!(mean_squared_distance_beyond(&mut tape, &a, &b, 2.0).unwrap().value.item().unwrap(), 0.5);
        let c = Var::constant(Tensor::zeros(&d, [3, 2], DType::F32).unwrap());
        assert!(mse(&mut tape, &a, &c).unwrap_err().to_string().contains("3x2"));
    }
}
