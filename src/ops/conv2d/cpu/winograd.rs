//! 3x3 filters with stride 1 by Winograd's F(2x2, 3x3): sixteen products per four outputs and channel pair instead of 36.
//!
//! A tile of 4x4 inputs `d` and a filter `g` give 2x2 outputs `A^T [(G g G^T) (B^T d B)] A`, products element by element
//! (Lavin and Gray, CVPR 2016, after Winograd 1980); over channels they are sixteen matrix products of tiles by channels,
//! one for each place in a tile. The input gradient is the same with the filter turned; the filter gradient is
//! `G^T [(B^T d B) (A dy A^T)] G`. In f32 the error is a small multiple of direct convolution's, and a NaN or an infinity
//! reaches all four outputs of a tile that it meets.
//!
//! The order of every sum depends on the shapes alone.

mod tiles;

use super::super::Geometry;
use super::super::cpu_kernel::{Band, Isa, Outer, band, outer};
use super::over_images;
use super::window::{Line, Source, apart, pack, with_scratch};
use crate::autograd::GradMode;
use crate::ops::vectorize::with_vectors;
use rayon::prelude::*;
use tiles::{Gradients, Inputs, Outputs, Tiles};

/// Tiles that a job transforms at a time, at least where there are so many: one row of the four of a tile after the other, so
/// that what is transformed stays in the first-level cache.
const TILES: usize = 16;
/// Tiles whose products are added up in registers before a filter gradient is stored.
const SUMMED: usize = 32;

/// `G g`.
fn of_filter(g: [f32; 3]) -> [f32; 4] {
    let (ends, half) = (0.5 * (g[0] + g[2]), 0.5 * g[1]);
    [g[0], ends + half, ends - half, g[2]]
}
/// `G^T u`.
fn to_filter(u: [f32; 4]) -> [f32; 3] {
    let (sum, difference) = (0.5 * (u[1] + u[2]), 0.5 * (u[1] - u[2]));
    [u[0] + sum, difference, sum + u[3]]
}

/// A convolution with transformed filters.
pub struct Winograd<'a> {
    isa: Isa,
    g: Geometry,
    /// `[4 4]` times `[c][k]`, packed.
    filters: Vec<Vec<Line>>,
    bias: Option<&'a [f32]>,
    mode: GradMode,
}

impl<'a> Winograd<'a> {
    /// Whether this path takes the convolution and its gradients: tiles of 16 channels cost more to transform than they
    /// save.
    pub fn serves(g: &Geometry) -> bool {
        let many = |channels: usize| channels >= 32 && channels.is_multiple_of(16);
        (g.r, g.s, g.stride, g.dilation) == (3, 3, [1; 2], [1; 2])
            && g.pad.iter().all(|p| *p <= 2)
            && many(g.c)
            && many(g.k)
    }

    /// `y = conv(x, at)` with the sizes of `g`, which [`Self::serves`].
    pub fn new(
        isa: Isa,
        at: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
        bias: Option<&'a [f32]>,
        mode: GradMode,
        g: &Geometry,
    ) -> Self {
        let [c_len, k_len] = [g.c, g.k];
        // `[k][4 4][c]`, an odd number of cache lines apart, so that packing does not read one cache set alone.
        let pitch = 16 * c_len + 16;
        let mut turned = vec![0f32; k_len * pitch];
        turned.par_chunks_exact_mut(pitch).enumerate().for_each(|(k, to)| {
            for c in 0..c_len {
                let rows: [[f32; 4]; 3] = std::array::from_fn(|r| of_filter(std::array::from_fn(|s| at(k, r, s, c))));
                for v in 0..4 {
                    for (u, value) in of_filter(rows.map(|row| row[v])).into_iter().enumerate() {
                        to[(u * 4 + v) * c_len + c] = value;
                    }
                }
            }
        });
        let plane = |t: usize| pack(isa, k_len, [1, 1, c_len], |k, _, _, c| turned[k * pitch + t * c_len + c]);
        Self { isa, g: *g, filters: (0..16).map(plane).collect(), bias, mode }
    }

    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        self.run_rows(x, y, vec![(); self.g.n * self.g.p], |_, _| ());
    }

    /// [`Self::run`]; `finish` is handed each band of rows when it is done, with what `out` has for them.
    pub fn run_rows<O: Send, R: Send>(
        &self,
        x: &[f32],
        y: &mut [f32],
        mut out: Vec<O>,
        finish: impl Fn(&mut [f32], &mut [O]) -> R + Sync,
    ) -> Vec<R> {
        let g = &self.g;
        let none = vec![0f32; g.k.next_multiple_of(self.isa.width(g.k))];
        let rows = 2 * tile_rows(g);
        let images = y.chunks_exact_mut(g.p * g.q * g.k).zip(out.chunks_exact_mut(g.p));
        let bands: Vec<(usize, usize, &mut [f32], &mut [O])> = images
            .enumerate()
            .flat_map(|(n, (y, out))| {
                let bands = y.chunks_mut(rows * g.q * g.k).zip(out.chunks_mut(rows)).enumerate();
                bands.map(move |(i, (y, out))| (n, i * rows, y, out))
            })
            .collect();
        let image = g.h * g.w * g.c;
        let of = |(n, first, y, out): (usize, usize, &mut [f32], &mut [O])| {
            self.band(&x[n * image..][..image], first, y, &none);
            finish(y, out)
        };
        bands.into_par_iter().map(of).collect()
    }

    /// The output rows from `first` on that `y` holds.
    fn band(&self, image: &[f32], first: usize, y: &mut [f32], none: &[f32]) {
        let g = &self.g;
        let tiles = Tiles { g, first, rows: y.len() / (g.q * g.k) };
        let (c_plane, k_plane) = (apart(tiles.count() * g.c), apart(tiles.count() * g.k));
        with_scratch(tiles.source_floats() + tiles.row_floats() + 4 * (c_plane + k_plane), |scratch| {
            let (source, scratch) = scratch.split_at_mut(tiles.source_floats());
            let (mixed, scratch) = scratch.split_at_mut(tiles.row_floats());
            let (inputs, products) = scratch.split_at_mut(4 * c_plane);
            tiles.window((image, 0.0), source);
            for u in 0..4 {
                with_vectors(Inputs { u, tiles, source, mixed, plane: c_plane, to: inputs });
                for v in 0..4 {
                    let b = Band {
                        x: &inputs[v * c_plane..],
                        x_step: 0,
                        x_row: 0,
                        x_pixel: g.c,
                        rows: 1,
                        cols: tiles.count(),
                        r: 1,
                        taps: g.c,
                        w: bytemuck::cast_slice(&self.filters[u * 4 + v]),
                        k: g.k,
                        bias: none,
                        out_row: 0,
                        out_pixel: g.k,
                        accumulate: false,
                    };
                    band(self.isa, &b, &mut products[v * k_plane..]);
                }
                with_vectors(Outputs { u, tiles, products, plane: k_plane, bias: self.bias, mode: self.mode, y });
            }
        });
    }
}

/// Rows of tiles that a job takes at a time.
fn tile_rows(g: &Geometry) -> usize {
    TILES.div_ceil(g.q.div_ceil(2)).min(g.p.div_ceil(2))
}

/// Filter gradient `[k 3 3 c]` of values `x`, or of codes to which `zero` is added, with sizes that [`Winograd::serves`].
pub fn filter_gradient<S: Source>(isa: Isa, (x, zero): (&[S], f32), dy: &[f32], g: &Geometry) -> Vec<f32> {
    let rows = 2 * tile_rows(g);
    let (image, output) = (g.h * g.w * g.c, g.p * g.q * g.k);
    let most = Tiles { g, first: 0, rows: rows.min(g.p) };
    let together = (SUMMED / most.count()).max(1);
    let sums = over_images(g.n, g.k, 16 * g.c, |images, channels, sum| {
        let k = channels.len();
        let (c_plane, k_plane) = (apart(together * most.count() * g.c), apart(together * most.count() * k));
        let bands: Vec<(usize, Tiles)> = images
            .flat_map(|n| (0..g.p).step_by(rows).map(move |first| (n, Tiles { g, first, rows: rows.min(g.p - first) })))
            .collect();
        let sources = together * most.source_floats();
        let mixed = most.row_floats().max(2 * most.across() * k);
        with_scratch(sources + mixed + 4 * (c_plane + k_plane), |scratch| {
            let (sources, scratch) = scratch.split_at_mut(sources);
            let (mixed, scratch) = scratch.split_at_mut(mixed);
            let (inputs, outputs) = scratch.split_at_mut(4 * c_plane);
            for bands in bands.chunks(together) {
                for ((n, tiles), source) in bands.iter().zip(sources.chunks_exact_mut(most.source_floats())) {
                    tiles.window((&x[n * image..][..image], zero), &mut source[..tiles.source_floats()]);
                }
                for u in 0..4 {
                    let mut tile = 0;
                    for ((n, tiles), source) in bands.iter().zip(sources.chunks_exact(most.source_floats())) {
                        let row = &mut mixed[..tiles.row_floats()];
                        let to = &mut inputs[tile * g.c..];
                        with_vectors(Inputs { u, tiles: *tiles, source, mixed: row, plane: c_plane, to });
                        let (dy, to) = (&dy[n * output..][..output], &mut outputs[tile * k..]);
                        let channels = channels.clone();
                        with_vectors(Gradients { u, tiles: *tiles, dy, channels, mixed, plane: k_plane, to });
                        tile += tiles.count();
                    }
                    for v in 0..4 {
                        let o = Outer {
                            x: &inputs[v * c_plane..],
                            x_step: 0,
                            x_pixel: g.c,
                            dy: &outputs[v * k_plane..],
                            dy_row: 0,
                            dy_pixel: k,
                            rows: 1,
                            cols: tile,
                            k,
                            taps: g.c,
                            dw_k: 16 * g.c,
                        };
                        outer(isa, &o, &mut sum[(u * 4 + v) * g.c..]);
                    }
                }
            }
        });
    });
    let mut dw = vec![0f32; g.k * 9 * g.c];
    dw.par_chunks_exact_mut(9 * g.c).zip(sums.par_chunks_exact(16 * g.c)).for_each(|(dw, sums)| {
        for c in 0..g.c {
            let rows: [[f32; 3]; 4] =
                std::array::from_fn(|u| to_filter(std::array::from_fn(|v| sums[(u * 4 + v) * g.c + c])));
            for s in 0..3 {
                for (r, value) in to_filter(rows.map(|row| row[s])).into_iter().enumerate() {
                    dw[(r * 3 + s) * g.c + c] = value;
                }
            }
        }
    });
    dw
}
