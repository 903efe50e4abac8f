//! Row by row: sums of all channels of a pixel side by side, 32 bits wide where they fit.

use crate::ops::conv2d::Geometry;
use crate::ops::conv2d_int::Ranges;
use crate::ops::vectorize::vectorize;
use crate::quant::RoundEven;
use rayon::prelude::*;
use std::ops::{AddAssign, Mul};

/// Filters `(qw + zw)` as `[r s][c]`, and the units of their sums.
pub struct Filter<T> {
    taps: Taps,
    x_zero: i64,
    unit: Vec<T>,
}

enum Taps {
    Narrow(Vec<i32>),
    Wide(Vec<i64>),
}

impl<T: RoundEven> Filter<T> {
    /// Of the codes `w[c r s 1]`.
    pub(super) fn new(w: &[i8], ranges: &Ranges<T>) -> Self {
        let c = ranges.w.len();
        let terms = w.len() / c;
        let at = |i: usize| i64::from(w[i % c * terms + i / c]) + ranges.w_zero[i % c];
        let taps = match ranges.fit_i32(terms) {
            true => Taps::Narrow((0..w.len()).map(|i| at(i) as i32).collect()),
            false => Taps::Wide((0..w.len()).map(at).collect()),
        };
        Self { taps, x_zero: ranges.x_zero, unit: ranges.w.iter().map(|w| ranges.unit(w)).collect() }
    }
}

/// Integers that sums fit in.
trait Sum: Copy + Default + From<i8> + Into<i64> + AddAssign + Mul<Output = Self> + Send + Sync {}
impl Sum for i32 {}
impl Sum for i64 {}

/// `y[n p q c]` of the codes `x[n h w c]`; a sum is rounded once to `T`.
pub(super) fn fprop<T: RoundEven>(x: &[i8], filter: &Filter<T>, bias: Option<&[T]>, y: &mut [T], g: &Geometry) {
    match &filter.taps {
        Taps::Narrow(taps) => rows(x, taps, filter.x_zero as i32, &filter.unit, bias, y, g),
        Taps::Wide(taps) => rows(x, taps, filter.x_zero, &filter.unit, bias, y, g),
    }
}

fn rows<T: RoundEven, S: Sum>(
    x: &[i8],
    taps: &[S],
    x_zero: S,
    unit: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
    g: &Geometry,
) {
    y.par_chunks_exact_mut(g.q * g.c).enumerate().for_each_init(
        || vec![S::default(); g.c],
        |sums, (i, y)| {
            let x = &x[i / g.p * g.h * g.w * g.c..];
            vectorize(
                #[inline(always)]
                || {
                    for (q, y) in y.chunks_exact_mut(g.c).enumerate() {
                        sums.fill(S::default());
                        for r in 0..g.r {
                            let Some(h) = g.source(0, i % g.p, r) else { continue };
                            for s in 0..g.s {
                                let Some(col) = g.source(1, q, s) else { continue };
                                let x = &x[(h * g.w + col) * g.c..][..g.c];
                                let w = &taps[(r * g.s + s) * g.c..][..g.c];
                                for ((sum, x), w) in sums.iter_mut().zip(x).zip(w) {
                                    let mut x = S::from(*x);
                                    x += x_zero;
                                    *sum += x * *w;
                                }
                            }
                        }
                        for ((y, sum), unit) in y.iter_mut().zip(sums.iter()).zip(unit) {
                            *y = T::from_i64((*sum).into()).expect("floats take every i64") * *unit;
                        }
                        if let Some(bias) = bias {
                            y.iter_mut().zip(bias).for_each(|(y, b)| *y += *b);
                        }
                    }
                },
            );
        },
    );
}
