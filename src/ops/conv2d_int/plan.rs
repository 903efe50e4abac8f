//! The CPU path: a convolution of codes prepared for one filter, input size and activation range, and its run.
//!
//! With `u = qx + 128` (a `u8`), `z = zx - 128`, and a filter stored as `v = qw + t` with what is left of its zero point,
//! `y = zw - t` (`t = zw` wherever all of the channel's `qw + zw` fit the stored type, then `y = 0`):
//!
//! ```text
//! sum (qx + zx)(qw + zw) = sum u v  +  y sum u  +  z sum (v + y)
//! ```
//!
//! over the taps inside the image. Outside `u` is stored as 0, which adds nothing to the first two sums; the third is a
//! table of (rows of taps inside, columns of taps inside, k). Everything wraps modulo 2^32: right wherever the total fits,
//! which [`Plan::new`] proves from the zero points before it takes this path.
//!
//! A band's source rows are copied with their borders into a scratch area of cache size, so that the kernel needs no
//! bounds.

use super::Ranges;
use super::cpu_kernel::{Isa, Row, row};
use crate::ops::conv2d::Geometry;
use crate::ops::vectorize::vectorize;
use rayon::prelude::*;
use std::cell::RefCell;

/// Scratch for source rows, in bytes: half of a 32 KiB first-level cache.
const SCRATCH: usize = 16 * 1024;
/// Output rows of a band at least, however long they are, and at most, so that small batches occupy all threads.
const ROWS: [usize; 2] = [4, 16];

/// A prepared convolution.
pub struct Plan {
    isa: Isa,
    /// Its `n` is not used.
    g: Geometry,
    /// Words of a filter row.
    words: usize,
    packed: Vec<i32>,
    /// `y` per channel; empty where all are 0.
    left: Vec<i32>,
    /// Which row of `base` output row `p` takes.
    base_row: Vec<usize>,
    /// `[row class][q][k]`: the third sum.
    base: Vec<Vec<i32>>,
    /// `[q][k]`: units of a product, `1 / (sx sw)`.
    unit: Vec<f32>,
}

/// Taps of each output coordinate that lie inside `len` source coordinates.
fn inside(out: usize, len: usize, taps: usize, stride: usize, pad: usize) -> Vec<std::ops::Range<usize>> {
    (0..out)
        .map(|o| {
            let first = (o * stride) as isize - pad as isize;
            let bound = |v: isize| v.clamp(0, taps as isize) as usize;
            let (start, end) = (bound(-first), bound(len as isize - first));
            start..end.max(start)
        })
        .collect()
}

impl Plan {
    /// For codes `w[k r s c]` of `ranges`, or `None` where a sum may not fit in 32 bits or the filter is dilated: then
    /// the plain path computes it.
    pub fn new(w: &[i8], ranges: &Ranges<f32>, g: &Geometry) -> Option<Self> {
        Self::with(Isa::widest(), w, ranges, g)
    }

    pub(super) fn with(isa: Isa, w: &[i8], ranges: &Ranges<f32>, g: &Geometry) -> Option<Self> {
        if g.dilation != [1; 2] || !ranges.fit_i32(g.r * g.s * g.c) {
            return None;
        }
        let taps = g.s * g.c;
        let filter = g.r * taps;
        let words = (taps * isa.bytes()).div_ceil(4);
        // What is added to the codes of each channel when they are stored.
        let limit = if isa.bytes() == 1 { -128..=127 } else { -32_768..=32_767 };
        let added: Vec<i32> = ranges
            .w
            .iter()
            .zip(&ranges.w_zero)
            .map(|(a, &z)| {
                let fits = limit.contains(&(a.low as i64 + z)) && limit.contains(&(a.high as i64 + z));
                if fits { z as i32 } else { 0 }
            })
            .collect();
        let left: Vec<i32> = ranges.w_zero.iter().zip(&added).map(|(z, t)| *z as i32 - t).collect();
        let packed = pack(isa, w, &added, [g.k, g.r, taps, words]);

        // Sums of `v + y` per tap, `[r][s][k]`.
        let mut sums = vec![0i32; g.r * g.s * g.k];
        for (k, w) in w.chunks_exact(filter).enumerate() {
            for (tap, w) in w.chunks_exact(g.c).enumerate() {
                let codes: i32 = w.iter().map(|v| i32::from(*v)).sum();
                sums[tap * g.k + k] = codes + g.c as i32 * ranges.w_zero[k] as i32;
            }
        }
        let z = ranges.x_zero as i32 - 128;
        let rows = inside(g.p, g.h, g.r, g.stride[0], g.pad[0]);
        let cols = inside(g.q, g.w, g.s, g.stride[1], g.pad[1]);
        let mut classes: Vec<std::ops::Range<usize>> = Vec::new();
        let base_row = rows
            .iter()
            .map(|r| {
                classes.iter().position(|c| c == r).unwrap_or_else(|| {
                    classes.push(r.clone());
                    classes.len() - 1
                })
            })
            .collect();
        let base = classes.into_iter().map(|rows| base_of(&sums, rows, &cols, z, [g.s, g.k])).collect();
        let one: Vec<f32> = ranges.w.iter().map(|w| ranges.unit(w)).collect();
        let unit = one.iter().copied().cycle().take(g.q * g.k).collect();
        let left = if left.iter().all(|v| *v == 0) { Vec::new() } else { left };
        Some(Self { isa, g: *g, words, packed, left, base_row, base, unit })
    }

    /// Convolves `n` images of codes `x[n h w c]`. `finish(image, p, sums[q k], y[q k])` is handed each output row as
    /// `total * unit`, both f32, and writes it.
    pub fn run<E: Send>(&self, x: &[i8], y: &mut [E], finish: impl Fn(usize, usize, &mut [f32], &mut [E]) + Sync) {
        let rows = y.chunks_exact_mut(self.g.q * self.g.k).collect();
        self.run_rows(x, rows, |n, p, sums, y: &mut &mut [E]| finish(n, p, sums, y));
    }

    /// [`Self::run`] for rows of any kind, one per output row of all images, in order.
    pub fn run_rows<O: Send>(
        &self,
        x: &[i8],
        mut out: Vec<O>,
        finish: impl Fn(usize, usize, &mut [f32], &mut O) + Sync,
    ) {
        let g = &self.g;
        let image = g.h * g.w * g.c;
        let row = ((g.q - 1) * g.stride[1] + g.s) * g.c * self.isa.bytes();
        let fits = (SCRATCH / row.max(1)).saturating_sub(g.r) / g.stride[0];
        let rows = fits.clamp(ROWS[0], ROWS[1]);
        let bands: Vec<(usize, usize, &mut [O])> = out
            .chunks_exact_mut(g.p)
            .enumerate()
            .flat_map(|(n, out)| out.chunks_mut(rows).enumerate().map(move |(i, out)| (n, i * rows, out)))
            .collect();
        bands.into_par_iter().for_each(|(n, first, out)| {
            self.band(&x[n * image..][..image], first, out, |p, sums, out| finish(n, p, sums, out));
        });
    }

    fn band<O>(&self, image: &[i8], first: usize, out: &mut [O], finish: impl Fn(usize, &mut [f32], &mut O)) {
        let g = &self.g;
        let out_row = g.q * g.k;
        let count = out.len();
        let bytes = self.isa.bytes();
        let (rows, cols) = ((count - 1) * g.stride[0] + g.r, (g.q - 1) * g.stride[1] + g.s);
        let pitch = cols * g.c * bytes;
        SCRATCH_AREA.with_borrow_mut(|area| {
            // The last word of a row may reach three bytes further.
            area.source.resize((rows * pitch + 4).div_ceil(8), 0);
            area.acc.resize(out_row, 0);
            area.sums.resize(out_row, 0.0);
            let top = (first * g.stride[0]) as isize - g.pad[0] as isize;
            let source: &mut [u8] = bytemuck::cast_slice_mut(&mut area.source);
            let left = -(g.pad[1] as isize);
            if bytes == 1 {
                window(image, [g.h, g.w, g.c], [top, left], cols, &mut source[..rows * pitch]);
            } else {
                let wide: &mut [u16] = bytemuck::cast_slice_mut(source);
                window(image, [g.h, g.w, g.c], [top, left], cols, &mut wide[..rows * pitch / 2]);
            }
            let source: &[u8] = bytemuck::cast_slice(&area.source);
            for (i, out) in out.iter_mut().enumerate() {
                let from = &source[i * g.stride[0] * pitch..];
                let b = Row {
                    x: from,
                    x_row: pitch,
                    x_pixel: g.stride[1] * g.c * bytes,
                    cols: g.q,
                    r: g.r,
                    words: self.words,
                    w: &self.packed,
                    k: g.k,
                };
                row(self.isa, &b, &mut area.acc);
                if !self.left.is_empty() {
                    self.add_left(from, pitch, &mut area.acc);
                }
                let base = &self.base[self.base_row[first + i]];
                let (acc, sums, unit) = (&area.acc[..], &mut area.sums[..], &self.unit[..]);
                vectorize(
                    #[inline(always)]
                    || {
                        for ((s, a), (b, u)) in sums.iter_mut().zip(acc).zip(base.iter().zip(unit)) {
                            *s = a.wrapping_add(*b) as f32 * *u;
                        }
                    },
                );
                finish(first + i, sums, out);
            }
        });
    }

    /// Adds `y sum u` to a row of sums.
    fn add_left(&self, from: &[u8], pitch: usize, acc: &mut [i32]) {
        let g = &self.g;
        let (bytes, taps) = (self.isa.bytes(), g.s * g.c);
        for (q, acc) in acc.chunks_exact_mut(g.k).enumerate() {
            let mut sum = 0i32;
            for r in 0..g.r {
                let at = &from[r * pitch + q * g.stride[1] * g.c * bytes..][..taps * bytes];
                sum += match bytes {
                    1 => at.iter().map(|v| i32::from(*v)).sum::<i32>(),
                    _ => bytemuck::cast_slice::<u8, u16>(at).iter().map(|v| i32::from(*v)).sum(),
                };
            }
            for (a, y) in acc.iter_mut().zip(&self.left) {
                *a = a.wrapping_add(y.wrapping_mul(sum));
            }
        }
    }
}

/// `[q][k]`: `z` times the sums of the taps inside, for one row class.
fn base_of(
    sums: &[i32],
    rows: std::ops::Range<usize>,
    cols: &[std::ops::Range<usize>],
    z: i32,
    [s, k]: [usize; 2],
) -> Vec<i32> {
    let mut base = Vec::with_capacity(cols.len() * k);
    for (q, inside) in cols.iter().enumerate() {
        // Neighbours mostly have the same taps inside.
        if q > 0 && cols[q - 1] == *inside {
            base.extend_from_within((q - 1) * k..q * k);
            continue;
        }
        base.resize(base.len() + k, 0i32);
        let to = &mut base[q * k..];
        for r in rows.clone() {
            for col in inside.clone() {
                let from = &sums[(r * s + col) * k..][..k];
                to.iter_mut().zip(from).for_each(|(to, v)| *to = to.wrapping_add(*v));
            }
        }
        to.iter_mut().for_each(|v| *v = v.wrapping_mul(z));
    }
    base
}

#[derive(Default)]
struct Area {
    /// u64 so that elements of two bytes are aligned.
    source: Vec<u64>,
    acc: Vec<i32>,
    sums: Vec<f32>,
}

thread_local!(static SCRATCH_AREA: RefCell<Area> = RefCell::default());

/// An element of the scratch area.
trait Stored: Copy {
    const OUTSIDE: Self;
    /// `code + 128`.
    fn of(code: i8) -> Self;
}
impl Stored for u8 {
    const OUTSIDE: Self = 0;
    #[inline(always)]
    fn of(code: i8) -> Self {
        code as u8 ^ 0x80
    }
}
impl Stored for u16 {
    const OUTSIDE: Self = 0;
    #[inline(always)]
    fn of(code: i8) -> Self {
        Self::from(code as u8 ^ 0x80)
    }
}

/// Copies source rows from `top` on and `cols` columns from `left` on of one image into `to`.
fn window<E: Stored>(image: &[i8], [h, w, c]: [usize; 3], [top, left]: [isize; 2], cols: usize, to: &mut [E]) {
    let before = (-left).clamp(0, cols as isize) as usize;
    let inside = ((w as isize - left).clamp(0, cols as isize) as usize).saturating_sub(before);
    vectorize(
        #[inline(always)]
        || {
            for (i, to) in to.chunks_exact_mut(cols * c).enumerate() {
                let row = top + i as isize;
                if row < 0 || row >= h as isize || inside == 0 {
                    to.fill(E::OUTSIDE);
                    continue;
                }
                let start = (row as usize * w + (left + before as isize) as usize) * c;
                let (outside, rest) = to.split_at_mut(before * c);
                let (middle, after) = rest.split_at_mut(inside * c);
                outside.fill(E::OUTSIDE);
                middle.iter_mut().zip(&image[start..]).for_each(|(to, v)| *to = E::of(*v));
                after.fill(E::OUTSIDE);
            }
        },
    );
}

/// Filters in blocks of output channels, `[k / width][r][words][width]`, with `added` to the codes of each channel; zero
/// beyond `k` and beyond the last tap of a row.
fn pack(isa: Isa, w: &[i8], added: &[i32], [k, r, taps, words]: [usize; 4]) -> Vec<i32> {
    let width = isa.width(k);
    let mut packed = vec![0i32; k.div_ceil(width) * r * words * width];
    for (k, w) in w.chunks_exact(r * taps).enumerate() {
        let first = k / width * r * words * width + k % width;
        for (r, w) in w.chunks_exact(taps).enumerate() {
            let to = packed[first + r * words * width..].iter_mut().step_by(width);
            let add = added[k];
            if isa.bytes() == 1 {
                for (to, w) in to.zip(w.chunks(4)) {
                    let mut word = [0i8; 4];
                    word.iter_mut().zip(w).for_each(|(to, w)| *to = (i32::from(*w) + add) as i8);
                    *to = bytemuck::cast(word);
                }
            } else {
                for (to, w) in to.zip(w.chunks(2)) {
                    let mut word = [0i16; 2];
                    word.iter_mut().zip(w).for_each(|(to, w)| *to = (i32::from(*w) + add) as i16);
                    *to = bytemuck::cast(word);
                }
            }
        }
    }
    packed
}
