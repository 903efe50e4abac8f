//! Groups of few channels, and dilated ones, on the CPU in f32: all three passes over spread pixels (`gather.rs`).

use super::Groups;
use super::gather::{Gather, Lanes, NARROW, WIDE, multiply_add, span};
use crate::autograd::GradMode;
use crate::ops::conv2d_depthwise::Meets;
use crate::ops::vectorize::vectorize;
use rayon::prelude::*;

/// Parts of the batch that sum filter gradients on their own, whatever the number of threads.
const PARTS: usize = 16;

pub(super) fn fprop(x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], g: &Groups) {
    let (c, taps) = (g.each.c, g.each.r * g.each.s);
    let weights = Lanes::forward(g).pack(taps, |k, tap, i| w[(k * taps + tap) * c + i]);
    let start = |k: usize| bias.map_or(0.0, |b| b[k]);
    Gather::forward(g, weights).run(x, y, |x| x, start, |y, sums, _| y.copy_from_slice(sums));
}

pub(super) fn dgrad(dy: &[f32], w: &[f32], dx: &mut [f32], mode: GradMode, g: &Groups) {
    let (each, taps) = (&g.each, g.each.r * g.each.s);
    let at = |c: usize, tap: usize, k: usize| w[((c / each.c * each.k + k) * taps + tap) * each.c + c % each.c];
    let gather = Gather::transposed(g, Lanes::transposed(g).pack(taps, at));
    match mode {
        GradMode::Overwrite => gather.run(dy, dx, |dy| dy, |_| 0.0, |dx, sums, _| dx.copy_from_slice(sums)),
        GradMode::Accumulate => {
            let add = |dx: &mut [f32], sums: &[f32], _| dx.iter_mut().zip(sums).for_each(|(d, v)| *d += *v);
            gather.run(dy, dx, |dy| dy, |_| 0.0, add);
        }
    }
}

/// The filter gradient's sums over some images.
struct FilterSums<'a> {
    g: &'a Groups,
    lanes: Lanes,
    rows: Meets,
    /// Per filter column, the pairs (output column, source column).
    cols: Vec<Vec<[usize; 2]>>,
}

impl FilterSums<'_> {
    /// `[tap][term][N]` of the lanes from `lane` on.
    #[inline(always)]
    fn block<const N: usize>(&self, x: &[f32], dy: &[f32], lane: usize) -> Vec<f32> {
        let (g, terms, channels) = (&self.g.each, self.lanes.terms, self.lanes.output());
        let valid = N.min(channels - lane);
        let band = self.lanes.band(g.p, [g.h, g.w]);
        let (line, wide) = (g.w * self.lanes.source(), g.w * terms * N);
        let (mut spread, mut grads) = (Vec::new(), vec![0f32; g.q * N]);
        let mut sums = vec![0f32; g.r * g.s * terms * N];
        for (x, dy) in x.chunks_exact(g.h * line).zip(dy.chunks_exact(g.p * g.q * channels)) {
            for (rows, dy) in self.rows.0.chunks(band).zip(dy.chunks(band * g.q * channels)) {
                let [low, high] = span(rows);
                spread.resize(((high - low) * wide).max(spread.len()), 0.0);
                let to = &mut spread[..(high - low) * wide];
                self.lanes.spread::<f32, f32, N>(&x[low * line..high * line], lane, to, |x| x);
                for (rows, dy) in rows.iter().zip(dy.chunks_exact(g.q * channels)) {
                    for (to, dy) in grads.chunks_exact_mut(N).zip(dy.chunks_exact(channels)) {
                        to[..valid].copy_from_slice(&dy[lane..lane + valid]);
                    }
                    for [r, h] in rows {
                        let line = &spread[(h - low) * wide..][..wide];
                        for (s, pairs) in self.cols.iter().enumerate() {
                            for term in 0..terms {
                                let mut row = [0f32; N];
                                for [q, col] in pairs {
                                    multiply_add(
                                        &mut row,
                                        &grads[q * N..][..N],
                                        &line[(col * terms + term) * N..][..N],
                                    );
                                }
                                let sums = &mut sums[((r * g.s + s) * terms + term) * N..][..N];
                                sums.iter_mut().zip(&row).for_each(|(sum, v)| *sum += *v);
                            }
                        }
                    }
                }
            }
        }
        sums
    }
}

pub(super) fn wgrad(x: &[f32], dy: &[f32], dw: &mut [f32], mode: GradMode, g: &Groups) {
    let (each, lanes) = (&g.each, Lanes::forward(g));
    let cols = Meets::forward(each, 1).by_tap(each.s);
    let sums = FilterSums { g, lanes, rows: Meets::forward(each, 0), cols };
    let images = each.n.div_ceil(PARTS);
    let (image_x, image_y) = (x.len() / each.n, dy.len() / each.n);
    let blocks: Vec<(usize, usize)> = lanes.blocks().collect();
    let parts = each.n.div_ceil(images);
    // `[part][block]`
    let found: Vec<Vec<f32>> = (0..parts * blocks.len())
        .into_par_iter()
        .map(|job| {
            let (part, (lane, width)) = (job / blocks.len(), blocks[job % blocks.len()]);
            let images = part * images..((part + 1) * images).min(each.n);
            let x = &x[images.start * image_x..images.end * image_x];
            let dy = &dy[images.start * image_y..images.end * image_y];
            vectorize(
                #[inline(always)]
                || match width {
                    WIDE => sums.block::<WIDE>(x, dy, lane),
                    _ => sums.block::<NARROW>(x, dy, lane),
                },
            )
        })
        .collect();
    for (b, &(lane, width)) in blocks.iter().enumerate() {
        let filter = each.r * each.s * each.c;
        for (i, dw) in dw[lane * filter..].chunks_exact_mut(filter).take(width).enumerate() {
            for (j, dw) in dw.iter_mut().enumerate() {
                let of = |part: usize| found[part * blocks.len() + b][j * width + i];
                let sum = (1..parts).fold(of(0), |sum, part| sum + of(part));
                *dw = if mode == GradMode::Accumulate { *dw + sum } else { sum };
            }
        }
    }
}
