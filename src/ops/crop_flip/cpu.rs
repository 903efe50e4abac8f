//! Crop and flip on the CPU: rows are mixed first, over all columns and channels at once, then columns.

use super::{OP, Sizes};
use crate::Result;
use crate::ops::vectorize::vectorize;
use crate::tensor::Real;
use rayon::prelude::*;

/// Errors on a box without a proper size.
pub(super) fn check<T: Real>(boxes: &[T]) -> Result<()> {
    for (n, b) in boxes.chunks_exact(4).enumerate() {
        let least = T::of(1e-3);
        crate::ensure_op!(
            b.iter().all(|v| v.is_finite()) && b[2] >= least && b[3] >= least,
            OP,
            "box {n} is y0 {:?}, x0 {:?}, height {:?}, width {:?}: expected finite numbers and at least 1e-3 pixels",
            b[0],
            b[1],
            b[2],
            b[3]
        );
    }
    Ok(())
}

/// Two neighbours and the share of the second.
#[derive(Clone, Copy)]
struct Sample<T> {
    first: usize,
    second: usize,
    share: T,
}

/// The samples of `count` outputs along an axis of `length` pixels.
fn samples<T: Real>(start: T, extent: T, count: usize, length: usize) -> Vec<Sample<T>> {
    let (half, step, last) = (T::of(0.5), extent / T::of(count as f64), T::of((length - 1) as f64));
    let at = |i: usize| {
        let v = (start + (T::of(i as f64) + half) * step - half).max(T::zero()).min(last);
        let first = v.floor();
        let index = first.to_usize().expect("clamped to the image");
        Sample { first: index, second: (index + 1).min(length - 1), share: v - first }
    };
    (0..count).map(at).collect()
}

/// Of the rows and the columns of one image, in output order.
fn samples_of<T: Real>(b: &[T], flip: i32, s: Sizes) -> [Vec<Sample<T>>; 2] {
    let rows = samples(b[0], b[2], s.p as usize, s.h as usize);
    let mut cols = samples(b[1], b[3], s.q as usize, s.w as usize);
    if flip != 0 {
        cols.reverse();
    }
    [rows, cols]
}

pub(super) fn forward<T: Real>(x: &[T], boxes: &[T], flips: &[i32], y: &mut [T], s: Sizes) {
    let (c, line) = (s.c as usize, (s.w * s.c) as usize);
    let (image_x, image_y) = (line * s.h as usize, (s.p * s.q * s.c) as usize);
    let images = y.par_chunks_mut(image_y).zip(x.par_chunks(image_x)).zip(boxes.par_chunks(4).zip(flips));
    images.for_each(|((y, x), (b, flip))| {
        let [rows, cols] = samples_of(b, *flip, s);
        let mut mixed = vec![T::zero(); line];
        for (y, row) in y.chunks_exact_mut(s.q as usize * c).zip(&rows) {
            let (above, below) = (&x[row.first * line..][..line], &x[row.second * line..][..line]);
            vectorize(
                #[inline(always)]
                || {
                    for (m, (a, b)) in mixed.iter_mut().zip(above.iter().zip(below)) {
                        *m = *a + (*b - *a) * row.share;
                    }
                },
            );
            for (y, col) in y.chunks_exact_mut(c).zip(&cols) {
                let (left, right) = (&mixed[col.first * c..][..c], &mixed[col.second * c..][..c]);
                for (y, (a, b)) in y.iter_mut().zip(left.iter().zip(right)) {
                    *y = *a + (*b - *a) * col.share;
                }
            }
        }
    });
}

/// Adds `share` of `from` to `to`.
#[inline(always)]
fn add<T: Real>(to: &mut [T], from: &[T], share: T) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += *f * share);
}

/// One worker per image, outputs in order.
pub(super) fn backward<T: Real>(dy: &[T], boxes: &[T], flips: &[i32], dx: &mut [T], s: Sizes) {
    let (c, line) = (s.c as usize, (s.w * s.c) as usize);
    let (image_x, image_y) = (line * s.h as usize, (s.p * s.q * s.c) as usize);
    let images = dx.par_chunks_mut(image_x).zip(dy.par_chunks(image_y)).zip(boxes.par_chunks(4).zip(flips));
    images.for_each(|((dx, dy), (b, flip))| {
        let [rows, cols] = samples_of(b, *flip, s);
        dx.fill(T::zero());
        let mut mixed = vec![T::zero(); line];
        for (dy, row) in dy.chunks_exact(s.q as usize * c).zip(&rows) {
            mixed.fill(T::zero());
            for (dy, col) in dy.chunks_exact(c).zip(&cols) {
                add(&mut mixed[col.first * c..][..c], dy, T::one() - col.share);
                add(&mut mixed[col.second * c..][..c], dy, col.share);
            }
            vectorize(
                #[inline(always)]
                || {
                    add(&mut dx[row.first * line..][..line], &mixed, T::one() - row.share);
                    add(&mut dx[row.second * line..][..line], &mixed, row.share);
                },
            );
        }
    });
}
