//! Channel-last data on the CPU as rows of `c` columns: sums per column, and maps with coefficients per column.
//!
//! Narrow rows are folded: several rows are treated as one of `width` (a multiple of `c`) columns, so that the inner
//! loop is long enough for vectors. Sums run in f64 over fixed chunks, combined in chunk order.

use super::vectorize::vectorize;
use crate::tensor::Real;
use rayon::prelude::*;

/// Elements per chunk, about: input, second input and output of a chunk stay in the L2 cache.
const CHUNK: usize = 1 << 14;
/// Folded rows are at least this wide.
const WIDTH: usize = 64;

/// How a tensor with `c` channels last is walked.
#[derive(Clone, Copy)]
pub struct Columns {
    c: usize,
    width: usize,
    chunk: usize,
}

impl Columns {
    /// `c` > 0 channels.
    pub fn new(c: usize) -> Self {
        let width = c * WIDTH.div_ceil(c);
        Self { c, width, chunk: (CHUNK / width).max(1) * width }
    }

    /// The per-channel values `f(0..c)`, repeated to a folded row.
    pub fn table<T: Real>(&self, f: impl Fn(usize) -> T) -> Vec<T> {
        let one: Vec<T> = (0..self.c).map(f).collect();
        one.iter().copied().cycle().take(self.width).collect()
    }

    /// Per channel, the sums of both halves of `f(a, b)` over all rows.
    pub fn sums<T: Real>(&self, a: &[T], b: &[T], f: impl Fn(f64, f64) -> (f64, f64) + Copy + Sync) -> [Vec<f64>; 2] {
        let parts: Vec<Vec<f64>> = a
            .par_chunks(self.chunk)
            .zip(b.par_chunks(self.chunk))
            .map(|(a, b)| {
                vectorize(
                    #[inline(always)]
                    || self.sum_chunk(a, b, f),
                )
            })
            .collect();
        self.combine(&parts)
    }

    /// `out = f(a, b, coefficients of the channel)`; tables come from [`Columns::table`].
    pub fn map<T: Real, const N: usize>(
        &self,
        out: &mut [T],
        a: &[T],
        b: &[T],
        tables: [&[T]; N],
        f: impl Fn(T, T, [T; N]) -> T + Copy + Sync,
    ) {
        out.par_chunks_mut(self.chunk).zip(a.par_chunks(self.chunk).zip(b.par_chunks(self.chunk))).for_each(
            |(out, (a, b))| {
                vectorize(
                    #[inline(always)]
                    || self.map_chunk(out, a, b, tables, f),
                )
            },
        );
    }

    /// [`Columns::map`] and [`Columns::sums`] of the same inputs in one pass over memory.
    pub fn map_and_sums<T: Real, const N: usize>(
        &self,
        out: &mut [T],
        (a, b): (&[T], &[T]),
        tables: [&[T]; N],
        f: impl Fn(T, T, [T; N]) -> T + Copy + Sync,
        g: impl Fn(f64, f64) -> (f64, f64) + Copy + Sync,
    ) -> [Vec<f64>; 2] {
        let parts: Vec<Vec<f64>> = out
            .par_chunks_mut(self.chunk)
            .zip(a.par_chunks(self.chunk).zip(b.par_chunks(self.chunk)))
            .map(|(out, (a, b))| {
                vectorize(
                    #[inline(always)]
                    || {
                        self.map_chunk(out, a, b, tables, f);
                        self.sum_chunk(a, b, g)
                    },
                )
            })
            .collect();
        self.combine(&parts)
    }

    #[inline(always)]
    fn map_chunk<T: Real, const N: usize>(
        &self,
        out: &mut [T],
        a: &[T],
        b: &[T],
        tables: [&[T]; N],
        f: impl Fn(T, T, [T; N]) -> T,
    ) {
        let rows = out.chunks_mut(self.width).zip(a.chunks(self.width).zip(b.chunks(self.width)));
        for (out, (a, b)) in rows {
            let n = out.len();
            let (a, b) = (&a[..n], &b[..n]);
            let tables: [&[T]; N] = std::array::from_fn(|i| &tables[i][..n]);
            for j in 0..n {
                out[j] = f(a[j], b[j], std::array::from_fn(|i| tables[i][j]));
            }
        }
    }

    #[inline(always)]
    fn sum_chunk<T: Real>(&self, a: &[T], b: &[T], f: impl Fn(f64, f64) -> (f64, f64)) -> Vec<f64> {
        let mut both = self.no_sums();
        self.add_to(&mut both, a, b, f);
        both
    }

    /// Sums of nothing yet, in the form that [`Columns::combine`] takes.
    pub fn no_sums(&self) -> Vec<f64> {
        vec![0f64; 2 * self.width]
    }

    /// Adds both halves of `f(a, b)`; `a` and `b` begin with channel 0.
    #[inline(always)]
    pub fn add_to<T: Real>(&self, both: &mut [f64], a: &[T], b: &[T], f: impl Fn(f64, f64) -> (f64, f64)) {
        let (first, second) = both.split_at_mut(self.width);
        for (a, b) in a.chunks(self.width).zip(b.chunks(self.width)) {
            let n = a.len();
            let (b, first, second) = (&b[..n], &mut first[..n], &mut second[..n]);
            for j in 0..n {
                let (u, v) = f(a[j].f64(), b[j].f64());
                first[j] += u;
                second[j] += v;
            }
        }
    }

    /// Per channel, both sums of all parts, in their order.
    pub fn combine(&self, parts: &[Vec<f64>]) -> [Vec<f64>; 2] {
        let mut sums = [vec![0f64; self.c], vec![0f64; self.c]];
        for part in parts {
            for (sum, part) in sums.iter_mut().zip(part.chunks(self.width)) {
                for row in part.chunks(self.c) {
                    for (s, v) in sum.iter_mut().zip(row) {
                        *s += v;
                    }
                }
            }
        }
        sums
    }
}
