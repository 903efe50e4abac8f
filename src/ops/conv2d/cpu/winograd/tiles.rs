//! Tiles of 4x4 inputs and 2x2 outputs, and what is done to them before and after the products: one row `u` of the four of
//! a tile at a time, `[4][tiles][channels]`, in vectors of channels.

use super::super::super::Geometry;
use super::super::window::{Source, window};
use crate::autograd::GradMode;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The tiles over output rows `first..first + rows` of one image.
#[derive(Clone, Copy)]
pub struct Tiles<'a> {
    pub g: &'a Geometry,
    pub first: usize,
    pub rows: usize,
}

impl Tiles<'_> {
    fn down(&self) -> usize {
        self.rows.div_ceil(2)
    }
    pub fn across(&self) -> usize {
        self.g.q.div_ceil(2)
    }
    pub fn count(&self) -> usize {
        self.down() * self.across()
    }
    /// Floats of a source row.
    pub fn row_floats(&self) -> usize {
        (2 * self.across() + 2) * self.g.c
    }
    /// Floats of the source rows of all tiles.
    pub fn source_floats(&self) -> usize {
        (2 * self.down() + 2) * self.row_floats()
    }

    /// Copies the source rows of all tiles.
    pub fn window<S: Source>(&self, image: (&[S], f32), to: &mut [f32]) {
        let g = self.g;
        let [top, left, ..] = g.pad.map(|pad| pad as isize);
        let (rows, cols) = (2 * self.down() + 2, 2 * self.across() + 2);
        window(image, [g.h, g.w, g.c], self.first as isize - top, rows, -left, cols, to);
    }
}

fn vectors<S: Simd>(floats: &[f32]) -> &[S::f32s] {
    bytemuck::cast_slice(floats)
}
fn vectors_mut<S: Simd>(floats: &mut [f32]) -> &mut [S::f32s] {
    bytemuck::cast_slice_mut(floats)
}
/// Four planes, of which the last may end early.
fn planes<T>(all: &mut [T], plane: usize) -> [&mut [T]; 4] {
    let (v0, rest) = all.split_at_mut(plane);
    let (v1, rest) = rest.split_at_mut(plane);
    let (v2, v3) = rest.split_at_mut(plane);
    [v0, v1, v2, v3]
}

/// Row `u` of `B^T d B` of all tiles: `[4][tiles][c]`, planes `plane` floats apart; `mixed` holds a source row.
pub struct Inputs<'a> {
    pub u: usize,
    pub tiles: Tiles<'a>,
    pub source: &'a [f32],
    pub mixed: &'a mut [f32],
    pub plane: usize,
    pub to: &'a mut [f32],
}

impl WithSimd for Inputs<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (c, across) = (self.tiles.g.c / S::F32_LANES, self.tiles.across());
        let (source, mixed) = (vectors::<S>(self.source), vectors_mut::<S>(self.mixed));
        let row = mixed.len();
        let [v0, v1, v2, v3] = planes(vectors_mut::<S>(self.to), self.plane / S::F32_LANES);
        for i in 0..self.tiles.down() {
            let (first, second, plus) = [(0, 2, false), (1, 2, true), (2, 1, false), (1, 3, false)][self.u];
            let a = &source[(2 * i + first) * row..][..row];
            let b = &source[(2 * i + second) * row..][..row];
            for (to, (a, b)) in mixed.iter_mut().zip(a.iter().zip(b)) {
                *to = if plus { simd.add_f32s(*a, *b) } else { simd.sub_f32s(*a, *b) };
            }
            for j in 0..across {
                let (d0, rest) = mixed[2 * j * c..][..4 * c].split_at(c);
                let (d1, rest) = rest.split_at(c);
                let (d2, d3) = rest.split_at(c);
                let at = (i * across + j) * c;
                let (v0, v1, v2, v3) = (&mut v0[at..][..c], &mut v1[at..][..c], &mut v2[at..][..c], &mut v3[at..][..c]);
                for x in 0..c {
                    v0[x] = simd.sub_f32s(d0[x], d2[x]);
                    v1[x] = simd.add_f32s(d1[x], d2[x]);
                    v2[x] = simd.sub_f32s(d2[x], d1[x]);
                    v3[x] = simd.sub_f32s(d1[x], d3[x]);
                }
            }
        }
    }
}

/// Adds what row `u` of the products, `[4][tiles][k]`, contributes to `A^T m A`, to the rows of `y`.
pub struct Outputs<'a> {
    pub u: usize,
    pub tiles: Tiles<'a>,
    pub products: &'a [f32],
    pub plane: usize,
    pub bias: Option<&'a [f32]>,
    pub mode: GradMode,
    pub y: &'a mut [f32],
}

impl WithSimd for Outputs<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (k, q_len, across) = (self.tiles.g.k / S::F32_LANES, self.tiles.g.q, self.tiles.across());
        let plane = self.plane / S::F32_LANES;
        let m: [&[S::f32s]; 4] = std::array::from_fn(|v| &vectors::<S>(self.products)[v * plane..]);
        let bias = self.bias.map(vectors::<S>);
        // Row `u` of `A`: the upper outputs begin with the first, the lower ones with the second.
        let [upper, lower] = [[1, 0], [1, 1], [1, -1], [0, -1]][self.u];
        let (keep, bias) = (self.mode == GradMode::Accumulate, bias.unwrap_or(&[]));
        for (i, rows) in vectors_mut::<S>(self.y).chunks_mut(2 * q_len * k).enumerate() {
            let (above, below) = rows.split_at_mut(q_len * k);
            for j in 0..across {
                let tile = (i * across + j) * k;
                let [m0, m1, m2, m3] = m.map(|m| &m[tile..][..k]);
                let both = 2 * j + 1 < q_len;
                for x in 0..k {
                    let even = simd.add_f32s(simd.add_f32s(m0[x], m1[x]), m2[x]);
                    let odd = simd.sub_f32s(simd.sub_f32s(m1[x], m2[x]), m3[x]);
                    let at = 2 * j * k + x;
                    if upper != 0 {
                        put(simd, &mut above[at], even, upper, (self.u == 0).then_some(keep), bias.get(x));
                        if both {
                            put(simd, &mut above[at + k], odd, upper, (self.u == 0).then_some(keep), bias.get(x));
                        }
                    }
                    if lower != 0 && !below.is_empty() {
                        put(simd, &mut below[at], even, lower, (self.u == 1).then_some(keep), bias.get(x));
                        if both {
                            put(simd, &mut below[at + k], odd, lower, (self.u == 1).then_some(keep), bias.get(x));
                        }
                    }
                }
            }
        }
    }
}

/// Adds `value` to `y`, or takes it away. What begins, if anything does, `keep`s what was there or not, and adds the bias.
#[inline(always)]
fn put<S: Simd>(simd: S, y: &mut S::f32s, value: S::f32s, sign: i32, begins: Option<bool>, bias: Option<&S::f32s>) {
    let mut before = if begins == Some(false) { simd.splat_f32s(0.0) } else { *y };
    if let (Some(_), Some(bias)) = (begins, bias) {
        before = simd.add_f32s(before, *bias);
    }
    *y = if sign > 0 { simd.add_f32s(before, value) } else { simd.sub_f32s(before, value) };
}

/// Row `u` of `A dy A^T` of all tiles for some output channels of an image's `dy`: `[4][tiles][channels]`, planes `plane`
/// floats apart; `mixed` holds a row of pixels.
pub struct Gradients<'a> {
    pub u: usize,
    pub tiles: Tiles<'a>,
    pub dy: &'a [f32],
    pub channels: Range<usize>,
    pub mixed: &'a mut [f32],
    pub plane: usize,
    pub to: &'a mut [f32],
}

impl WithSimd for Gradients<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Tiles { g, first, rows } = self.tiles;
        let across = self.tiles.across();
        let (all, k, start) =
            (g.k / S::F32_LANES, self.channels.len() / S::F32_LANES, self.channels.start / S::F32_LANES);
        let dy = vectors::<S>(self.dy);
        let mixed = &mut vectors_mut::<S>(self.mixed)[..2 * across * k];
        let [v0, v1, v2, v3] = planes(vectors_mut::<S>(self.to), self.plane / S::F32_LANES);
        let zero = simd.splat_f32s(0.0);
        for i in 0..self.tiles.down() {
            let [upper, lower] = [[1, 0], [1, 1], [1, -1], [0, -1]][self.u];
            mixed.fill(zero);
            for (p, sign) in [(2 * i, upper), (2 * i + 1, lower)] {
                if sign == 0 || p >= rows {
                    continue;
                }
                let row = &dy[(first + p) * g.q * all..][..g.q * all];
                for (to, d) in mixed.chunks_exact_mut(k).zip(row.chunks_exact(all)) {
                    for (to, d) in to.iter_mut().zip(&d[start..]) {
                        *to = if sign > 0 { simd.add_f32s(*to, *d) } else { simd.sub_f32s(*to, *d) };
                    }
                }
            }
            for j in 0..across {
                let (d0, d1) = mixed[2 * j * k..][..2 * k].split_at(k);
                let at = (i * across + j) * k;
                let (v0, v1, v2, v3) = (&mut v0[at..][..k], &mut v1[at..][..k], &mut v2[at..][..k], &mut v3[at..][..k]);
                for x in 0..k {
                    v0[x] = d0[x];
                    v1[x] = simd.add_f32s(d0[x], d1[x]);
                    v2[x] = simd.sub_f32s(d0[x], d1[x]);
                    v3[x] = simd.sub_f32s(zero, d1[x]);
                }
            }
        }
    }
}
