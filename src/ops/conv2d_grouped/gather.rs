//! What narrow groups have in common on the CPU, of floats and of codes.
//!
//! A group alone would leave most of a vector empty. Vectors run over output channels across groups, so source pixels are
//! spread first: term `i` of a spread pixel holds, for each lane, channel `i` of the lane's group. What remains is a
//! depthwise convolution with several terms per tap, by the same lists of taps that meet the source. Sums stay in registers;
//! the order of every sum depends on the shapes alone.

use super::Groups;
use crate::ops::conv2d_depthwise::Meets;
use crate::ops::vectorize::vectorize;
use rayon::prelude::*;
use std::ops::{AddAssign, Mul};

/// Output channels of a block: sums of four 16-lane vectors, independent of each other.
pub(super) const WIDE: usize = 64;
/// Those of a narrow block, taken where fewer are left.
pub(super) const NARROW: usize = 16;
/// Elements of spread source rows, about what fits in a second-level cache.
const SCRATCH: usize = 64 * 1024;
/// Output rows of a job at least, because neighbours share source rows, and at most, so that small batches occupy all threads.
const ROWS: [usize; 2] = [4, 8];

/// How output channels of groups see source channels.
#[derive(Clone, Copy)]
pub(crate) struct Lanes {
    groups: usize,
    /// Source channels of a group: terms of a tap.
    pub(super) terms: usize,
    /// Output channels of a group.
    width: usize,
}

impl Lanes {
    /// Outputs see inputs.
    pub(crate) fn forward(g: &Groups) -> Self {
        Self { groups: g.count, terms: g.each.c, width: g.each.k }
    }
    /// Inputs see outputs.
    pub(super) fn transposed(g: &Groups) -> Self {
        Self { groups: g.count, terms: g.each.k, width: g.each.c }
    }
    pub(super) fn source(&self) -> usize {
        self.groups * self.terms
    }
    pub(super) fn output(&self) -> usize {
        self.groups * self.width
    }
    /// First lanes and widths of the blocks.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let (output, wide) = (self.output(), self.output() / WIDE * WIDE);
        let narrow = (wide..output).step_by(NARROW).map(|lane| (lane, NARROW));
        (0..wide).step_by(WIDE).map(|lane| (lane, WIDE)).chain(narrow)
    }

    /// Writes `[block][tap][term][lane]`, zero beyond the last output channel, with `at(channel, tap, term)`.
    pub(crate) fn pack<T: Copy + Default>(&self, taps: usize, at: impl Fn(usize, usize, usize) -> T) -> Vec<T> {
        let mut packed = vec![T::default(); self.output().next_multiple_of(NARROW) * taps * self.terms];
        for (lane, n) in self.blocks() {
            let block = &mut packed[lane * taps * self.terms..][..n * taps * self.terms];
            for (i, to) in block.chunks_exact_mut(n).enumerate() {
                for (channel, to) in (lane..self.output()).zip(to) {
                    *to = at(channel, i / self.terms, i % self.terms);
                }
            }
        }
        packed
    }

    /// Writes `read` of the pixels of `line` for the block of `N` lanes from `lane` on: `[pixel][term][N]`.
    #[inline(always)]
    pub(super) fn spread<A: Copy, T: Copy, const N: usize>(
        &self,
        line: &[A],
        lane: usize,
        to: &mut [T],
        read: impl Fn(A) -> T + Copy,
    ) {
        // Blocks begin and end with a group there.
        match self.width {
            1 => self.spread_groups::<A, T, 1, N>(line, lane, to, read),
            2 => self.spread_groups::<A, T, 2, N>(line, lane, to, read),
            4 => self.spread_groups::<A, T, 4, N>(line, lane, to, read),
            8 => self.spread_groups::<A, T, 8, N>(line, lane, to, read),
            _ => {
                let from: [usize; N] =
                    std::array::from_fn(|i| (lane + i).min(self.output() - 1) / self.width * self.terms);
                for (pixel, to) in line.chunks_exact(self.source()).zip(to.chunks_exact_mut(self.terms * N)) {
                    for (term, to) in to.chunks_exact_mut(N).enumerate() {
                        to.iter_mut().zip(from).for_each(|(to, at)| *to = read(pixel[at + term]));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn spread_groups<A: Copy, T: Copy, const WIDTH: usize, const N: usize>(
        &self,
        line: &[A],
        lane: usize,
        to: &mut [T],
        read: impl Fn(A) -> T + Copy,
    ) {
        let first = lane / WIDTH * self.terms;
        for (pixel, to) in line.chunks_exact(self.source()).zip(to.chunks_exact_mut(self.terms * N)) {
            for (term, to) in to.chunks_exact_mut(N).enumerate() {
                for (to, group) in to.chunks_exact_mut(WIDTH).zip(pixel[first..].chunks_exact(self.terms)) {
                    to.fill(read(group[term]));
                }
            }
        }
    }

    /// Output rows of a job, of `out` rows from `rows` source rows of `cols` pixels.
    pub(super) fn band(&self, out: usize, [rows, cols]: [usize; 2]) -> usize {
        let line = cols * self.terms * WIDE;
        (SCRATCH / line * out / rows).clamp(ROWS[0], ROWS[1])
    }
}

/// Source rows that `rows` meet: first, and one past the last.
pub(super) fn span(rows: &[Vec<[usize; 2]>]) -> [usize; 2] {
    let met = || rows.iter().flatten().map(|[_, source]| *source);
    [met().min().unwrap_or(0), met().max().map_or(0, |last| last + 1)]
}

/// Numbers that sums are made of.
pub(crate) trait Number: Copy + Default + AddAssign + Mul<Output = Self> + Send + Sync {}
impl Number for f32 {}
impl Number for i32 {}
impl Number for i64 {}

/// `sum += a * b`; `a` and `b` have `N` elements.
#[inline(always)]
pub(super) fn multiply_add<T: Number, const N: usize>(sum: &mut [T; N], a: &[T], b: &[T]) {
    if let (Ok(a), Ok(b)) = (<&[T; N]>::try_from(a), <&[T; N]>::try_from(b)) {
        for i in 0..N {
            sum[i] += a[i] * b[i];
        }
    }
}

/// Forward, and the data gradient, which is the same with the sides changed: outputs gather what they meet.
pub(crate) struct Gather<T> {
    lanes: Lanes,
    rows: Meets,
    cols: Meets,
    /// Rows and columns of a source image.
    source: [usize; 2],
    /// Rows and columns of the filter.
    taps: [usize; 2],
    /// As [`Lanes::pack`] writes them.
    weights: Vec<T>,
}

impl<T: Number> Gather<T> {
    /// Forward, with weights that [`Lanes::pack`] wrote.
    pub(crate) fn forward(g: &Groups, weights: Vec<T>) -> Self {
        let each = &g.each;
        let (rows, cols) = (Meets::forward(each, 0), Meets::forward(each, 1));
        Self { lanes: Lanes::forward(g), rows, cols, source: [each.h, each.w], taps: [each.r, each.s], weights }
    }

    /// The data gradient, likewise.
    pub(super) fn transposed(g: &Groups, weights: Vec<T>) -> Self {
        let each = &g.each;
        let (rows, cols) = (Meets::forward(each, 0).transpose(each.h), Meets::forward(each, 1).transpose(each.w));
        Self { lanes: Lanes::transposed(g), rows, cols, source: [each.p, each.q], taps: [each.r, each.s], weights }
    }

    /// Sums products of the weights with `read` of the source, beginning at `start(channel)`, and hands `finish` the sums of some
    /// channels of a pixel, where they go, and the first of these channels.
    pub(crate) fn run<A: Copy + Sync, U: Send>(
        &self,
        from: &[A],
        out: &mut [U],
        read: impl Fn(A) -> T + Copy + Sync,
        start: impl Fn(usize) -> T + Sync,
        finish: impl Fn(&mut [U], &[T], usize) + Sync,
    ) {
        let image = self.source[0] * self.source[1] * self.lanes.source();
        let row = self.cols.0.len() * self.lanes.output();
        let band = self.lanes.band(self.rows.0.len(), self.source);
        let jobs: Vec<(usize, usize, &mut [U])> = out
            .chunks_exact_mut(self.rows.0.len() * row)
            .enumerate()
            .flat_map(|(n, out)| out.chunks_mut(band * row).enumerate().map(move |(i, out)| (n, i * band, out)))
            .collect();
        jobs.into_par_iter().for_each_init(Vec::new, |spread, (n, first, out)| {
            let job = Job { from: &from[n * image..][..image], first, out };
            vectorize(
                #[inline(always)]
                || self.job(job, spread, read, &start, &finish),
            );
        });
    }

    #[inline(always)]
    fn job<A: Copy, U>(
        &self,
        mut job: Job<A, U>,
        spread: &mut Vec<T>,
        read: impl Fn(A) -> T + Copy,
        start: &impl Fn(usize) -> T,
        finish: &impl Fn(&mut [U], &[T], usize),
    ) {
        for (lane, width) in self.lanes.blocks() {
            match width {
                WIDE => self.block::<A, U, WIDE>(&mut job, lane, spread, read, start, finish),
                _ => self.block::<A, U, NARROW>(&mut job, lane, spread, read, start, finish),
            }
        }
    }

    /// The block of `N` lanes from `lane` on.
    #[inline(always)]
    fn block<A: Copy, U, const N: usize>(
        &self,
        job: &mut Job<A, U>,
        lane: usize,
        spread: &mut Vec<T>,
        read: impl Fn(A) -> T + Copy,
        start: &impl Fn(usize) -> T,
        finish: &impl Fn(&mut [U], &[T], usize),
    ) {
        let lanes = &self.lanes;
        let (cols, channels, terms) = (&self.cols.0, lanes.output(), lanes.terms);
        let rows = &self.rows.0[job.first..job.first + job.out.len() / (cols.len() * channels)];
        let [low, high] = span(rows);
        let (line, wide) = (self.source[1] * lanes.source(), self.source[1] * terms * N);
        if spread.len() < (high - low) * wide {
            spread.resize((high - low) * wide, T::default());
        }
        lanes.spread::<A, T, N>(&job.from[low * line..high * line], lane, &mut spread[..(high - low) * wide], read);
        let weights = &self.weights[lane * self.taps[0] * self.taps[1] * terms..];
        let valid = N.min(channels - lane);
        let mut first = [T::default(); N];
        first[..valid].iter_mut().enumerate().for_each(|(i, first)| *first = start(lane + i));
        for (out, rows) in job.out.chunks_exact_mut(cols.len() * channels).zip(rows) {
            for (out, cols) in out.chunks_exact_mut(channels).zip(cols) {
                let mut sum = first;
                for [r, h] in rows {
                    let line = &spread[(h - low) * wide..][..wide];
                    for [s, col] in cols {
                        let x = &line[col * terms * N..][..terms * N];
                        let w = &weights[(r * self.taps[1] + s) * terms * N..][..terms * N];
                        for (x, w) in x.chunks_exact(N).zip(w.chunks_exact(N)) {
                            multiply_add(&mut sum, x, w);
                        }
                    }
                }
                finish(&mut out[lane..lane + valid], &sum[..valid], lane);
            }
        }
    }
}

/// Output rows of an image from `first` on, and its source.
struct Job<'a, A, U> {
    from: &'a [A],
    first: usize,
    out: &'a mut [U],
}
