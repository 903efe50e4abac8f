//! Cases of pooling.

use super::{PoolParams, avg_pool, global_avg_pool, global_max_pool, max_pool};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Fill, Input};
use crate::tensor::Shape;

/// Distinct values far enough apart that no difference step changes a maximum.
fn order(shape: [usize; 4]) -> Input {
    let n: usize = shape.iter().product();
    Input::grad(shape).fill(Fill::Values((0..n).map(|i| ((i * 7919 + 13) % 10007) as f64 * 0.01 - 50.0).collect()))
}

pub fn cases() -> Vec<Case> {
    let global = |t: &mut Tape, v: &[Var]| Ok(vec![global_avg_pool(t, &v[0])?]);
    let global_max = |t: &mut Tape, v: &[Var]| Ok(vec![global_max_pool(t, &v[0])?]);
    let mut cases = Vec::new();
    for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 8, 8, 64], [1, 3, 2, 37]] {
        let name = Shape::from(shape);
        cases
            .push(Case::new(format!("global_{name}"), vec![Input::grad(shape)], global).reduction(shape[1] * shape[2]));
        cases.push(Case::new(format!("global_max_{name}"), vec![order(shape)], global_max));
    }
    let square = [
        ([1, 1, 1, 1], 1, 1, 0),
        ([3, 5, 7, 11], 2, 2, 0),
        ([2, 4, 4, 3], 3, 2, 1),
        ([1, 7, 6, 5], 3, 1, 1),
        ([2, 5, 5, 17], 2, 3, 1),
    ];
    for (shape, k, stride, pad) in square {
        let name = format!("{}_k{k}_s{stride}_p{pad}", Shape::from(shape));
        cases.extend(both(&name, shape, PoolParams::square(k, stride, pad)));
    }
    let windows = |kernel, stride, pad| PoolParams { kernel, stride, pad, ceil: false, count_pad: false };
    let cut = |k, stride, pad| PoolParams { ceil: true, ..PoolParams::square(k, stride, pad) };
    for (name, shape, p) in [
        ("pad_not_counted", [2, 7, 6, 5], windows([3; 2], [2; 2], [1; 4])),
        ("pad_end", [2, 4, 6, 3], PoolParams { count_pad: true, ..windows([3; 2], [2; 2], [0, 0, 1, 1]) }),
        ("oblong", [2, 5, 9, 7], windows([1, 4], [2, 3], [0, 3, 0, 1])),
        ("ceil_k2_s2", [3, 5, 7, 11], cut(2, 2, 0)),
        ("ceil_k3_s2", [1, 6, 8, 3], cut(3, 2, 0)),
        ("ceil_k3_s2_not_counted", [1, 6, 8, 3], PoolParams { count_pad: false, ..cut(3, 2, 1) }),
        // The end padding is cut off the last window's divisor; a window behind the image is left out.
        ("ceil_k3_s3_counted", [2, 5, 6, 4], cut(3, 3, 1)),
        ("ceil_k2_s3_drops", [2, 4, 4, 3], cut(2, 3, 1)),
    ] {
        cases.extend(both(name, shape, p));
    }
    let shape = [64, 112, 112, 64];
    let n: usize = shape.iter().product();
    let max = |t: &mut Tape, v: &[Var]| Ok(vec![max_pool(t, &v[0], PoolParams::square(3, 2, 1))?]);
    let avg = |t: &mut Tape, v: &[Var]| Ok(vec![avg_pool(t, &v[0], PoolParams::square(2, 2, 0))?]);
    let small = [16, shape[1], shape[2], shape[3]];
    cases.push(
        Case::new("max_16x112x112x64", vec![Input::grad(small)], max)
            .reduction(9)
            .cost(n as f64, 1.5 * n as f64)
            .bench(),
    );
    cases.push(
        Case::new("avg_64x32x32x16", vec![Input::grad([64, 32, 32, 16])], avg).reduction(4).cost(1e6, 5.2e6).bench(),
    );
    cases.push(
        Case::new("global_64x8x8x64", vec![Input::grad([64, 8, 8, 64])], global)
            .reduction(64)
            .cost(2.6e5, 1.05e6)
            .bench(),
    );
    cases
}

/// Maximum and average over the same windows.
fn both(name: &str, shape: [usize; 4], p: PoolParams) -> [Case; 2] {
    let max = move |t: &mut Tape, v: &[Var]| Ok(vec![max_pool(t, &v[0], p)?]);
    let avg = move |t: &mut Tape, v: &[Var]| Ok(vec![avg_pool(t, &v[0], p)?]);
    let reduction = p.kernel[0] * p.kernel[1];
    [
        Case::new(format!("max_{name}"), vec![order(shape)], max).reduction(reduction),
        Case::new(format!("avg_{name}"), vec![Input::grad(shape)], avg).reduction(reduction),
    ]
}
