//! Upsampling by 2 before a 3x3 filter with padding 1, in nine products per pixel of the small image and channel pair.
//!
//! Along one direction, with taps `w0 w1 w2` and `s = w0 + w1 + w2`, the outputs over pixel `i` are
//!
//! `y[2i] = w0 (x[i-1] - x[i]) + s x[i]` and `y[2i+1] = s x[i] + w2 (x[i+1] - x[i])`:
//!
//! three products for two outputs, where two filters of two taps have four and the filter on the large image six. In two
//! directions nine planes: a filter [`Filters`] and a mix of neighbouring pixels each ([`Mix`]). The gradients are the same
//! sum transposed: mixes of `dy` times the filters, and mixes of `x` times sums of `dy`. Ours.

use super::super::Geometry;
use super::super::cpu_kernel::{Band, Isa, Outer, band, outer};
use super::window::{Line, pack, with_scratch};
use super::{over_images, store};
use crate::autograd::GradMode;
use crate::ops::vectorize::vectorize;
use rayon::prelude::*;
use std::ops::Range;

/// Pixels of the small image that a job works on at a time: their planes stay in the second-level cache.
const PIXELS: usize = 64;

/// A row or pixel made of at most two neighbours, named by their distance.
#[derive(Clone, Copy)]
enum Mix {
    Of(isize),
    Sum(isize, isize),
    Difference(isize, isize),
}
use Mix::{Difference, Of, Sum};

/// Of `x` around `i`, for the three filters `w0`, `s`, `w2`.
const SOURCE: [Mix; 3] = [Difference(-1, 0), Of(0), Difference(1, 0)];
/// Of `dy` around `2i`: what each product of `x[i]` contributes to.
const OUTPUT: [Mix; 3] = [Of(0), Sum(0, 1), Of(1)];
/// Of `dy` around `2i`: what each filter takes to `dx[i]`.
const GRADIENT: [Mix; 3] = [Difference(2, 0), Sum(0, 1), Difference(-1, 1)];

impl Mix {
    /// Writes the mix around item `at` of `from`, whose items are `pitch` floats apart and zero beyond its ends, for as
    /// many floats as `to` holds.
    #[inline(always)]
    fn write(self, from: &[f32], pitch: usize, at: usize, to: &mut [f32]) {
        let count = from.len().div_ceil(pitch) as isize;
        let item = |distance: isize| {
            let i = at as isize + distance;
            (0..count).contains(&i).then(|| &from[i as usize * pitch..][..to.len()])
        };
        match self {
            Of(a) => match item(a) {
                Some(a) => to.copy_from_slice(a),
                None => to.fill(0.0),
            },
            Sum(a, b) => match (item(a), item(b)) {
                (Some(a), Some(b)) => to.iter_mut().zip(a.iter().zip(b)).for_each(|(t, (a, b))| *t = a + b),
                (Some(a), None) | (None, Some(a)) => to.copy_from_slice(a),
                (None, None) => to.fill(0.0),
            },
            Difference(a, b) => match (item(a), item(b)) {
                (Some(a), Some(b)) => to.iter_mut().zip(a.iter().zip(b)).for_each(|(t, (a, b))| *t = a - b),
                (Some(a), None) => to.copy_from_slice(a),
                (None, Some(b)) => to.iter_mut().zip(b).for_each(|(t, b)| *t = -b),
                (None, None) => to.fill(0.0),
            },
        }
    }
}

/// Rows of the 3x3 filter whose sum is the first, second and third filter of a direction; columns likewise.
const TAPS: [&[usize]; 3] = [&[0], &[0, 1, 2], &[2]];

/// The nine filters, `[k][3][3][c]`.
struct Filters {
    sums: Vec<f32>,
    channels: usize,
    /// Floats from one output channel to the next: not a power of two, which would put all of them into one cache set.
    pitch: usize,
}

impl Filters {
    fn of(w: &[f32], g: &Geometry) -> Self {
        let channels = g.c;
        let pitch = 9 * channels + 16;
        let mut sums = vec![0f32; g.k * pitch];
        sums.par_chunks_exact_mut(pitch).zip(w.par_chunks_exact(9 * channels)).for_each(|(to, w)| {
            for (plane, to) in to.chunks_exact_mut(channels).take(9).enumerate() {
                for &i in TAPS[plane / 3] {
                    for &j in TAPS[plane % 3] {
                        let w = &w[(i * 3 + j) * channels..][..channels];
                        to.iter_mut().zip(w).for_each(|(to, v)| *to += *v);
                    }
                }
            }
        });
        Self { sums, channels, pitch }
    }
    #[inline(always)]
    fn at(&self, k: usize, plane: usize, c: usize) -> f32 {
        self.sums[k * self.pitch + plane * self.channels + c]
    }
}

/// `out[pixels][k] (+)= x[pixels][taps] w`, pixels `x_pixel` and `out_pixel` floats apart.
struct Product<'a> {
    isa: Isa,
    pixels: usize,
    taps: usize,
    x_pixel: usize,
    k: usize,
    out_pixel: usize,
    accumulate: bool,
    zeros: &'a [f32],
}

impl Product<'_> {
    fn of(&self, x: &[f32], w: &[Line], out: &mut [f32]) {
        let b = Band {
            x,
            x_step: 0,
            x_row: 0,
            x_pixel: self.x_pixel,
            rows: 1,
            cols: self.pixels,
            r: 1,
            taps: self.taps,
            w: bytemuck::cast_slice(w),
            k: self.k,
            bias: self.zeros,
            out_row: 0,
            out_pixel: self.out_pixel,
            accumulate: self.accumulate,
        };
        band(self.isa, &b, out);
    }
}

/// Rows of the small image that a job takes at a time.
fn rows_at_once(g: &Geometry) -> usize {
    (PIXELS / g.w).clamp(1, g.h)
}

pub fn upsample_fprop(x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], g: &Geometry) {
    fprop(Isa::widest(), x, w, bias, y, g);
}

pub fn upsample_dgrad(dy: &[f32], w: &[f32], dx: &mut [f32], mode: GradMode, g: &Geometry) {
    dgrad(Isa::widest(), dy, w, dx, mode, g);
}

pub fn upsample_wgrad(x: &[f32], dy: &[f32], dw: &mut [f32], mode: GradMode, g: &Geometry) {
    store(dw, &wgrad(Isa::widest(), x, dy, g), mode);
}

pub(super) fn fprop(isa: Isa, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], g: &Geometry) {
    let filters = Filters::of(w, g);
    let packed: [Vec<Line>; 9] =
        std::array::from_fn(|plane| pack(isa, g.k, [1, 1, g.c], |k, _, _, c| filters.at(k, plane, c)));
    let zeros = vec![0f32; g.k.next_multiple_of(isa.width(g.k))];
    let rows = rows_at_once(g);
    let (image, row) = (g.h * g.w * g.c, 4 * g.w * g.k);
    y.par_chunks_mut(g.h * row).zip(x.par_chunks_exact(image)).for_each(|(y, x)| {
        y.par_chunks_mut(rows * row).enumerate().for_each(|(band, y)| {
            let pixels = y.len() / row * g.w;
            let product = Product {
                isa,
                pixels,
                taps: g.c,
                x_pixel: 3 * g.c,
                k: g.k,
                out_pixel: 9 * g.k,
                accumulate: false,
                zeros: &zeros,
            };
            with_scratch(g.w * g.c + 3 * pixels * g.c + 9 * pixels * g.k, |scratch| {
                let (mixed, scratch) = scratch.split_at_mut(g.w * g.c);
                let (sources, products) = scratch.split_at_mut(3 * pixels * g.c);
                for u in 0..3 {
                    mixes(SOURCE, u, x, [g.w, g.c], 1, band * rows, mixed, 0..g.c, sources);
                    for v in 0..3 {
                        let plane = u * 3 + v;
                        product.of(&sources[v * g.c..], &packed[plane], &mut products[plane * g.k..]);
                    }
                }
                vectorize(
                    #[inline(always)]
                    || combine(products, bias, y, g),
                );
            });
        });
    });
}

/// The `u`-th mix of rows, and of its pixels all three: `[rows of the small image][w / step][3][channels]` from row `first`
/// on, of an image with pixels `[w c]`.
#[expect(clippy::too_many_arguments, reason = "an image, where in it, and where to")]
fn mixes(
    mixes: [Mix; 3],
    u: usize,
    image: &[f32],
    [w, c]: [usize; 2],
    step: usize,
    first: usize,
    mixed: &mut [f32],
    channels: Range<usize>,
    to: &mut [f32],
) {
    vectorize(
        #[inline(always)]
        || {
            for (i, to) in to.chunks_exact_mut(3 * w / step * channels.len()).enumerate() {
                mixes[u].write(image, w * c, (first + i) * step, mixed);
                for (j, to) in to.chunks_exact_mut(3 * channels.len()).enumerate() {
                    for (mix, to) in mixes.into_iter().zip(to.chunks_exact_mut(channels.len())) {
                        mix.write(&mixed[channels.start..], c, j * step, to);
                    }
                }
            }
        },
    );
}

/// The four outputs over each pixel from its nine products `[pixels][3][3][k]`.
#[inline(always)]
fn combine(products: &mut [f32], bias: Option<&[f32]>, y: &mut [f32], g: &Geometry) {
    let k = g.k;
    for (pixel, m) in products.chunks_exact_mut(9 * k).enumerate() {
        // Along columns first: what even ones are goes where their own product was, odd ones likewise.
        for m in m.chunks_exact_mut(3 * k) {
            let (even, rest) = m.split_at_mut(k);
            let (whole, odd) = rest.split_at_mut(k);
            for ((even, odd), whole) in even.iter_mut().zip(odd).zip(whole) {
                *even += *whole;
                *odd += *whole;
            }
        }
        for (a, b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let at = (2 * (pixel / g.w) + a) * 2 * g.w + 2 * (pixel % g.w) + b;
            let y = &mut y[at * k..][..k];
            let sums = m[(3 * a + 2 * b) * k..][..k].iter().zip(&m[(3 * a + 3 + 2 * b) * k..][..k]);
            match bias {
                Some(bias) => y.iter_mut().zip(sums.zip(bias)).for_each(|(y, ((s, t), b))| *y = s + t + b),
                None => y.iter_mut().zip(sums).for_each(|(y, (s, t))| *y = s + t),
            }
        }
    }
}

pub(super) fn dgrad(isa: Isa, dy: &[f32], w: &[f32], dx: &mut [f32], mode: GradMode, g: &Geometry) {
    let filters = Filters::of(w, g);
    // The three mixes of a pixel's columns are neighbours, and so one sum.
    let packed: [Vec<Line>; 3] =
        std::array::from_fn(|u| pack(isa, g.c, [1, 3, g.k], |c, _, v, k| filters.at(k, u * 3 + v, c)));
    let zeros = vec![0f32; g.c.next_multiple_of(isa.width(g.c))];
    let rows = rows_at_once(g);
    let (image, row) = (4 * g.h * g.w * g.k, g.w * g.c);
    dx.par_chunks_mut(g.h * row).zip(dy.par_chunks_exact(image)).for_each(|(dx, dy)| {
        dx.par_chunks_mut(rows * row).enumerate().for_each(|(band, dx)| {
            let pixels = dx.len() / g.c;
            with_scratch(2 * g.w * g.k + 3 * pixels * g.k, |scratch| {
                let (mixed, sources) = scratch.split_at_mut(2 * g.w * g.k);
                for (u, packed) in packed.iter().enumerate() {
                    mixes(GRADIENT, u, dy, [2 * g.w, g.k], 2, band * rows, mixed, 0..g.k, sources);
                    let product = Product {
                        isa,
                        pixels,
                        taps: 3 * g.k,
                        x_pixel: 3 * g.k,
                        k: g.c,
                        out_pixel: g.c,
                        accumulate: u > 0 || mode == GradMode::Accumulate,
                        zeros: &zeros,
                    };
                    product.of(sources, packed, dx);
                }
            });
        });
    });
}

/// `[k 3 3 c]`.
pub(super) fn wgrad(isa: Isa, x: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let padded = g.c.next_multiple_of(isa.lanes());
    let rows = rows_at_once(g);
    let (image, large) = (g.h * g.w * g.c, 4 * g.h * g.w * g.k);
    let sums = over_images(g.n, g.k, 9 * padded, |images, channels, sum| {
      for n in images {
        let (x, dy) = (&x[n * image..][..image], &dy[n * large..][..large]);
        let k = channels.len();
        for first in (0..g.h).step_by(rows) {
            let pixels = rows.min(g.h - first) * g.w;
            let mixed = (g.w * g.c).max(2 * g.w * g.k);
            // Vectors may reach past the last pixel; what they find there lands in lanes that nobody reads.
            with_scratch(mixed + 3 * pixels * k + 3 * pixels * g.c + padded, |scratch| {
                let (mixed, scratch) = scratch.split_at_mut(mixed);
                let (outputs, sources) = scratch.split_at_mut(3 * pixels * k);
                for u in 0..3 {
                    let (wide, small) = (2 * g.w * g.k, g.w * g.c);
                    mixes(OUTPUT, u, dy, [2 * g.w, g.k], 2, first, &mut mixed[..wide], channels.clone(), outputs);
                    let to = &mut sources[..3 * pixels * g.c];
                    mixes(SOURCE, u, x, [g.w, g.c], 1, first, &mut mixed[..small], 0..g.c, to);
                    for v in 0..3 {
                        let o = Outer {
                            x: &sources[v * g.c..],
                            x_step: 0,
                            x_pixel: 3 * g.c,
                            dy: &outputs[v * k..],
                            dy_row: 0,
                            dy_pixel: 3 * k,
                            rows: 1,
                            cols: pixels,
                            k,
                            taps: g.c,
                            dw_k: 9 * padded,
                        };
                        outer(isa, &o, &mut sum[(u * 3 + v) * padded..]);
                    }
                }
            });
        }
    }
    });
    let mut dw = vec![0f32; g.k * 9 * g.c];
    dw.par_chunks_exact_mut(9 * g.c).zip(sums.par_chunks_exact(9 * padded)).for_each(|(dw, sums)| {
        for (plane, sum) in sums.chunks_exact(padded).enumerate() {
            for &i in TAPS[plane / 3] {
                for &j in TAPS[plane % 3] {
                    dw[(i * 3 + j) * g.c..][..g.c].iter_mut().zip(sum).for_each(|(d, s)| *d += s);
                }
            }
        }
    });
    dw
}
