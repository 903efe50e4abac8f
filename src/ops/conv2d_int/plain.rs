//! The definition, in 64-bit integers: the oracle of the other paths, and the path of dilated filters and of zero points
//! far from 0.

use super::Ranges;
use crate::ops::conv2d::Geometry;
use crate::quant::RoundEven;
use rayon::prelude::*;

/// Exact sums of output row `p` of image `x[h w c]`, `[q][k]`.
fn row<T>(x: &[i8], w: &[i8], ranges: &Ranges<T>, g: &Geometry, p: usize, sums: &mut [i64]) {
    for (q, sums) in sums.chunks_exact_mut(g.k).enumerate() {
        for (k, sum) in sums.iter_mut().enumerate() {
            *sum = 0;
            for r in 0..g.r {
                let Some(h) = g.source(0, p, r) else { continue };
                for s in 0..g.s {
                    let Some(col) = g.source(1, q, s) else { continue };
                    let x = &x[(h * g.w + col) * g.c..][..g.c];
                    let w = &w[((k * g.r + r) * g.s + s) * g.c..][..g.c];
                    for (x, w) in x.iter().zip(w) {
                        *sum += (i64::from(*x) + ranges.x_zero) * (i64::from(*w) + ranges.w_zero[k]);
                    }
                }
            }
        }
    }
}

/// `y[n p q k]`; a 64-bit sum is rounded once to `T`.
pub(super) fn fprop<T: RoundEven>(
    x: &[i8],
    w: &[i8],
    ranges: &Ranges<T>,
    bias: Option<&[T]>,
    y: &mut [T],
    g: &Geometry,
) {
    let unit: Vec<T> = ranges.w.iter().map(|w| ranges.unit(w)).collect();
    y.par_chunks_exact_mut(g.q * g.k).enumerate().for_each_init(
        || vec![0i64; g.q * g.k],
        |sums, (i, y)| {
            row(&x[i / g.p * g.h * g.w * g.c..], w, ranges, g, i % g.p, sums);
            for (i, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
                *y = T::from_i64(*sum).expect("floats take every i64") * unit[i % g.k];
                if let Some(b) = bias {
                    *y += b[i % g.k];
                }
            }
        },
    );
}
