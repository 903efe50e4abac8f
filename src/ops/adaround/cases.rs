//! The case table: bases inside, at the ends of and beyond the codes.

use super::{adaround, rounding_penalty};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Fill, Input};
use crate::tensor::Shape;

fn case(shape: &[usize], bits: u8) -> Case {
    let shape = Shape::from(shape);
    let rows = shape[0];
    let half = f64::from(1u32 << (bits - 1));
    let base = (0..shape.elements()).map(|i| ((i * 7919) % ((1 << bits) + 3)) as f64 - half - 1.0).collect();
    let zero = (0..rows).map(|r| (r % 5) as f64 - 2.0).collect();
    let step = Input::grad([rows]).fill(Fill::Uniform { low: 0.05, high: 0.2 });
    let inputs = vec![
        Input::plain(shape).fill(Fill::Values(base)),
        Input::grad(shape).fill(Fill::Normal { scale: 1.5 }),
        step,
        Input::plain([rows]).fill(Fill::Values(zero)),
    ];
    let run = move |t: &mut Tape, x: &[Var]| Ok(vec![adaround(t, &x[0].value, &x[1], &x[2], &x[3].value, bits)?]);
    let n = shape.elements() as f64;
    // 1.2 sigmoid - 0.1 and its clamp cancel once; sums over a row.
    Case::new(format!("int{bits}_{shape}"), inputs, run)
        .reduction(shape.elements() / rows)
        .slack(2.0)
        .cost(12.0 * n, 12.0 * n)
}

fn penalty(shape: &[usize], beta: f32) -> Case {
    let shape = Shape::from(shape);
    let run = move |t: &mut Tape, x: &[Var]| Ok(vec![rounding_penalty(t, &x[0], beta)?]);
    let v = Input::grad(shape).fill(Fill::Normal { scale: 1.5 });
    let n = shape.elements() as f64;
    // A power multiplies the relative error of its base by the exponent.
    Case::new(format!("penalty_{beta}_{shape}"), vec![v], run)
        .reduction(64)
        .slack(f64::from(beta).max(4.0))
        .cost(30.0 * n, 4.0 * n)
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for bits in [2, 3, 4, 8] {
        for shape in [&[1usize, 1, 1, 1][..], &[5, 3, 3, 3], &[3, 5, 7, 11], &[7, 13]] {
            cases.push(case(shape, bits));
        }
    }
    for beta in [2.0, 7.5, 20.0] {
        for shape in [&[1usize, 1, 1, 1][..], &[5, 3, 3, 3], &[7, 3, 3, 101]] {
            cases.push(penalty(shape, beta));
        }
    }
    cases.push(case(&[64, 3, 3, 64], 4).bench());
    cases.push(penalty(&[64, 3, 3, 64], 7.5).bench());
    cases
}
