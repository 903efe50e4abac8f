//! Blocked matrix product on the CPU.

use crate::ops::vectorize::vectorize;
use crate::tensor::Real;
use rayon::prelude::*;

/// Rows and columns of the block that stays in registers.
const ROWS: usize = 6;
const COLS: usize = 16;
/// Terms summed before the block is added to the output: a packed panel of B stays in the L1 cache, and the error of
/// long sums grows with the number of blocks.
const DEPTH: usize = 256;

/// A view of a row-major matrix or of its transpose.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    values: &'a [T],
    row: usize,
    col: usize,
}

impl<'a, T: Real> Matrix<'a, T> {
    /// Rows of `width` values.
    pub fn new(values: &'a [T], width: usize) -> Self {
        Self { values, row: width, col: 1 }
    }
    /// The transpose of [`Matrix::new`].
    pub fn transposed(values: &'a [T], width: usize) -> Self {
        Self { values, row: 1, col: width }
    }
    #[inline(always)]
    fn at(&self, i: usize, j: usize) -> T {
        self.values[i * self.row + j * self.col]
    }
}

/// `out[m, n] = a[m, k] b[k, n]`. Every element is summed in the same order whatever the threads do.
pub(super) fn product<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], [m, n, k]: [usize; 3]) {
    if m == 0 {
        return;
    }
    let panels = n.div_ceil(COLS);
    // B by panels of COLS columns, each k rows deep, zeros to the right.
    let mut packed = vec![T::of(0.0); panels * k * COLS];
    packed.par_chunks_mut(k * COLS).enumerate().for_each(|(p, panel)| {
        let first = p * COLS;
        let cols = COLS.min(n - first);
        if b.col == 1 {
            for (l, row) in panel.chunks_exact_mut(COLS).enumerate() {
                row[..cols].copy_from_slice(&b.values[l * b.row + first..][..cols]);
            }
        } else {
            for j in 0..cols {
                for (l, row) in panel.chunks_exact_mut(COLS).enumerate() {
                    row[j] = b.at(l, first + j);
                }
            }
        }
    });
    // Two blocks of rows per task: 64 rows still make six tasks.
    out.par_chunks_mut(2 * ROWS * n).enumerate().for_each(|(task, out)| {
        vectorize(#[inline(always)] || rows(a, &packed, out, task * 2 * ROWS, n, k));
    });
}

#[inline(always)]
fn rows<T: Real>(a: Matrix<T>, packed: &[T], out: &mut [T], start: usize, n: usize, k: usize) {
    out.fill(T::of(0.0));
    let mut strip = [T::of(0.0); ROWS * DEPTH];
    for (block, out) in out.chunks_mut(ROWS * n).enumerate() {
        let first = start + block * ROWS;
        let height = out.len() / n;
        for depth in (0..k).step_by(DEPTH) {
            let terms = DEPTH.min(k - depth);
            strip.fill(T::of(0.0));
            for i in 0..height {
                for l in 0..terms {
                    strip[l * ROWS + i] = a.at(first + i, depth + l);
                }
            }
            for (p, panel) in packed.chunks_exact(k * COLS).enumerate() {
                let sums = tile(&strip[..terms * ROWS], &panel[depth * COLS..][..terms * COLS]);
                let cols = COLS.min(n - p * COLS);
                for (out, sums) in out.chunks_exact_mut(n).zip(&sums) {
                    for (o, s) in out[p * COLS..][..cols].iter_mut().zip(sums) {
                        *o += *s;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn tile<T: Real>(a: &[T], b: &[T]) -> [[T; COLS]; ROWS] {
    let mut sums = [[T::of(0.0); COLS]; ROWS];
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLS)) {
        for i in 0..ROWS {
            for j in 0..COLS {
                sums[i][j] = sums[i][j] + a[i] * b[j];
            }
        }
    }
    sums
}
