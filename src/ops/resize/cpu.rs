//! Resizing on the CPU: rows of the output, or images of the gradient, are tasks.

use super::Plan;
use crate::ops::vectorize::vectorize;
use crate::tensor::{Element, Real};
use rayon::prelude::*;

/// `[h, w, c]` of the input.
fn sizes(plan: &Plan) -> [usize; 3] {
    [plan.input[1], plan.input[2], plan.input[3]]
}

/// Calls `f(row of the output, output row's values, input image's offset)` for all rows of all images.
fn rows<T: Element>(y: &mut [T], plan: &Plan, f: impl Fn(usize, &mut [T], usize) + Sync) {
    let [h, w, c] = sizes(plan);
    let [oh, ow] = plan.p.size;
    y.par_chunks_mut((ow * c).max(1)).enumerate().for_each(|(row, y)| f(row % oh, y, row / oh * h * w * c));
}

pub(super) fn nearest<T: Element>(x: &[T], y: &mut [T], plan: &Plan) {
    let [_, w, c] = sizes(plan);
    let [down, across] = &plan.taps;
    rows(y, plan, |row, y, image| {
        let x = &x[image + down[row].at[0] * w * c..][..w * c];
        for (y, tap) in y.chunks_exact_mut(c).zip(across) {
            y.copy_from_slice(&x[tap.at[0] * c..][..c]);
        }
    });
}

pub(super) fn linear<T: Real>(x: &[T], y: &mut [T], plan: &Plan) {
    let [_, w, c] = sizes(plan);
    let [down, across] = &plan.taps;
    let weights = |w: [f32; 2]| w.map(|v| T::of(f64::from(v)));
    rows(y, plan, |row, y, image| {
        let [above, below] = down[row].at.map(|at| &x[image + at * w * c..][..w * c]);
        let [u, v] = weights(down[row].weights);
        vectorize(
            #[inline(always)]
            || {
                for (y, tap) in y.chunks_exact_mut(c).zip(across) {
                    let [s, t] = weights(tap.weights);
                    let [left, right] = tap.at.map(|at| at * c..at * c + c);
                    let pixels = above[left.clone()].iter().zip(&above[right.clone()]);
                    let pixels = pixels.zip(below[left].iter().zip(&below[right]));
                    for (y, ((a, b), (d, e))) in y.iter_mut().zip(pixels) {
                        *y = (*a * s + *b * t) * u + (*d * s + *e * t) * v;
                    }
                }
            },
        );
    });
}

pub(super) fn backward<T: Real>(dy: &[T], dx: &mut [T], plan: &Plan) {
    let [h, w, c] = sizes(plan);
    let [oh, ow] = plan.p.size;
    let [down, across] = &plan.taps;
    let images = dy.par_chunks((oh * ow * c).max(1));
    dx.par_chunks_mut((h * w * c).max(1)).zip(images).for_each(|(dx, dy)| {
        vectorize(
            #[inline(always)]
            || {
                dx.fill(T::zero());
                for (row, dy) in down.iter().zip(dy.chunks_exact(ow * c)) {
                    for (column, dy) in across.iter().zip(dy.chunks_exact(c)) {
                        for i in 0..4 {
                            let weight = T::of(f64::from(row.weights[i / 2]) * f64::from(column.weights[i % 2]));
                            let at = (row.at[i / 2] * w + column.at[i % 2]) * c;
                            for (dx, dy) in dx[at..at + c].iter_mut().zip(dy) {
                                *dx += *dy * weight;
                            }
                        }
                    }
                }
            },
        );
    });
}
