//! The f32 CPU path of convolutions without dilation: direct convolution over bands of output rows, and two that need
//! fewer products: 3x3 filters with stride 1 between many channels (`winograd.rs`), upsampling by 2 before a 3x3 filter
//! (`upsample.rs`).
//!
//! A band's source rows are copied with their zero borders into a scratch area of cache size, so that the kernels need
//! no bounds; weights are packed once per call into blocks of output channels. Both gradients reduce to the same two
//! kernels: the input gradient is, for each residue of the coordinates modulo the stride, a convolution of `dy` with
//! every stride-th tap in reverse order.
//!
//! The order of every sum depends on the shapes alone: results do not depend on the number of threads.

mod upsample;
mod window;
mod winograd;

use super::Geometry;
use super::cpu_kernel::{Band, Isa, Outer, band, outer};
use crate::autograd::GradMode;
use crate::quant::Affine;
use rayon::prelude::*;
use std::ops::Range;
pub(super) use upsample::{upsample_dgrad, upsample_fprop, upsample_wgrad};
use window::{Line, Source, aligned, pack, window, with_scratch};
use winograd::Winograd;

/// Scratch for source rows, in floats: half of a 48 KiB first-level cache, the rest is for weights and output.
const SCRATCH: usize = 6 * 1024;
/// Output rows of a band at least, however long they are.
const LEAST: usize = 4;

/// One convolution whose outputs lie `out_stride` apart, from `out_first` on. Pairs are of rows and columns.
struct Pass {
    taps: [usize; 2],
    stride: [usize; 2],
    /// Source coordinates of output 0 at tap 0.
    first: [isize; 2],
    out_first: [usize; 2],
    weights: Vec<Line>,
}

/// Runs passes over all images: source `[n][h w c]`, output `[n][p q k]`, every `out_stride`-th pixel a pass's.
struct Conv<'a> {
    isa: Isa,
    source: [usize; 3],
    output: [usize; 3],
    out_stride: [usize; 2],
    passes: Vec<Pass>,
    bias: Option<&'a [f32]>,
    mode: GradMode,
}

/// First and one past the last of the source coordinates along `axis` that `count` outputs of all passes meet.
fn span(passes: &[Pass], axis: usize, count: usize) -> (isize, isize) {
    let end = |p: &Pass| p.first[axis] + ((count - 1) * p.stride[axis] + p.taps[axis]) as isize;
    (passes.iter().map(|p| p.first[axis]).min().unwrap_or(0), passes.iter().map(end).max().unwrap_or(0))
}

impl Conv<'_> {
    fn run(&self, x: &[f32], y: &mut [f32]) {
        let rows = vec![(); y.len() / (self.output[1] * self.output[2]).max(1)];
        self.run_rows(x, y, rows, |_, _| ());
    }

    /// [`Self::run`]; `finish` is handed each band when it is done, with what `out` has for its rows.
    fn run_rows<O: Send, R: Send>(
        &self,
        x: &[f32],
        y: &mut [f32],
        mut out: Vec<O>,
        finish: impl Fn(&mut [f32], &mut [O]) -> R + Sync,
    ) -> Vec<R> {
        let [h, w, c] = self.source;
        let [p, q, k] = self.output;
        let mut bias = vec![0f32; k.next_multiple_of(self.isa.width(k))];
        if let Some(b) = self.bias {
            bias[..k].copy_from_slice(b);
        }
        // Rows of a band: as many as the scratch holds, a multiple of the output stride so that bands do not meet.
        let (left, right) = span(&self.passes, 1, q.div_ceil(self.out_stride[1]));
        let row = ((right - left) as usize * c).max(1);
        let stride = self.passes[0].stride[0];
        let taps = self.passes.iter().map(|p| p.taps[0]).max().unwrap_or(1);
        let rows = (SCRATCH / row).saturating_sub(taps).max(LEAST * stride) / stride * self.out_stride[0];
        let images = y.chunks_exact_mut(p * q * k).zip(out.chunks_exact_mut(p));
        let bands: Vec<(usize, usize, &mut [f32], &mut [O])> = images
            .enumerate()
            .flat_map(|(n, (y, out))| {
                let bands = y.chunks_mut(rows * q * k).zip(out.chunks_mut(rows)).enumerate();
                bands.map(move |(i, (y, out))| (n, i * rows, y, out))
            })
            .collect();
        let of = |(n, first, y, out): (usize, usize, &mut [f32], &mut [O])| {
            self.band(&x[n * h * w * c..][..h * w * c], first, left, (right - left) as usize, y, &bias);
            finish(y, out)
        };
        bands.into_par_iter().map(of).collect()
    }

    /// The output rows from `first` on that `y` holds; `left` and `width` are the source columns of all passes.
    fn band(&self, image: &[f32], first: usize, left: isize, width: usize, y: &mut [f32], bias: &[f32]) {
        let [_, q, k] = self.output;
        let c = self.source[2];
        let step = self.out_stride;
        let count = y.len() / (q * k);
        let (top, bottom) = span(&self.passes, 0, count.div_ceil(step[0]));
        let source_rows = (bottom - top) as usize;
        with_scratch(source_rows * width * c, |scratch| {
            let from = (first / step[0] * self.passes[0].stride[0]) as isize + top;
            window((image, 0.0), self.source, from, source_rows, left, width, scratch);
            for pass in &self.passes {
                let [row, col] = pass.out_first;
                let start = ((pass.first[0] - top) as usize * width + (pass.first[1] - left) as usize) * c;
                let b = Band {
                    // A pass without taps has no source.
                    x: scratch.get(start..).unwrap_or_default(),
                    x_step: pass.stride[0] * width * c,
                    x_row: width * c,
                    x_pixel: pass.stride[1] * c,
                    rows: count.saturating_sub(row).div_ceil(step[0]),
                    cols: q.saturating_sub(col).div_ceil(step[1]),
                    r: pass.taps[0],
                    taps: pass.taps[1] * c,
                    w: bytemuck::cast_slice(&pass.weights),
                    k,
                    bias,
                    out_row: step[0] * q * k,
                    out_pixel: step[1] * k,
                    accumulate: self.mode == GradMode::Accumulate,
                };
                if b.rows > 0 && b.cols > 0 {
                    band(self.isa, &b, &mut y[(row * q + col) * k..]);
                }
            }
        });
    }
}

/// `y = conv(x, at)` with the sizes of `g`; `finish` is handed each band of rows when it is done, with what `out` has for
/// its rows.
#[expect(clippy::too_many_arguments, reason = "one convolution, and what follows it")]
fn correlate<O: Send, R: Send>(
    isa: Isa,
    x: &[f32],
    at: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    bias: Option<&[f32]>,
    y: &mut [f32],
    mode: GradMode,
    g: &Geometry,
    out: Vec<O>,
    finish: impl Fn(&mut [f32], &mut [O]) -> R + Sync,
) -> Vec<R> {
    if Winograd::serves(g) {
        return Winograd::new(isa, at, bias, mode, g).run_rows(x, y, out, finish);
    }
    let first = [-(g.pad[0] as isize), -(g.pad[1] as isize)];
    let weights = pack(isa, g.k, [g.r, g.s, g.c], at);
    let pass = Pass { taps: [g.r, g.s], stride: g.stride, first, out_first: [0, 0], weights };
    let (source, output) = ([g.h, g.w, g.c], [g.p, g.q, g.k]);
    Conv { isa, source, output, out_stride: [1; 2], passes: vec![pass], bias, mode }.run_rows(x, y, out, finish)
}

/// The transpose of `correlate`: `dx = conv^T(dy, at)` with the sizes of `g`.
fn transpose(
    isa: Isa,
    dy: &[f32],
    at: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    dx: &mut [f32],
    mode: GradMode,
    g: &Geometry,
) {
    if Winograd::serves(g) {
        let turned = |c, r, s, k| at(k, 2 - r, 2 - s, c);
        let shape = Geometry { h: g.p, w: g.q, c: g.k, k: g.c, p: g.h, q: g.w, pad: g.pad.map(|p| 2 - p), ..*g };
        return Winograd::new(isa, turned, None, mode, &shape).run(dy, dx);
    }
    // Input coordinate `first + stride * i` meets output coordinate `i + shift - j` at tap `tap + stride * j`.
    let along = |axis: usize, first: usize, taps: usize| {
        let (stride, pad) = (g.stride[axis], g.pad[axis]);
        let tap = (first + pad) % stride;
        let shift = (first + pad - tap) / stride;
        let count = taps.saturating_sub(tap).div_ceil(stride);
        (tap, count, shift as isize - count as isize + 1)
    };
    let mut passes = Vec::new();
    for a in 0..g.stride[0].min(g.h) {
        for b in 0..g.stride[1].min(g.w) {
            let (r0, r, top) = along(0, a, g.r);
            let (s0, s, left) = along(1, b, g.s);
            let weights = pack(isa, g.c, [r, s, g.k], |c, i, j, k| {
                at(k, r0 + g.stride[0] * (r - 1 - i), s0 + g.stride[1] * (s - 1 - j), c)
            });
            passes.push(Pass { taps: [r, s], stride: [1; 2], first: [top, left], out_first: [a, b], weights });
        }
    }
    let (source, output) = ([g.p, g.q, g.k], [g.h, g.w, g.c]);
    Conv { isa, source, output, out_stride: g.stride, passes, bias: None, mode }.run(dy, dx);
}

/// `[k][row]`: the sum over `n` images of what `add(images, channels, sum)` adds to `sum[channels][row]`. About 16 jobs of
/// images by output channels, whatever the number of threads; few parts where filters are large.
fn over_images(
    n: usize,
    k: usize,
    row: usize,
    add: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let slice = k.min(32);
    let slices = k.div_ceil(slice);
    let images = n.div_ceil(16usize.div_ceil(slices));
    let parts = n.div_ceil(images);
    let sums: Vec<Vec<Line>> = (0..parts * slices)
        .into_par_iter()
        .map(|job| {
            let (part, first) = (job / slices, job % slices * slice);
            let channels = first..(first + slice).min(k);
            let floats = channels.len() * row;
            let mut sum = aligned(floats);
            let images = part * images..((part + 1) * images).min(n);
            add(images, channels, &mut bytemuck::cast_slice_mut(&mut sum)[..floats]);
            sum
        })
        .collect();
    let mut total = vec![0f32; k * row];
    total.par_chunks_exact_mut(row).enumerate().for_each(|(k, total)| {
        for part in 0..parts {
            let sum: &[f32] = bytemuck::cast_slice(&sums[part * slices + k / slice]);
            total.iter_mut().zip(&sum[k % slice * row..]).for_each(|(t, s)| *t += s);
        }
    });
    total
}

/// Filter gradient `[k r s c]` with the sizes of `g`, of values `x`, or codes to which `add` is added.
fn filter_gradient<S: Source>(isa: Isa, (x, add): (&[S], f32), dy: &[f32], g: &Geometry) -> Vec<f32> {
    if Winograd::serves(g) {
        return winograd::filter_gradient(isa, (x, add), dy, g);
    }
    let taps = g.s * g.c;
    let padded = taps.next_multiple_of(isa.lanes());
    let sums = over_images(g.n, g.k, g.r * padded, |images, channels, sum| {
        for n in images {
            let image = &x[n * g.h * g.w * g.c..][..g.h * g.w * g.c];
            let dy = &dy[n * g.p * g.q * g.k..][..g.p * g.q * g.k];
            image_gradient(isa, (image, add), &dy[channels.start..], channels.len(), sum, padded, g);
        }
    });
    sums.chunks_exact(padded).flat_map(|row| &row[..taps]).copied().collect()
}

/// Adds one image's products for `k` output channels to `sum[k][r][padded]`; `dy` starts at the first of them.
fn image_gradient<S: Source>(
    isa: Isa,
    (image, add): (&[S], f32),
    dy: &[f32],
    k: usize,
    sum: &mut [f32],
    padded: usize,
    g: &Geometry,
) {
    let [down, across] = g.stride;
    let source_cols = (g.q - 1) * across + g.s;
    let row = source_cols * g.c;
    let rows = ((SCRATCH / row).saturating_sub(g.r).max(LEAST * down) / down).min(g.p);
    for first in (0..g.p).step_by(rows) {
        let rows = rows.min(g.p - first);
        let source_rows = (rows - 1) * down + g.r;
        let top = (first * down) as isize - g.pad[0] as isize;
        // Vectors may reach past the last pixel; what they find there lands in lanes that nobody reads.
        with_scratch(source_rows * row + padded, |scratch| {
            window((image, add), [g.h, g.w, g.c], top, source_rows, -(g.pad[1] as isize), source_cols, scratch);
            for r in 0..g.r {
                let o = Outer {
                    x: &scratch[r * row..],
                    x_step: down * row,
                    x_pixel: across * g.c,
                    dy: &dy[first * g.q * g.k..],
                    dy_row: g.q * g.k,
                    dy_pixel: g.k,
                    rows,
                    cols: g.q,
                    k,
                    taps: g.s * g.c,
                    dw_k: g.r * padded,
                };
                outer(isa, &o, &mut sum[r * padded..]);
            }
        });
    }
}

fn store(out: &mut [f32], v: &[f32], mode: GradMode) {
    match mode {
        GradMode::Overwrite => out.copy_from_slice(v),
        GradMode::Accumulate => out.iter_mut().zip(v).for_each(|(o, v)| *o += v),
    }
}

fn krsc<'a>(w: &'a [f32], g: &Geometry) -> impl Fn(usize, usize, usize, usize) -> f32 + Sync + use<'a> {
    let (rs, s_len, c_len) = (g.r, g.s, g.c);
    move |k, r, s, c| w[((k * rs + r) * s_len + s) * c_len + c]
}

pub(super) fn fprop(x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], g: &Geometry) {
    fprop_rows(x, w, bias, y, g, vec![(); g.n * g.p], |_, _| ());
}

pub(super) fn fprop_rows<O: Send, R: Send>(
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    g: &Geometry,
    out: Vec<O>,
    finish: impl Fn(&mut [f32], &mut [O]) -> R + Sync,
) -> Vec<R> {
    correlate(Isa::widest(), x, krsc(w, g), bias, y, GradMode::Overwrite, g, out, finish)
}

pub(super) fn dgrad(dy: &[f32], w: &[f32], dx: &mut [f32], mode: GradMode, g: &Geometry) {
    transpose(Isa::widest(), dy, krsc(w, g), dx, mode, g);
}

pub(super) fn wgrad(x: &[f32], dy: &[f32], dw: &mut [f32], mode: GradMode, g: &Geometry) {
    store(dw, &filter_gradient(Isa::widest(), (x, 0.0), dy, g), mode);
}

/// Of values `(x + a.zero) / a.scale`: the products are those of the integers, divided at the end.
pub(super) fn wgrad_codes(x: &[i8], a: &Affine<f32>, dy: &[f32], dw: &mut [f32], mode: GradMode, g: &Geometry) {
    let mut of_integers = filter_gradient(Isa::widest(), (x, a.zero), dy, g);
    of_integers.iter_mut().for_each(|v| *v /= a.scale);
    store(dw, &of_integers, mode);
}

#[cfg(test)]
mod tests;
