//! Depthwise convolution on the CPU, f32 and f64, any stride, padding and dilation.
//!
//! Forward and input gradient are one gather: for each output coordinate a list of the taps that meet the source and
//! where, so that padding costs nothing (with 7x7 filters of dilation 3 on 16x16 images it would double the work).
//! Sums over the taps stay in registers, blocks of channels wide. The order of every sum depends on the shapes alone.

use super::Geometry;
use crate::autograd::GradMode;
use crate::ops::vectorize::vectorize;
use crate::tensor::Real;
use rayon::prelude::*;

/// Channels of a block: sums of two 16-lane vectors, independent of each other.
const WIDE: usize = 32;
/// Channels of a narrow block, taken where fewer are left.
const NARROW: usize = 8;
/// Parts of the batch that sum filter gradients on their own, whatever the number of threads.
const PARTS: usize = 16;

/// Per coordinate of one axis: the pairs (tap, coordinate on the other side) that meet there, taps ascending.
pub(crate) struct Meets(pub(crate) Vec<Vec<[usize; 2]>>);

impl Meets {
    /// Of the outputs with the source along `axis`.
    pub(crate) fn forward(g: &Geometry, axis: usize) -> Self {
        let (out, taps) = ([g.p, g.q][axis], [g.r, g.s][axis]);
        Self((0..out).map(|o| (0..taps).filter_map(|t| Some([t, g.source(axis, o, t)?])).collect()).collect())
    }
    /// Of the source with the outputs: the transpose of `self`.
    pub(crate) fn transpose(&self, len: usize) -> Self {
        let mut of: Vec<Vec<[usize; 2]>> = vec![Vec::new(); len];
        for (o, pairs) in self.0.iter().enumerate() {
            pairs.iter().for_each(|&[tap, i]| of[i].push([tap, o]));
        }
        of.iter_mut().for_each(|pairs| pairs.sort_unstable());
        Self(of)
    }
    /// Per tap, the pairs (output, source).
    pub(crate) fn by_tap(&self, taps: usize) -> Vec<Vec<[usize; 2]>> {
        let mut of = vec![Vec::new(); taps];
        for (o, pairs) in self.0.iter().enumerate() {
            pairs.iter().for_each(|&[tap, i]| of[tap].push([o, i]));
        }
        of
    }
}

/// `[c r s]` as `[r s c]`.
fn channels_last<T: Real>(w: &[T], c: usize) -> Vec<T> {
    let taps = w.len() / c;
    let mut to = vec![T::zero(); w.len()];
    for (c_i, w) in w.chunks_exact(taps).enumerate() {
        w.iter().enumerate().for_each(|(t, v)| to[t * c + c_i] = *v);
    }
    to
}

pub(super) fn fprop<T: Real>(x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T], g: &Geometry) {
    let (rows, cols) = (Meets::forward(g, 0), Meets::forward(g, 1));
    Gather {
        rows,
        cols,
        source: [g.h, g.w],
        c: g.c,
        s: g.s,
        w: &channels_last(w, g.c),
        bias,
        mode: GradMode::Overwrite,
    }
    .run(x, y);
}

pub(super) fn dgrad<T: Real>(dy: &[T], w: &[T], dx: &mut [T], mode: GradMode, g: &Geometry) {
    let rows = Meets::forward(g, 0).transpose(g.h);
    let cols = Meets::forward(g, 1).transpose(g.w);
    Gather { rows, cols, source: [g.p, g.q], c: g.c, s: g.s, w: &channels_last(w, g.c), bias: None, mode }.run(dy, dx);
}

struct Gather<'a, T> {
    rows: Meets,
    cols: Meets,
    /// Rows and columns of a source image.
    source: [usize; 2],
    c: usize,
    /// Columns of the filter.
    s: usize,
    /// `[r s c]`.
    w: &'a [T],
    bias: Option<&'a [T]>,
    mode: GradMode,
}

impl<T: Real> Gather<'_, T> {
    fn run(&self, from: &[T], out: &mut [T]) {
        let image = self.source[0] * self.source[1] * self.c;
        let rows = self.rows.0.len();
        out.par_chunks_mut(self.cols.0.len() * self.c).enumerate().for_each(|(row, out)| {
            let from = &from[row / rows * image..][..image];
            vectorize(
                #[inline(always)]
                || {
                    let mut first = 0;
                    while first + WIDE <= self.c {
                        self.block::<WIDE>(from, row % rows, first, WIDE, out);
                        first += WIDE;
                    }
                    while first < self.c {
                        self.block::<NARROW>(from, row % rows, first, NARROW.min(self.c - first), out);
                        first += NARROW;
                    }
                },
            );
        });
    }

    /// Channels `first..first + width` (`width` <= `N`) of one output row.
    #[inline(always)]
    fn block<const N: usize>(&self, from: &[T], row: usize, first: usize, width: usize, out: &mut [T]) {
        let mut start = [T::zero(); N];
        if let Some(bias) = self.bias {
            start[..width].copy_from_slice(&bias[first..first + width]);
        }
        for (out, cols) in out.chunks_exact_mut(self.c).zip(&self.cols.0) {
            let mut sum = start;
            for [r, h] in &self.rows.0[row] {
                let (line, taps) = (h * self.source[1], r * self.s);
                for [s, col] in cols {
                    let x = &from[(line + col) * self.c + first..][..width];
                    let w = &self.w[(taps + s) * self.c + first..][..width];
                    multiply_add(&mut sum, x, w);
                }
            }
            let out = &mut out[first..first + width];
            match self.mode {
                GradMode::Overwrite => out.copy_from_slice(&sum[..width]),
                GradMode::Accumulate => out.iter_mut().zip(&sum).for_each(|(o, v)| *o += *v),
            }
        }
    }
}

/// `sum += a * b`; whole blocks through arrays of known length, which stay in registers.
#[inline(always)]
fn multiply_add<T: Real, const N: usize>(sum: &mut [T; N], a: &[T], b: &[T]) {
    if let (Ok(a), Ok(b)) = (<&[T; N]>::try_from(a), <&[T; N]>::try_from(b)) {
        for i in 0..N {
            sum[i] += a[i] * b[i];
        }
    } else {
        sum.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s += *a * *b);
    }
}

pub(super) fn wgrad<T: Real>(x: &[T], dy: &[T], dw: &mut [T], mode: GradMode, g: &Geometry) {
    let rows = Meets::forward(g, 0);
    let cols = Meets::forward(g, 1).by_tap(g.s);
    let per_part = g.n.div_ceil(PARTS);
    let (image_x, image_y, taps) = (g.h * g.w * g.c, g.p * g.q * g.c, g.r * g.s);
    let part = |x: &[T], dy: &[T]| {
        // [r s c]
        let mut sum = vec![T::zero(); taps * g.c];
        for (x, dy) in x.chunks_exact(image_x).zip(dy.chunks_exact(image_y)) {
            for (dy, pairs) in dy.chunks_exact(g.q * g.c).zip(&rows.0) {
                for [r, h] in pairs {
                    let x = &x[h * g.w * g.c..][..g.w * g.c];
                    let sum = &mut sum[r * g.s * g.c..][..g.s * g.c];
                    for (sum, cols) in sum.chunks_exact_mut(g.c).zip(&cols) {
                        let mut first = 0;
                        while first + WIDE <= g.c {
                            products::<T, WIDE>(x, dy, cols, g.c, first, &mut sum[first..first + WIDE]);
                            first += WIDE;
                        }
                        while first < g.c {
                            let end = g.c.min(first + NARROW);
                            products::<T, NARROW>(x, dy, cols, g.c, first, &mut sum[first..end]);
                            first = end;
                        }
                    }
                }
            }
        }
        sum
    };
    let parts: Vec<Vec<T>> = x
        .par_chunks(per_part * image_x)
        .zip(dy.par_chunks(per_part * image_y))
        .map(|(x, dy)| {
            vectorize(
                #[inline(always)]
                || part(x, dy),
            )
        })
        .collect();
    for (c, dw) in dw.chunks_exact_mut(taps).enumerate() {
        for (t, dw) in dw.iter_mut().enumerate() {
            let sum = parts.iter().map(|part| part[t * g.c + c]).fold(T::zero(), |a, b| a + b);
            *dw = if mode == GradMode::Accumulate { *dw + sum } else { sum };
        }
    }
}

/// Adds the products of one row of `x` and one of `dy` at the pairs of one tap, channels `first..first + sum.len()`.
#[inline(always)]
fn products<T: Real, const N: usize>(x: &[T], dy: &[T], pairs: &[[usize; 2]], c: usize, first: usize, sum: &mut [T]) {
    let mut row = [T::zero(); N];
    let width = sum.len();
    for [q, col] in pairs {
        multiply_add(&mut row, &dy[q * c + first..][..width], &x[col * c + first..][..width]);
    }
    sum.iter_mut().zip(&row).for_each(|(s, v)| *s += *v);
}
