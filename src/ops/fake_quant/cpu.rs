//! On the CPU: rows in parallel, long rows in pieces of fixed length; inner loops vectorize.

use super::Layout;
use crate::ops::vectorize::vectorize;
use crate::quant::{Affine, RoundEven};
use rayon::prelude::*;

/// Elements per task.
const PIECE: usize = 1 << 14;

/// Rows that one task takes when they are short.
fn group(layout: Layout) -> usize {
    (PIECE / layout.length.max(1)).max(1)
}

pub(super) fn forward<T: RoundEven>(
    x: &[T],
    [lo, hi]: [&[T]; 2],
    y: &mut [T],
    mask: Option<&mut [u8]>,
    codes: Option<&mut [i8]>,
    layout: Layout,
) {
    let n = layout.length.max(1);
    let rows = y.par_chunks_mut(n).zip(x.par_chunks(n)).zip(lo.par_iter().zip(hi)).with_min_len(group(layout));
    let affine = |(lo, hi): (&T, &T)| Affine::new(*lo, *hi, layout.bits);
    match (mask, codes) {
        (None, None) => rows.for_each(|((y, x), range)| {
            let a = affine(range);
            y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| {
                vectorize(
                    #[inline(always)]
                    || y.iter_mut().zip(x).for_each(|(y, x)| *y = a.quantize(*x)),
                );
            });
        }),
        (None, Some(codes)) => rows.zip(codes.par_chunks_mut(n)).for_each(|(((y, x), range), codes)| {
            let a = affine(range);
            let pieces = y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).zip(codes.par_chunks_mut(PIECE));
            pieces.for_each(|((y, x), codes)| {
                vectorize(
                    #[inline(always)]
                    || {
                        for ((y, x), q) in y.iter_mut().zip(x).zip(codes) {
                            let code = a.code(*x);
                            *y = a.value(code);
                            *q = code.to_code();
                        }
                    },
                );
            });
        }),
        (Some(mask), None) => rows.zip(mask.par_chunks_mut(n)).for_each(|(((y, x), range), mask)| {
            let a = affine(range);
            let pieces = y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).zip(mask.par_chunks_mut(PIECE));
            pieces.for_each(|((y, x), mask)| {
                vectorize(
                    #[inline(always)]
                    || {
                        for ((y, x), m) in y.iter_mut().zip(x).zip(mask) {
                            let level = a.level(*x);
                            *y = a.value(a.clamp(level));
                            *m = u8::from(a.inside(level));
                        }
                    },
                );
            });
        }),
        (Some(mask), Some(codes)) => {
            rows.zip(mask.par_chunks_mut(n).zip(codes.par_chunks_mut(n))).for_each(|(((y, x), range), (mask, codes))| {
                let a = affine(range);
                let bytes = mask.par_chunks_mut(PIECE).zip(codes.par_chunks_mut(PIECE));
                y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).zip(bytes).for_each(|((y, x), (mask, codes))| {
                    vectorize(
                        #[inline(always)]
                        || {
                            for ((y, x), (m, q)) in y.iter_mut().zip(x).zip(mask.iter_mut().zip(codes)) {
                                let level = a.level(*x);
                                let code = a.clamp(level);
                                *y = a.value(code);
                                *m = u8::from(a.inside(level));
                                *q = code.to_code();
                            }
                        },
                    );
                });
            });
        }
    }
}

pub(super) fn codes<T: RoundEven>(x: &[T], lo: &[T], hi: &[T], codes: &mut [i8], layout: Layout) {
    let n = layout.length.max(1);
    let rows = codes.par_chunks_mut(n).zip(x.par_chunks(n)).zip(lo.par_iter().zip(hi)).with_min_len(group(layout));
    rows.for_each(|((q, x), (lo, hi))| {
        let a = Affine::new(*lo, *hi, layout.bits);
        q.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(q, x)| {
            vectorize(
                #[inline(always)]
                || q.iter_mut().zip(x).for_each(|(q, x)| *q = a.code(*x).to_code()),
            );
        });
    });
}

pub(super) fn values<T: RoundEven>(codes: &[i8], a: Affine<T>, y: &mut [T]) {
    y.par_chunks_mut(PIECE).zip(codes.par_chunks(PIECE)).for_each(|(y, q)| {
        vectorize(
            #[inline(always)]
            || y.iter_mut().zip(q).for_each(|(y, q)| *y = a.value(T::of_code(*q))),
        );
    });
}

pub(super) fn clipped<T: RoundEven>(dy: &[T], mask: &[u8], dx: &mut [T]) {
    let pieces = dx.par_chunks_mut(PIECE).zip(dy.par_chunks(PIECE)).zip(mask.par_chunks(PIECE));
    pieces.for_each(|((dx, dy), mask)| {
        vectorize(
            #[inline(always)]
            || {
                for ((dx, dy), m) in dx.iter_mut().zip(dy).zip(mask) {
                    *dx = if *m != 0 { *dy } else { T::zero() };
                }
            },
        );
    });
}

/// Independent sums that a vector register can hold.
const LANES: usize = 16;

/// Gradients of `x` (of its ReLU's input, if `relu`), `lo`, `hi` under the learned rule. Sums: lanes, then lanes in order, then pieces in order.
pub(super) fn learned<T: RoundEven>(
    x: &[T],
    [lo, hi]: [&[T]; 2],
    dy: &[T],
    dx: Option<&mut [T]>,
    [dlo, dhi]: [&mut [T]; 2],
    layout: Layout,
    factor: f64,
    relu: bool,
) {
    let n = layout.length.max(1);
    let pieces = layout.length.div_ceil(PIECE);
    let piece = |row: usize, p: usize, dx: Option<&mut [T]>| {
        let from = row * n + p * PIECE;
        let to = (from + PIECE).min((row + 1) * n);
        vectorize(
            #[inline(always)]
            || learned_piece(&x[from..to], &dy[from..to], dx, lo[row], hi[row], layout.bits, relu),
        )
    };
    let sums: Vec<[f64; 2]> = match dx {
        Some(dx) => dx
            .par_chunks_mut(n)
            .with_min_len(group(layout))
            .enumerate()
            .map(|(row, dx)| {
                let all: Vec<[f64; 2]> =
                    dx.par_chunks_mut(PIECE).enumerate().map(|(p, dx)| piece(row, p, Some(dx))).collect();
                add(&all)
            })
            .collect(),
        None => (0..layout.rows)
            .into_par_iter()
            .with_min_len(group(layout))
            .map(|row| {
                let all: Vec<[f64; 2]> = (0..pieces).into_par_iter().map(|p| piece(row, p, None)).collect();
                add(&all)
            })
            .collect(),
    };
    for (row, [to_lo, to_hi]) in sums.into_iter().enumerate() {
        dlo[row] = T::of(to_lo * factor);
        dhi[row] = T::of(to_hi * factor);
    }
}

fn add(all: &[[f64; 2]]) -> [f64; 2] {
    all.iter().fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d])
}

#[inline(always)]
fn learned_piece<T: RoundEven>(
    x: &[T],
    dy: &[T],
    dx: Option<&mut [T]>,
    lo: T,
    hi: T,
    bits: u8,
    relu: bool,
) -> [f64; 2] {
    let a = Affine::new(lo, hi, bits);
    let r = inverse_width(lo, hi);
    if let Some(dx) = dx {
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = if a.inside(a.level(*x)) { *dy } else { T::zero() };
        }
        if relu {
            dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = if *x > T::zero() { *dx } else { T::zero() });
        }
    }
    let (mut to_lo, mut to_hi) = ([T::zero(); LANES], [T::zero(); LANES]);
    let (xs, ys) = (x.chunks_exact(LANES), dy.chunks_exact(LANES));
    for (i, (x, dy)) in xs.remainder().iter().zip(ys.remainder()).enumerate() {
        let [l, h] = slopes(&a, *x, lo, r);
        to_lo[i] = l * *dy;
        to_hi[i] = h * *dy;
    }
    for (x, dy) in xs.zip(ys) {
        for i in 0..LANES {
            let [l, h] = slopes(&a, x[i], lo, r);
            to_lo[i] += l * dy[i];
            to_hi[i] += h * dy[i];
        }
    }
    let sum = |v: [T; LANES]| v.iter().map(|v| v.f64()).sum::<f64>();
    [sum(to_lo), sum(to_hi)]
}

/// `1 / (hi - lo)`, or 0 where the width is floored.
#[inline(always)]
pub(super) fn inverse_width<T: RoundEven>(lo: T, hi: T) -> T {
    if hi - lo < T::of(1e-8) { T::zero() } else { T::one() / (hi - lo) }
}

/// `[dy/dlo, dy/dhi]` at `x`.
#[inline(always)]
pub(super) fn slopes<T: RoundEven>(a: &Affine<T>, x: T, lo: T, r: T) -> [T; 2] {
    let level = a.level(x);
    let inside = a.inside(level);
    let y = a.value(a.clamp(level));
    let up = (y - if inside { x } else { lo }) * r;
    [if inside { -up } else { T::one() - up }, up]
}
