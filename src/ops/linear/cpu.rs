//! Blocked matrix product on the CPU.

use crate::ops::vectorize::vectorize;
use crate::tensor::Real;
use rayon::prelude::*;
use std::borrow::Cow;

/// Output rows per task: a batch of 64 still makes eight tasks.
const ROWS: usize = 8;
/// Terms and columns per block: the block of B stays in the L2 cache while all rows of a task use it.
const DEPTH: usize = 128;
const COLS: usize = 512;

/// A view of a row-major matrix or of its transpose.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    values: &'a [T],
    width: usize,
    transposed: bool,
}

impl<'a, T: Real> Matrix<'a, T> {
    /// Rows of `width` values.
    pub fn new(values: &'a [T], width: usize) -> Self {
        Self { values, width, transposed: false }
    }
    /// The transpose of [`Matrix::new`].
    pub fn transposed(values: &'a [T], width: usize) -> Self {
        Self { values, width, transposed: true }
    }

    /// Row-major values of this `rows x cols` matrix.
    fn row_major(&self, rows: usize, cols: usize) -> Cow<'a, [T]> {
        if !self.transposed {
            return Cow::Borrowed(self.values);
        }
        // Squares of cache lines: whole lines are read and written, and few of them lie a power of two apart.
        const SIDE: usize = 16;
        let mut out = vec![T::of(0.0); rows * cols];
        out.par_chunks_mut(SIDE * cols).enumerate().for_each(|(block, out)| {
            for first in (0..cols).step_by(SIDE) {
                let end = cols.min(first + SIDE);
                for (i, row) in out.chunks_exact_mut(cols).enumerate() {
                    let column = &self.values[first * self.width + block * SIDE + i..];
                    row[first..end].iter_mut().zip(column.iter().step_by(self.width)).for_each(|(to, v)| *to = *v);
                }
            }
        });
        Cow::Owned(out)
    }

    #[inline(always)]
    fn at(&self, i: usize, j: usize) -> T {
        self.values[if self.transposed { j * self.width + i } else { i * self.width + j }]
    }
}

/// `out[m, n] = a[m, k] b[k, n]`, n > 0. Every element is summed in the same order whatever the threads do.
pub(super) fn product<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], [m, n, k]: [usize; 3]) {
    debug_assert_eq!(out.len(), m * n);
    let b = b.row_major(k, n);
    out.par_chunks_mut(ROWS * n).enumerate().for_each(|(task, out)| {
        vectorize(#[inline(always)] || rows(a, &b, out, task * ROWS, n, k));
    });
}

#[inline(always)]
fn rows<T: Real>(a: Matrix<T>, b: &[T], out: &mut [T], start: usize, n: usize, k: usize) {
    out.fill(T::of(0.0));
    let mut strip = [T::of(0.0); ROWS * DEPTH];
    for depth in (0..k).step_by(DEPTH) {
        let terms = DEPTH.min(k - depth);
        // Column by column: a transposed A has neighbouring rows side by side.
        for l in 0..terms {
            for i in 0..out.len() / n {
                strip[i * DEPTH + l] = a.at(start + i, depth + l);
            }
        }
        for first in (0..n).step_by(COLS) {
            let cols = COLS.min(n - first);
            for (out, strip) in out.chunks_exact_mut(n).zip(strip.chunks_exact(DEPTH)) {
                let out = &mut out[first..first + cols];
                let row = |l: usize| &b[(depth + l) * n + first..][..cols];
                let mut l = 0;
                while l + 4 <= terms {
                    add_four(out, &strip[l..l + 4], [row(l), row(l + 1), row(l + 2), row(l + 3)]);
                    l += 4;
                }
                while l < terms {
                    for (o, b) in out.iter_mut().zip(row(l)) {
                        *o += strip[l] * *b;
                    }
                    l += 1;
                }
            }
        }
    }
}

/// `out += a[0] b[0] + ... + a[3] b[3]`: one load and store of the output for four terms.
#[inline(always)]
fn add_four<T: Real>(out: &mut [T], a: &[T], b: [&[T]; 4]) {
    let n = out.len();
    let [a0, a1, a2, a3] = [a[0], a[1], a[2], a[3]];
    let (b0, b1, b2, b3) = (&b[0][..n], &b[1][..n], &b[2][..n], &b[3][..n]);
    for j in 0..n {
        out[j] = out[j] + ((a0 * b0[j] + a1 * b1[j]) + (a2 * b2[j] + a3 * b3[j]));
    }
}
