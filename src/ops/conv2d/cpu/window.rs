//! What the f32 CPU kernels read: windows of source rows with their zero borders, packed weights, scratch of each thread.

use super::super::cpu_kernel::Isa;
use crate::ops::vectorize::vectorize;
use rayon::prelude::*;
use std::cell::RefCell;

/// 64 bytes, for alignment to cache lines and to the widest vectors.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Line([f32; 16]);

/// Zeroed floats at the start of a cache line.
pub fn aligned(floats: usize) -> Vec<Line> {
    vec![Line([0.0; 16]); floats.div_ceil(16)]
}

/// Floats from one plane of `floats` to the next: an odd number of cache lines, because planes that lie a power of two apart
/// would share the sets of the cache.
pub fn apart(floats: usize) -> usize {
    (floats.div_ceil(16) | 1) * 16
}

pub fn with_scratch<R>(floats: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) });
    SCRATCH.with_borrow_mut(|lines| {
        if lines.len() * 16 < floats {
            *lines = aligned(floats);
        }
        f(&mut bytemuck::cast_slice_mut(lines)[..floats])
    })
}

/// Elements of a source that are read as floats.
pub trait Source: Copy + Send + Sync {
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
pub fn window<S: Source>(
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
pub fn pack(isa: Isa, k: usize, [r, s, c]: [usize; 3], at: impl Fn(usize, usize, usize, usize) -> f32 + Sync) -> Vec<Line> {
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
