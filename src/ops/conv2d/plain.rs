//! The definition of convolution and its gradients, generic over f32 and f64, any stride, padding and dilation. The f64
//! oracle of all other paths; also the f32 path of dilated convolutions.

use super::Geometry;
use crate::autograd::GradMode;
use crate::ops::vectorize::vectorize;
use crate::tensor::Real;
use rayon::prelude::*;

#[inline(always)]
fn axpy<T: Real>(y: &mut [T], a: T, x: &[T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * *x;
    }
}

#[inline(always)]
fn store<T: Real>(out: &mut [T], v: &[T], mode: GradMode) {
    match mode {
        GradMode::Overwrite => out.copy_from_slice(v),
        GradMode::Accumulate => out.iter_mut().zip(v).for_each(|(o, v)| *o += *v),
    }
}

pub(super) fn fprop<T: Real>(x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T], g: &Geometry) {
    // r s c k, so that the inner loop runs over neighbouring output channels.
    let taps = g.r * g.s * g.c;
    let mut wt = vec![T::zero(); w.len()];
    for (k, row) in w.chunks_exact(taps).enumerate() {
        row.iter().enumerate().for_each(|(t, v)| wt[t * g.k + k] = *v);
    }
    let body = |(row, y): (usize, &mut [T])| {
        let (n, p) = (row / g.p, row % g.p);
        for (q, y) in y.chunks_exact_mut(g.k).enumerate() {
            match bias {
                Some(b) => y.copy_from_slice(b),
                None => y.fill(T::zero()),
            }
            for r in 0..g.r {
                let Some(h) = g.source(0, p, r) else { continue };
                for s in 0..g.s {
                    let Some(col) = g.source(1, q, s) else { continue };
                    let pixel = &x[((n * g.h + h) * g.w + col) * g.c..][..g.c];
                    let tap = &wt[(r * g.s + s) * g.c * g.k..][..g.c * g.k];
                    for (v, wk) in pixel.iter().zip(tap.chunks_exact(g.k)) {
                        axpy(y, *v, wk);
                    }
                }
            }
        }
    };
    y.par_chunks_mut(g.q * g.k).enumerate().for_each(|job| {
        vectorize(
            #[inline(always)]
            || body(job),
        )
    });
}

pub(super) fn dgrad<T: Real>(dy: &[T], w: &[T], dx: &mut [T], mode: GradMode, g: &Geometry) {
    let body = |(row, dx): (usize, &mut [T])| {
        let (n, h) = (row / g.h, row % g.h);
        let mut sum = vec![T::zero(); g.c];
        for (col, dx) in dx.chunks_exact_mut(g.c).enumerate() {
            sum.fill(T::zero());
            for r in 0..g.r {
                let Some(p) = g.meets(0, h, r) else { continue };
                for s in 0..g.s {
                    let Some(q) = g.meets(1, col, s) else { continue };
                    let pixel = &dy[((n * g.p + p) * g.q + q) * g.k..][..g.k];
                    for (k, v) in pixel.iter().enumerate() {
                        axpy(&mut sum, *v, &w[((k * g.r + r) * g.s + s) * g.c..][..g.c]);
                    }
                }
            }
            store(dx, &sum, mode);
        }
    };
    dx.par_chunks_mut(g.w * g.c).enumerate().for_each(|job| {
        vectorize(
            #[inline(always)]
            || body(job),
        )
    });
}

pub(super) fn wgrad<T: Real>(x: &[T], dy: &[T], dw: &mut [T], mode: GradMode, g: &Geometry) {
    let body = |(k, dw): (usize, &mut [T])| {
        let mut sum = vec![T::zero(); dw.len()];
        for (row, dy) in dy.chunks_exact(g.q * g.k).enumerate() {
            let (n, p) = (row / g.p, row % g.p);
            for r in 0..g.r {
                let Some(h) = g.source(0, p, r) else { continue };
                for q in 0..g.q {
                    for s in 0..g.s {
                        let Some(col) = g.source(1, q, s) else { continue };
                        let pixel = &x[((n * g.h + h) * g.w + col) * g.c..][..g.c];
                        axpy(&mut sum[(r * g.s + s) * g.c..][..g.c], dy[q * g.k + k], pixel);
                    }
                }
            }
        }
        store(dw, &sum, mode);
    };
    dw.par_chunks_mut(g.r * g.s * g.c).enumerate().for_each(|job| {
        vectorize(
            #[inline(always)]
            || body(job),
        )
    });
}

/// Sums rows of `k` in f64, in order within chunks of fixed size, then over the chunks.
pub(super) fn bias_grad<T: Real>(dy: &[T], db: &mut [T], mode: GradMode) {
    let k = db.len();
    let part = |dy: &[T]| {
        let mut sum = vec![0f64; k];
        for row in dy.chunks_exact(k) {
            sum.iter_mut().zip(row).for_each(|(s, v)| *s += v.f64());
        }
        sum
    };
    let parts: Vec<Vec<f64>> = dy
        .par_chunks(k * 4096)
        .map(|dy| {
            vectorize(
                #[inline(always)]
                || part(dy),
            )
        })
        .collect();
    let total: Vec<T> = (0..k).map(|i| T::of(parts.iter().map(|p| p[i]).sum())).collect();
    store(db, &total, mode);
}

/// The sizes of the convolution after upsampling.
fn large(g: &Geometry) -> Geometry {
    Geometry { h: 2 * g.h, w: 2 * g.w, p: 2 * g.h, q: 2 * g.w, ..*g }
}

fn upsample<T: Real>(x: &[T], g: &Geometry) -> Vec<T> {
    let mut up = vec![T::zero(); 4 * x.len()];
    for (i, pixel) in up.chunks_exact_mut(g.c).enumerate() {
        let (row, col) = (i / (2 * g.w), i % (2 * g.w));
        // Row 2h of image n is row 2(n h) of all rows: halving the global row index is halving within the image.
        pixel.copy_from_slice(&x[(row / 2 * g.w + col / 2) * g.c..][..g.c]);
    }
    up
}

pub(super) fn upsample_fprop<T: Real>(x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T], g: &Geometry) {
    fprop(&upsample(x, g), w, bias, y, &large(g));
}

pub(super) fn upsample_dgrad<T: Real>(dy: &[T], w: &[T], dx: &mut [T], mode: GradMode, g: &Geometry) {
    let mut up = vec![T::zero(); 4 * dx.len()];
    dgrad(dy, w, &mut up, GradMode::Overwrite, &large(g));
    let mut sum = vec![T::zero(); dx.len()];
    for (i, pixel) in up.chunks_exact(g.c).enumerate() {
        let (row, col) = (i / (2 * g.w), i % (2 * g.w));
        axpy(&mut sum[(row / 2 * g.w + col / 2) * g.c..][..g.c], T::one(), pixel);
    }
    store(dx, &sum, mode);
}

pub(super) fn upsample_wgrad<T: Real>(x: &[T], dy: &[T], dw: &mut [T], mode: GradMode, g: &Geometry) {
    wgrad(&upsample(x, g), dy, dw, mode, &large(g));
}
