//! Pooling on the CPU, an image per task.

use super::Geometry;
use crate::ops::vectorize::vectorize;
use crate::tensor::Real;
use rayon::prelude::*;

pub(super) fn global<T: Real>(x: &[T], y: &mut [T], pixels: usize, c: usize) {
    let inverse = T::of(1.0 / pixels as f64);
    y.par_chunks_mut(c).zip(x.par_chunks(pixels * c)).for_each(|(y, x)| {
        vectorize(
            #[inline(always)]
            || {
                y.fill(T::of(0.0));
                x.chunks_exact(c).for_each(|row| add(y, row));
                y.iter_mut().for_each(|v| *v = *v * inverse);
            },
        );
    });
}

pub(super) fn global_backward<T: Real>(dy: &[T], dx: &mut [T], pixels: usize, c: usize) {
    let inverse = T::of(1.0 / pixels as f64);
    dx.par_chunks_mut(pixels * c).zip(dy.par_chunks(c)).for_each(|(dx, dy)| {
        let (first, rest) = dx.split_at_mut(c);
        first.iter_mut().zip(dy).for_each(|(d, g)| *d = *g * inverse);
        rest.chunks_exact_mut(c).for_each(|row| row.copy_from_slice(first));
    });
}

#[inline(always)]
fn add<T: Real>(y: &mut [T], x: &[T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += *x;
    }
}

/// Calls `f(output offset, input offset, input pixel)` in an image for every window and every pixel in it.
#[inline(always)]
fn windows(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    let (w, c, ow) = (g.w as usize, g.c as usize, g.ow as usize);
    for oy in 0..g.oh as usize {
        for ox in 0..ow {
            for iy in g.rows(oy) {
                for ix in g.columns(ox) {
                    let pixel = iy * w + ix;
                    f((oy * ow + ox) * c, pixel * c, pixel);
                }
            }
        }
    }
}

pub(super) fn max<T: Real>(x: &[T], y: &mut [T], from: &mut [i32], g: &Geometry) {
    let c = g.c as usize;
    let (image, out) = ((g.h * g.w) as usize * c, (g.oh * g.ow) as usize * c);
    y.par_chunks_mut(out).zip(from.par_chunks_mut(out)).zip(x.par_chunks(image)).for_each(|((y, from), x)| {
        y.fill(T::neg_infinity());
        // A window of nothing but -inf belongs to a pixel too: the first one seen below.
        from.fill(-1);
        vectorize(
            #[inline(always)]
            || {
                windows(g, |o, i, pixel| {
                    let (y, from, x) = (&mut y[o..o + c], &mut from[o..o + c], &x[i..i + c]);
                    for j in 0..c {
                        // Once NaN, y stays NaN: no comparison with it holds, and it is not NaN's first sight.
                        let take = x[j] > y[j] || from[j] < 0 || (x[j].is_nan() && !y[j].is_nan());
                        y[j] = if take { x[j] } else { y[j] };
                        from[j] = if take { pixel as i32 } else { from[j] };
                    }
                });
            },
        );
    });
}

pub(super) fn max_backward<T: Real>(dy: &[T], from: &[i32], dx: &mut [T], g: &Geometry) {
    let c = g.c as usize;
    let (image, out) = ((g.h * g.w) as usize * c, (g.oh * g.ow) as usize * c);
    dx.par_chunks_mut(image).zip(dy.par_chunks(out).zip(from.par_chunks(out))).for_each(|(dx, (dy, from))| {
        dx.fill(T::of(0.0));
        for (dy, from) in dy.chunks_exact(c).zip(from.chunks_exact(c)) {
            for j in 0..c {
                dx[from[j] as usize * c + j] += dy[j];
            }
        }
    });
}

/// One over the number of pixels that an average counts.
fn inverse<T: Real>(count: i32) -> T {
    T::of(1.0 / f64::from(count))
}

/// Calls `f(output offset, inverse count)` for every window of an image.
#[inline(always)]
fn averages<T: Real>(g: &Geometry, mut f: impl FnMut(usize, T)) {
    for oy in 0..g.oh as usize {
        for ox in 0..g.ow as usize {
            f((oy * g.ow as usize + ox) * g.c as usize, inverse(g.covered(oy, ox)));
        }
    }
}

#[inline(always)]
fn scale<T: Real>(y: &mut [T], factor: T) {
    y.iter_mut().for_each(|v| *v = *v * factor);
}

pub(super) fn avg<T: Real>(x: &[T], y: &mut [T], g: &Geometry) {
    let c = g.c as usize;
    let (image, out) = ((g.h * g.w) as usize * c, (g.oh * g.ow) as usize * c);
    y.par_chunks_mut(out).zip(x.par_chunks(image)).for_each(|(y, x)| {
        vectorize(
            #[inline(always)]
            || {
                y.fill(T::of(0.0));
                windows(g, |o, i, _| add(&mut y[o..o + c], &x[i..i + c]));
                match g.count {
                    0 => averages(g, |o, factor| scale(&mut y[o..o + c], factor)),
                    count => scale(y, inverse(count)),
                }
            },
        );
    });
}

pub(super) fn avg_backward<T: Real>(dy: &[T], dx: &mut [T], g: &Geometry) {
    let c = g.c as usize;
    let (image, out) = ((g.h * g.w) as usize * c, (g.oh * g.ow) as usize * c);
    let counts: Vec<T> = match g.count {
        0 => (0..g.oh * g.ow).map(|o| inverse(g.covered((o / g.ow) as usize, (o % g.ow) as usize))).collect(),
        _ => Vec::new(),
    };
    dx.par_chunks_mut(image).zip(dy.par_chunks(out)).for_each(|(dx, dy)| {
        vectorize(
            #[inline(always)]
            || {
                dx.fill(T::of(0.0));
                if g.count == 0 {
                    windows(g, |o, i, _| add_scaled(&mut dx[i..i + c], &dy[o..o + c], counts[o / c]));
                } else {
                    windows(g, |o, i, _| add(&mut dx[i..i + c], &dy[o..o + c]));
                    scale(dx, inverse(g.count));
                }
            },
        );
    });
}

#[inline(always)]
fn add_scaled<T: Real>(y: &mut [T], x: &[T], factor: T) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += *x * factor;
    }
}
