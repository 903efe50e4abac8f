//! Every row stretched to `0..=1`: `y = (x - min) / (max - min)`, rows being all dimensions but the first (Grad-CAM maps
//! before they are compared: SynQ, Kim et al., ICLR 2025, released code).
//!
//! Backward, with `r = max - min`, `g` the gradient of `y`, sums over the row: `dx = g / r`, and at the row's first minimum
//! also `-(1/r) sum g (1 - y)`, at its first maximum `-(1/r) sum g y`, the way through `min` and `max`. A row whose range is
//! below 1e-10 becomes 0 and passes no gradient (ours; the released code adds 1e-10 to `r`).

use super::case::{Case, Fill, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

const OP: &str = "unit_range";
/// Narrower rows have no range; mirrored in `kernels/unit_range.cu`.
const NARROW: f64 = 1e-10;

/// `x` with each row (all of an index of the first dimension) stretched to `0..=1`; x's shape. F32 (F64 on the CPU), any
/// shape that is not empty. Gradients flow to `x`; the output and one number per row are saved. NaN in a row makes the row
/// NaN.
pub fn unit_range(tape: &mut Tape, x: &Var) -> Result<Var> {
    let (rows, n) = (x.shape().first().copied().unwrap_or(1), x.value.len());
    crate::ensure_op!((1..=1 << 30).contains(&n), OP, "cannot stretch {}", x.shape());
    let mut y = Tensor::empty_like(&x.value, x.shape())?;
    let mut inverse = Tensor::empty_like(&x.value, [rows])?;
    if let Some(gpu) = x.value.gpu() {
        per_row("unit_range_fwd_f32", &[&x.value, &y, &inverse], rows, n / rows).run(gpu)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let all = y.host_mut::<T>().par_chunks_mut(n / rows).zip(x.value.host::<T>().par_chunks(n / rows));
            all.zip(inverse.host_mut::<T>()).for_each(|((y, x), inverse)| *inverse = forward(x, y));
            Ok(())
        })?;
    }
    Ok(tape.record_one(UnitRangeOp { y: y.clone(), inverse }, &[x], y))
}

struct UnitRangeOp {
    y: Tensor,
    inverse: Tensor,
}

impl Op for UnitRangeOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let rows = self.inverse.len();
        let length = dy.len() / rows;
        let mut dx = Tensor::empty_like(&dy, self.y.shape())?;
        if let Some(gpu) = dy.gpu() {
            per_row("unit_range_bwd_f32", &[&self.y, &self.inverse, &dy, &dx], rows, length).run(gpu)?;
        } else {
            crate::for_real!(OP, dy.dtype(), T => {
                let given = self.y.host::<T>().par_chunks(length).zip(dy.host::<T>().par_chunks(length));
                let all = dx.host_mut::<T>().par_chunks_mut(length).zip(given).zip(self.inverse.host::<T>());
                all.for_each(|((dx, (y, dy)), inverse)| backward(y, dy, *inverse, dx));
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

/// One row; gives `1 / (max - min)`, 0 for a row without range.
fn forward<T: Real>(x: &[T], y: &mut [T]) -> T {
    let low = x.iter().copied().fold(T::infinity(), |m, v| if v < m { v } else { m });
    let high = x.iter().copied().fold(T::neg_infinity(), |m, v| if v > m { v } else { m });
    let broken = x.iter().any(|v| v.is_nan());
    let range = high - low;
    let inverse = if broken {
        T::nan()
    } else if range < T::of(NARROW) {
        T::zero()
    } else {
        T::one() / range
    };
    // A quotient, not a product with the inverse: the maximum must become 1 and nothing less, backward looks for it.
    let divisor = if inverse.is_zero() { T::one() } else { range };
    y.iter_mut().zip(x).for_each(|(y, x)| *y = if inverse.is_zero() { T::zero() } else { (*x - low) / divisor });
    if broken {
        y.fill(T::nan());
    }
    inverse
}

fn backward<T: Real>(y: &[T], dy: &[T], inverse: T, dx: &mut [T]) {
    let (mut to_low, mut to_high) = (0f64, 0f64);
    for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
        *dx = *dy * inverse;
        to_low += dy.f64() * (1.0 - y.f64());
        to_high += dy.f64() * y.f64();
    }
    let first = |value: T| y.iter().position(|y| *y == value);
    for (at, sum) in [(first(T::zero()), to_low), (first(T::one()), to_high)] {
        if let Some(at) = at {
            dx[at] = dx[at] - T::of(sum) * inverse;
        }
    }
}

/// One block per row.
fn per_row(kernel: &'static str, tensors: &[&Tensor], rows: usize, length: usize) -> Launch {
    let launch = Launch::new(kernel).grid([rows as u32, 1, 1]).block([128, 1, 1]);
    tensors.iter().fold(launch, |launch, t| launch.ptr(t.address())).val(length as i32)
}

pub fn cases() -> Vec<Case> {
    let case = |shape: &[usize]| {
        let run = |t: &mut Tape, v: &[Var]| Ok(vec![unit_range(t, &v[0])?]);
        let elements = shape.iter().product::<usize>() as f64;
        Case::new(format!("{}", crate::tensor::Shape::from(shape)), vec![Input::grad(shape)], run)
            .reduction(shape[1..].iter().product())
            .cost(3.0 * elements, 8.0 * elements)
    };
    let mut cases: Vec<Case> =
        [&[1usize, 1, 1, 1][..], &[3, 5, 7], &[2, 4, 4, 3], &[5, 131], &[2, 1]].map(case).into();
    // A row of one value beside one that has a range.
    let rows = Fill::Values(vec![2.0, 2.0, 2.0, -1.0, 0.25, 3.0]);
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![unit_range(t, &v[0])?]);
    // No differences: they would give the constant row a range.
    let flat = Case::new("flat_2x3", vec![Input::grad([2, 3]).fill(rows)], run);
    cases.push(flat.check(super::case::GradCheck::Defined));
    cases.push(case(&[64, 8, 8]).bench());
    cases.push(case(&[16, 7, 7]).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn rows_reach_from_0_to_1_and_flat_ones_are_0() {
        for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            let values = [3f32, -1.0, 1.0, 5.0, 5.0, 5.0, 0.0, f32::NAN, 1.0];
            let mut tape = Tape::new(&device);
            let x = tape.leaf(Tensor::from_slice(&device, [3, 3], &values).unwrap());
            let y = unit_range(&mut tape, &x).unwrap();
            let got = y.value.to_vec::<f32>().unwrap();
            assert_eq!(got[..6], [1.0, 0.0, 0.5, 0.0, 0.0, 0.0], "{device:?}");
            assert!(got[6..].iter().all(|v| v.is_nan()), "{device:?}: {got:?}");
            let seed = Tensor::from_slice(&device, [3, 3], &[0f32, 0.0, 8.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]).unwrap();
            let grads = tape.backward_from(&[(&y, seed)]).unwrap();
            // The middle one pulls half of its slope out of either end.
            assert_eq!(grads.of(&x).unwrap().to_vec::<f32>().unwrap()[..6], [-1.0, -1.0, 2.0, 0.0, 0.0, 0.0]);
        }
    }
}
