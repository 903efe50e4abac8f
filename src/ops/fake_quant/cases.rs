//! The case table. Values keep away from rounding edges, so that f32 and f64 choose the same codes.

use super::{FakeQuantSpec, Ste, fake_quant};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Fill, GradCheck, Input};
use crate::ops::random::philox;
use crate::quant::{Affine, Axis};
use crate::tensor::Shape;

/// `(x, lo, hi)` with about one value in six outside its range. Rounded to f32.
pub(in crate::ops) fn values(shape: Shape, bits: u8, axis: Axis) -> [Vec<f64>; 3] {
    let [rows, length] = axis.rows(&shape);
    let (mut x, mut los, mut his) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..rows {
        let hi = f64::from((2.0 + 0.1 * (row % 7) as f64) as f32);
        let mut lo = f64::from((-1.0 - 0.3 * (row % 5) as f64) as f32);
        let steps = f64::from((1u32 << bits) - 1);
        // The zero point is rounded too.
        while ((steps / (hi - lo) * lo).fract().abs() - 0.5).abs() < 0.1 {
            lo = f64::from((lo * 1.01) as f32);
        }
        let a = Affine::new(lo, hi, bits);
        for i in 0..length {
            let [u, v, _, _] = philox([i as u32, row as u32, u32::from(bits), 0], [11, 0]);
            let margin = (steps / 12.0).ceil();
            let level = a.low - margin + (f64::from(u) / 4_294_967_296.0 * (steps + 1.0 + 2.0 * margin)).floor();
            let offset = (f64::from(v) / 4_294_967_296.0 - 0.5) * 0.7;
            x.push(f64::from(((level + offset + a.zero) / a.scale) as f32));
        }
        los.push(lo);
        his.push(hi);
    }
    [x, los, his]
}

fn case(shape: impl Into<Shape>, bits: u8, axis: Axis, ste: Ste) -> Case {
    let shape: Shape = shape.into();
    let [x, lo, hi] = values(shape, bits, axis);
    let (ranges, length) = (lo.len(), axis.rows(&shape)[1]);
    let learned = matches!(ste, Ste::Lsq | Ste::LsqUnscaled);
    let range = |v| Input { grad: learned, ..Input::plain([ranges]).fill(Fill::Values(v)) };
    let inputs = vec![Input::grad(shape).fill(Fill::Values(x)), range(lo), range(hi)];
    let spec = FakeQuantSpec { bits, axis, ste };
    let run = move |t: &mut Tape, v: &[Var]| Ok(vec![fake_quant(t, &v[0], &v[1], &v[2], spec)?]);
    let name = format!("{ste:?}_{axis:?}_int{bits}_{shape}").to_lowercase();
    let case = Case::new(name, inputs, run).check(GradCheck::Defined);
    // y - x cancels to a step, so the sums see the rounding of x itself, 2^bits times the relative error of a step.
    if learned { case.reduction(length).slack(f64::from(1u32 << bits).max(8.0)) } else { case.slack(2.0) }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for ste in [Ste::Identity, Ste::Clipped, Ste::Lsq, Ste::LsqUnscaled] {
        for axis in [Axis::Tensor, Axis::Outer] {
            for (shape, bits) in [([1, 1, 1, 1], 4), ([3, 5, 7, 11], 4), ([5, 3, 3, 3], 2), ([2, 4, 4, 12], 8)] {
                cases.push(case(shape, bits, axis, ste));
            }
        }
    }
    for bits in [3, 5, 6, 7] {
        cases.push(case([7, 3, 3, 5], bits, Axis::Outer, Ste::Clipped));
    }
    cases.push(case([1, 97, 97, 1], 8, Axis::Tensor, Ste::Lsq));
    // Read and write. (While recording, the clipped estimator also writes a byte per element.)
    let bench = |c: Case| {
        let n = c.inputs[0].shape.elements() as f64;
        c.cost(6.0 * n, 8.0 * n).bench()
    };
    cases.push(bench(case([64, 32, 32, 16], 4, Axis::Tensor, Ste::Identity)));
    cases.push(bench(case([64, 32, 32, 16], 8, Axis::Tensor, Ste::Clipped)));
    cases.push(bench(case([64, 3, 3, 64], 4, Axis::Outer, Ste::Identity)));
    cases
}
