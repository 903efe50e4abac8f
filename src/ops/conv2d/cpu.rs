//! The f32 CPU path of convolutions without dilation: direct convolution over bands of output rows.
//!
//! A band's source rows are copied with their zero borders into a scratch area of cache size, so that the kernels need
//! no bounds; weights are packed once per call into blocks of output channels. Both gradients reduce to the same two
//! kernels: the input gradient is, for each residue of the coordinates modulo the stride, a convolution of `dy` with
//! every stride-th tap in reverse order; and upsampling by 2 with a 3x3 filter is the transpose of a 4x4 convolution
//! with stride 2 and padding 1, whose taps are sums of the 3x3 taps ([`Spread`]).
//!
//! The order of every sum depends on the shapes alone: results do not depend on the number of threads.

use super::Geometry;
use super::cpu_kernel::{Band, Isa, Outer, band, outer};
use crate::autograd::GradMode;
use crate::ops::vectorize::vectorize;
use crate::quant::Affine;
use rayon::prelude::*;
use std::cell::RefCell;

/// Scratch for source rows, in floats: half of a 48 KiB first-level cache, the rest is for weights and output.
const SCRATCH: usize = 6 * 1024;
/// Output rows of a band at least, however long they are.
const LEAST: usize = 4;

/// 64 bytes, for alignment to cache lines and to the widest vectors.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Line([f32; 16]);

/// Zeroed floats at the start of a cache line.
fn aligned(floats: usize) -> Vec<Line> {
    vec![Line([0.0; 16]); floats.div_ceil(16)]
}

fn with_scratch<R>(floats: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) });
    SCRATCH.with_borrow_mut(|lines| {
        if lines.len() * 16 < floats {
            *lines = aligned(floats);
        }
        f(&mut bytemuck::cast_slice_mut(lines)[..floats])
    })
}

/// Elements of a source that are read as floats.
trait Source: Copy + Send + Sync {
    /// Writes the floats of `from` plus `add`.
    fn read(from: &[Self], add: f32, to: &mut [f32]);
}
impl Source for f32 {
    fn read(from: &[f32], _: f32, to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}
/// Codes are read as the integers `code + zero`, of which values are multiples.
impl Source for i8 {
    fn read(from: &[i8], add: f32, to: &mut [f32]) {
        vectorize(
            #[inline(always)]
            || to.iter_mut().zip(from).for_each(|(to, q)| *to = f32::from(*q) + add),
        );
    }
}

/// Copies source rows `top..top + rows` and columns `left..left + cols` of one image into `to`, codes with `add` added;
/// zero outside.
fn window<S: Source>(
    (image, add): (&[S], f32),
    [h, w, c]: [usize; 3],
    top: isize,
    rows: usize,
    left: isize,
    cols: usize,
    to: &mut [f32],
) {
    let before = (-left).clamp(0, cols as isize) as usize;
    let inside = ((w as isize - left).clamp(0, cols as isize) as usize).saturating_sub(before);
    for (i, to) in to.chunks_exact_mut(cols * c).take(rows).enumerate() {
        let row = top + i as isize;
        if row < 0 || row >= h as isize || inside == 0 {
            to.fill(0.0);
            continue;
        }
        let start = (row as usize * w + (left + before as isize) as usize) * c;
        to[..before * c].fill(0.0);
        S::read(&image[start..][..inside * c], add, &mut to[before * c..(before + inside) * c]);
        to[(before + inside) * c..].fill(0.0);
    }
}

/// Weights in blocks of output channels, `[k / width][r][s][c][width]`, zero beyond `k` (blocks of one where the kernel
/// takes dot products); `at(k, r, s, c)` reads them.
fn pack(isa: Isa, k: usize, [r, s, c]: [usize; 3], at: impl Fn(usize, usize, usize, usize) -> f32 + Sync) -> Vec<Line> {
    let width = if isa.dots(k, s * c) { 1 } else { isa.width(k) };
    let block = r * s * c * width;
    let mut packed = aligned(k.div_ceil(width) * block);
    if block > 0 {
        bytemuck::cast_slice_mut::<Line, f32>(&mut packed)[..k.div_ceil(width) * block].par_chunks_exact_mut(block).enumerate().for_each(|(b, to)| {
            let first = b * width;
            let valid = (k - first).min(width);
            let mut to = to.chunks_exact_mut(width);
            for r in 0..r {
                for s in 0..s {
                    for (c, to) in to.by_ref().take(c).enumerate() {
                        to[..valid].iter_mut().enumerate().for_each(|(i, to)| *to = at(first + i, r, s, c));
                    }
                }
            }
        });
    }
    packed
}

/// One convolution whose outputs lie `out_stride` apart in both directions, from `out_first` on.
struct Pass {
    r: usize,
    s: usize,
    stride: usize,
    /// Source coordinates of output 0 at tap 0.
    top: isize,
    left: isize,
    out_first: [usize; 2],
    weights: Vec<Line>,
}

/// Runs passes over all images: source `[n][h w c]`, output `[n][p q k]`, every `out_stride`-th pixel a pass's.
struct Conv<'a> {
    isa: Isa,
    source: [usize; 3],
    output: [usize; 3],
    out_stride: usize,
    passes: Vec<Pass>,
    bias: Option<&'a [f32]>,
    mode: GradMode,
}

/// First and one past the last of the source coordinates that `count(pass)` outputs of all passes meet.
fn span(passes: &[Pass], first: impl Fn(&Pass) -> isize, taps: impl Fn(&Pass) -> usize, count: usize) -> (isize, isize) {
    let end = |p: &Pass| first(p) + ((count - 1) * p.stride + taps(p)) as isize;
    (passes.iter().map(&first).min().unwrap_or(0), passes.iter().map(end).max().unwrap_or(0))
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
        let (left, right) = span(&self.passes, |p| p.left, |p| p.s, q.div_ceil(self.out_stride));
        let row = ((right - left) as usize * c).max(1);
        let stride = self.passes[0].stride;
        let taps = self.passes.iter().map(|p| p.r).max().unwrap_or(1);
        let rows = (SCRATCH / row).saturating_sub(taps).max(LEAST * stride) / stride * self.out_stride;
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
        let (top, bottom) = span(&self.passes, |p| p.top, |p| p.r, count.div_ceil(step));
        let source_rows = (bottom - top) as usize;
        with_scratch(source_rows * width * c, |scratch| {
            let from = (first / step * self.passes[0].stride) as isize + top;
            window((image, 0.0), self.source, from, source_rows, left, width, scratch);
            for pass in &self.passes {
                let [row, col] = pass.out_first;
                let start = ((pass.top - top) as usize * width + (pass.left - left) as usize) * c;
                let b = Band {
                    // A pass without taps has no source.
                    x: scratch.get(start..).unwrap_or_default(),
                    x_step: pass.stride * width * c,
                    x_row: width * c,
                    x_pixel: pass.stride * c,
                    rows: count.saturating_sub(row).div_ceil(step),
                    cols: q.saturating_sub(col).div_ceil(step),
                    r: pass.r,
                    taps: pass.s * c,
                    w: bytemuck::cast_slice(&pass.weights),
                    k,
                    bias,
                    out_row: step * q * k,
                    out_pixel: step * k,
                    accumulate: self.mode == GradMode::Accumulate,
                };
                if b.rows > 0 && b.cols > 0 {
                    band(self.isa, &b, &mut y[(row * q + col) * k..]);
                }
            }
        });
    }
}

/// `y = conv(x, at)` with the sizes of `g`.
fn correlate(
    isa: Isa,
    x: &[f32],
    at: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    bias: Option<&[f32]>,
    y: &mut [f32],
    mode: GradMode,
    g: &Geometry,
) {
    correlation(isa, at, bias, mode, g).run(x, y);
}

fn correlation<'a>(
    isa: Isa,
    at: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    bias: Option<&'a [f32]>,
    mode: GradMode,
    g: &Geometry,
) -> Conv<'a> {
    let pad = -(g.pad as isize);
    let weights = pack(isa, g.k, [g.r, g.s, g.c], at);
    let pass = Pass { r: g.r, s: g.s, stride: g.stride, top: pad, left: pad, out_first: [0, 0], weights };
    let (source, output) = ([g.h, g.w, g.c], [g.p, g.q, g.k]);
    Conv { isa, source, output, out_stride: 1, passes: vec![pass], bias, mode }
}

/// The transpose of `correlate`: `dx = conv^T(dy, at)` with the sizes of `g`, plus `bias[c]`.
fn transpose(
    isa: Isa,
    dy: &[f32],
    at: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    bias: Option<&[f32]>,
    dx: &mut [f32],
    mode: GradMode,
    g: &Geometry,
) {
    // Input coordinate `first + stride * i` meets output coordinate `i + shift - j` at tap `tap + stride * j`.
    let along = |first: usize, taps: usize| {
        let tap = (first + g.pad) % g.stride;
        let shift = (first + g.pad - tap) / g.stride;
        let count = taps.saturating_sub(tap).div_ceil(g.stride);
        (tap, count, shift as isize - count as isize + 1)
    };
    let mut passes = Vec::new();
    for a in 0..g.stride.min(g.h) {
        for b in 0..g.stride.min(g.w) {
            let (r0, r, top) = along(a, g.r);
            let (s0, s, left) = along(b, g.s);
            let weights = pack(isa, g.c, [r, s, g.k], |c, i, j, k| {
                at(k, r0 + g.stride * (r - 1 - i), s0 + g.stride * (s - 1 - j), c)
            });
            passes.push(Pass { r, s, stride: 1, top, left, out_first: [a, b], weights });
        }
    }
    let (source, output) = ([g.p, g.q, g.k], [g.h, g.w, g.c]);
    Conv { isa, source, output, out_stride: g.stride, passes, bias, mode }.run(dy, dx);
}

/// Filter gradient `[k r s c]` with the sizes of `g`; each output row of `c s` elements goes through `finish`.
/// `x` are values, or codes to which `add` is added.
fn filter_gradient<S: Source>(isa: Isa, (x, add): (&[S], f32), dy: &[f32], g: &Geometry) -> Vec<f32> {
    let taps = g.s * g.c;
    let padded = taps.next_multiple_of(isa.lanes());
    // About 16 jobs of images by output channels, whatever the number of threads; few parts where filters are large.
    let slice = g.k.min(32);
    let slices = g.k.div_ceil(slice);
    let images = g.n.div_ceil(16usize.div_ceil(slices));
    let parts = g.n.div_ceil(images);
    let sums: Vec<Vec<Line>> = (0..parts * slices)
        .into_par_iter()
        .map(|job| {
            let (part, first) = (job / slices, job % slices * slice);
            let k = slice.min(g.k - first);
            let mut sum = aligned(k * g.r * padded);
            for n in part * images..((part + 1) * images).min(g.n) {
                let image = &x[n * g.h * g.w * g.c..][..g.h * g.w * g.c];
                let dy = &dy[n * g.p * g.q * g.k..][..g.p * g.q * g.k];
                image_gradient(isa, (image, add), &dy[first..], k, bytemuck::cast_slice_mut(&mut sum), padded, g);
            }
            sum
        })
        .collect();
    let mut dw = vec![0f32; g.k * g.r * taps];
    dw.par_chunks_exact_mut(g.r * taps).enumerate().for_each(|(k, dw)| {
        for part in 0..parts {
            let sum: &[f32] = bytemuck::cast_slice(&sums[part * slices + k / slice]);
            let from = sum[k % slice * g.r * padded..].chunks_exact(padded);
            for (dw, from) in dw.chunks_exact_mut(taps).zip(from) {
                dw.iter_mut().zip(from).for_each(|(d, s)| *d += s);
            }
        }
    });
    dw
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
    let source_cols = (g.q - 1) * g.stride + g.s;
    let row = source_cols * g.c;
    let rows = ((SCRATCH / row).saturating_sub(g.r).max(LEAST * g.stride) / g.stride).min(g.p);
    for first in (0..g.p).step_by(rows) {
        let rows = rows.min(g.p - first);
        let source_rows = (rows - 1) * g.stride + g.r;
        let top = (first * g.stride) as isize - g.pad as isize;
        // Vectors may reach past the last pixel; what they find there lands in lanes that nobody reads.
        with_scratch(source_rows * row + padded, |scratch| {
            window((image, add), [g.h, g.w, g.c], top, source_rows, -(g.pad as isize), source_cols, scratch);
            for r in 0..g.r {
                let o = Outer {
                    x: &scratch[r * row..],
                    x_step: g.stride * row,
                    x_pixel: g.stride * g.c,
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
    correlate(Isa::widest(), x, krsc(w, g), bias, y, GradMode::Overwrite, g);
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
    correlation(Isa::widest(), krsc(w, g), bias, GradMode::Overwrite, g).run_rows(x, y, out, finish)
}

pub(super) fn dgrad(dy: &[f32], w: &[f32], dx: &mut [f32], mode: GradMode, g: &Geometry) {
    transpose(Isa::widest(), dy, krsc(w, g), None, dx, mode, g);
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

/// 3x3 taps whose sum is tap `i` of the 4x4 filter.
const SPREAD: [&[usize]; 4] = [&[2], &[1, 2], &[0, 1], &[0]];

/// The 4x4 convolution with stride 2 from the large image `[2h 2w k]` to the small one `[h w c]`: the transpose of the
/// upsampling convolution.
fn shrinking(g: &Geometry) -> Geometry {
    Geometry { h: 2 * g.h, w: 2 * g.w, c: g.k, k: g.c, r: 4, s: 4, p: g.h, q: g.w, stride: 2, pad: 1, ..*g }
}

/// Taps of the 4x4 filter, `[k][4][4][c]`.
struct Spread {
    taps: Vec<f32>,
    channels: usize,
    /// Floats from one output channel to the next: not a power of two, which would put all of them into one cache set.
    pitch: usize,
}

impl Spread {
    fn of(w: &[f32], g: &Geometry) -> Self {
        let channels = g.c;
        let pitch = 16 * channels + 16;
        let mut taps = vec![0f32; g.k * pitch];
        taps.par_chunks_exact_mut(pitch).zip(w.par_chunks_exact(9 * channels)).for_each(|(to, w)| {
            for (t, to) in to.chunks_exact_mut(channels).take(16).enumerate() {
                // Sums of a row of taps first, as the terms of the definition stand.
                for &i in SPREAD[t / 4] {
                    match *SPREAD[t % 4] {
                        [j] => to.iter_mut().zip(&w[(i * 3 + j) * channels..]).for_each(|(to, v)| *to += *v),
                        [j, l] => {
                            let pairs = w[(i * 3 + j) * channels..].iter().zip(&w[(i * 3 + l) * channels..]);
                            to.iter_mut().zip(pairs).for_each(|(to, (v, u))| *to += *v + *u);
                        }
                        _ => unreachable!("one or two taps fall on a tap"),
                    }
                }
            }
        });
        Self { taps, channels, pitch }
    }

    /// Tap `(r, s)` between the small image's channel `c` and the large one's `k`.
    fn at(&self) -> impl Fn(usize, usize, usize, usize) -> f32 + Sync + use<'_> {
        move |c, r, s, k| self.taps[k * self.pitch + (r * 4 + s) * self.channels + c]
    }
}

pub(super) fn upsample_fprop(x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], g: &Geometry) {
    transpose(Isa::widest(), x, Spread::of(w, g).at(), bias, y, GradMode::Overwrite, &shrinking(g));
}

pub(super) fn upsample_dgrad(dy: &[f32], w: &[f32], dx: &mut [f32], mode: GradMode, g: &Geometry) {
    correlate(Isa::widest(), dy, Spread::of(w, g).at(), None, dx, mode, &shrinking(g));
}

pub(super) fn upsample_wgrad(x: &[f32], dy: &[f32], dw: &mut [f32], mode: GradMode, g: &Geometry) {
    // [c 4 4 k]: the small image's channels are the outputs here. First 4x4 to 3x3, then the channels change places, 16
    // at a time so that whole cache lines are read.
    let (taps, channels) = (filter_gradient(Isa::widest(), (dy, 0.0), x, &shrinking(g)), g.k);
    let mut turned = vec![0f32; dw.len()];
    turned.par_chunks_exact_mut(9 * channels).zip(taps.par_chunks_exact(16 * channels)).for_each(|(to, taps)| {
        for (t, tap) in taps.chunks_exact(channels).enumerate() {
            for &i in SPREAD[t / 4] {
                for &j in SPREAD[t % 4] {
                    let to = &mut to[(i * 3 + j) * channels..][..channels];
                    to.iter_mut().zip(tap).for_each(|(to, v)| *to += v);
                }
            }
        }
    });
    dw.par_chunks_mut(16 * 9 * g.c).enumerate().for_each(|(block, dw)| {
        for t in 0..9 {
            for c in 0..g.c {
                let from = &turned[(c * 9 + t) * channels + block * 16..];
                for (dw, from) in dw.chunks_exact_mut(9 * g.c).zip(from) {
                    let dw = &mut dw[t * g.c + c];
                    *dw = if mode == GradMode::Accumulate { *dw + from } else { *from };
                }
            }
        }
    });
}

#[cfg(test)]
mod tests;
