//! On the CPU: rows in parallel; the penalty in chunks of fixed size.

use super::{CHUNK, Params};
use crate::tensor::Real;
use rayon::prelude::*;

/// `h(v)` and `h'(v)`.
#[inline(always)]
fn choice<T: Real>(v: T) -> [T; 2] {
    let one = T::one();
    let sigmoid = one / (one + (-v).exp());
    let h = T::of(1.2) * sigmoid - T::of(0.1);
    let slope = T::of(1.2) * sigmoid * (one - sigmoid);
    if h <= T::zero() {
        [T::zero(), T::zero()]
    } else if h >= one {
        [one, T::zero()]
    } else {
        [h, slope]
    }
}

pub(super) fn forward<T: Real>(
    base: &[T],
    v: &[T],
    [step, zero]: [&[T]; 2],
    y: &mut [T],
    saved: Option<[&mut [T]; 2]>,
    p: Params,
) {
    let n = p.length as usize;
    let (low, high) = (T::of(p.low.into()), T::of(p.high.into()));
    let row = |row: usize, y: &mut [T], mut saved: Option<[&mut [T]; 2]>| {
        for (i, y) in y.iter_mut().enumerate() {
            let down = base[row * n + i];
            let [h, slope] = choice(v[row * n + i]);
            let code = (down + h).max(low).min(high) + zero[row];
            *y = code * step[row];
            if let Some([levels, slopes]) = &mut saved {
                levels[i] = code;
                slopes[i] = if down >= low && down < high { slope } else { T::zero() };
            }
        }
    };
    let rows = y.par_chunks_mut(n).enumerate();
    match saved {
        None => rows.for_each(|(r, y)| row(r, y, None)),
        Some([level, slope]) => rows
            .zip(level.par_chunks_mut(n).zip(slope.par_chunks_mut(n)))
            .for_each(|((r, y), (level, slope))| row(r, y, Some([level, slope]))),
    }
}

pub(super) fn backward<T: Real>(
    [level, slope]: [&[T]; 2],
    step: &[T],
    dy: &[T],
    dv: &mut [T],
    dstep: &mut [T],
    p: Params,
) {
    let n = p.length as usize;
    dv.par_chunks_mut(n).zip(dstep.par_iter_mut()).enumerate().for_each(|(row, (dv, dstep))| {
        let at = row * n..(row + 1) * n;
        let (level, slope, dy) = (&level[at.clone()], &slope[at.clone()], &dy[at]);
        let mut sum = 0.0;
        for (i, dv) in dv.iter_mut().enumerate() {
            *dv = dy[i] * step[row] * slope[i];
            sum += dy[i].f64() * level[i].f64();
        }
        *dstep = T::of(sum);
    });
}

/// The sum, and its gradient.
pub(super) fn penalty<T: Real>(v: &[T], slope: Option<&mut [T]>, beta: f64) -> T {
    let beta = T::of(beta);
    let (one, two) = (T::one(), T::of(2.0));
    let chunk = |v: &[T], mut slopes: Option<&mut [T]>| {
        let mut sum = 0.0;
        for (i, v) in v.iter().enumerate() {
            let [h, dh] = choice(*v);
            let d = two * h - one;
            // |d|^(beta - 1) serves both.
            let power = d.abs().powf(beta - one);
            sum += (one - power * d.abs()).f64();
            if let Some(s) = &mut slopes {
                s[i] = -two * beta * power * dh * if d < T::zero() { -one } else { one };
            }
        }
        sum
    };
    let sums: Vec<f64> = match slope {
        None => v.par_chunks(CHUNK).map(|v| chunk(v, None)).collect(),
        Some(s) => v.par_chunks(CHUNK).zip(s.par_chunks_mut(CHUNK)).map(|(v, s)| chunk(v, Some(s))).collect(),
    };
    T::of(sums.iter().sum())
}
