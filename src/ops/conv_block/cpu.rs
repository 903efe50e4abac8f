//! On the CPU: row by row, while the sums of the convolution are in the cache; one sweep backward.

use super::bits::{Bits, each_kept, pack};
use super::{Content, Made, Then, affine};
use crate::ops::batch_norm::Stored;
use crate::ops::conv2d_int::epilogue::table;
use crate::ops::fake_quant::Ste;
use crate::ops::vectorize::vectorize;
use crate::quant::{Affine, RoundEven};
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

/// Elements of a row that are worked on together.
const PIECE: usize = 256;
/// Elements of a task, about.
const TASK: usize = 1 << 14;

/// What follows a convolution, prepared for rows of `q` pixels.
pub(super) struct Sweep<T> {
    /// `[q k]`, as all tables.
    bias: Option<Vec<T>>,
    /// Mean, scale, shift.
    norm: Option<[Vec<T>; 3]>,
    relu: bool,
    to: Affine<T>,
    /// Whether clamped elements pass no gradient.
    clip: bool,
}

/// An output row.
pub(super) struct Row<'a, T> {
    codes: &'a mut [i8],
    mask: Option<&'a mut [u8]>,
    values: Option<&'a mut [T]>,
    residual: Residual<'a, T>,
}

#[derive(Clone, Copy)]
enum Residual<'a, T> {
    None,
    Values(&'a [T]),
    Codes(&'a [i8], Affine<T>),
}

/// All output rows, of `row` elements each.
pub(super) fn rows<'a, T: RoundEven>(made: &'a mut Made, residual: Option<Content<'a>>, row: usize) -> Vec<Row<'a, T>> {
    let mut masks = made.mask.as_mut().map(|m| m.host_mut::<u8>().chunks_exact_mut(row.div_ceil(8)));
    let mut values = made.values.as_mut().map(|v| v.host_mut::<T>().chunks_exact_mut(row));
    let residual = match residual {
        None => Residual::None,
        Some(Content::Values(t)) => Residual::Values(t.host::<T>()),
        Some(Content::Codes(q)) => Residual::Codes(q.values.host::<i8>(), affine(&q.lo, &q.hi, q.bits)),
    };
    let codes = made.codes.host_mut::<i8>().chunks_exact_mut(row).enumerate();
    let one = |(i, codes): (usize, &'a mut [i8])| Row {
        codes,
        mask: masks.as_mut().and_then(Iterator::next),
        values: values.as_mut().and_then(Iterator::next),
        residual: match residual {
            Residual::None => Residual::None,
            Residual::Values(v) => Residual::Values(&v[i * row..][..row]),
            Residual::Codes(q, a) => Residual::Codes(&q[i * row..][..row], a),
        },
    };
    codes.map(one).collect()
}

/// Finishes rows of convolution outputs `z`, which are overwritten.
pub(super) fn each_row<T: RoundEven>(sweep: &Sweep<T>, z: &mut [T], mut rows: Vec<Row<T>>) {
    let row = z.len() / rows.len().max(1);
    let some = (TASK / row.max(1)).max(1);
    z.par_chunks_mut(some * row.max(1)).zip(rows.par_chunks_mut(some)).for_each(|(z, rows)| {
        z.chunks_exact_mut(row).zip(rows).for_each(|(z, row)| sweep.row(z, row));
    });
}

impl<T: RoundEven> Sweep<T> {
    pub fn new(bias: Option<&Tensor>, norm: Option<Stored>, then: &Then, q: usize) -> Self {
        Self {
            bias: bias.map(|b| table(b.host::<T>(), q)),
            norm: norm.map(|n| n.coefficients::<T>().map(|v| table(&v, q))),
            relu: then.relu,
            to: affine(&then.lo.value, &then.hi.value, then.bits),
            clip: then.ste == Ste::Clipped,
        }
    }

    /// Carries a row of convolution outputs through all steps.
    pub fn row(&self, v: &mut [T], out: &mut Row<T>) {
        vectorize(
            #[inline(always)]
            || {
                self.linear(v, out.residual);
                for (i, v) in v.chunks_mut(PIECE).enumerate() {
                    let from = i * PIECE;
                    if let Some(mask) = out.mask.as_deref_mut() {
                        self.mask(v, &mut mask[from / 8..]);
                    }
                    if self.relu {
                        v.iter_mut().for_each(|v| *v = if *v <= T::zero() { T::zero() } else { *v });
                    }
                    let a = self.to;
                    let codes = &mut out.codes[from..][..v.len()];
                    codes.iter_mut().zip(v.iter()).for_each(|(q, v)| *q = a.code(*v).to_code());
                    if let Some(values) = out.values.as_deref_mut() {
                        values[from..][..v.len()].copy_from_slice(v);
                    }
                }
            },
        );
    }

    #[inline(always)]
    fn linear(&self, v: &mut [T], residual: Residual<T>) {
        if let Some(b) = &self.bias {
            v.iter_mut().zip(b).for_each(|(v, b)| *v += *b);
        }
        if let Some([mean, scale, shift]) = &self.norm {
            let table = mean.iter().zip(scale).zip(shift);
            v.iter_mut().zip(table).for_each(|(v, ((mean, scale), shift))| *v = (*v - *mean) * *scale + *shift);
        }
        match residual {
            Residual::None => {}
            Residual::Values(r) => v.iter_mut().zip(r).for_each(|(v, r)| *v += *r),
            Residual::Codes(r, a) => v.iter_mut().zip(r).for_each(|(v, r)| *v += a.value(T::of_code(*r))),
        }
    }

    /// Bits of the elements of `v`, before the ReLU, whose gradient passes.
    #[inline(always)]
    fn mask(&self, v: &[T], mask: &mut [u8]) {
        let a = self.to;
        match (self.relu, self.clip) {
            (true, false) => pack(v, mask, |v| v > T::zero()),
            // No short cut: it would be a branch.
            (true, true) => pack(v, mask, |v| (v > T::zero()) & a.inside(a.level(v))),
            (false, _) => pack(v, mask, |v| a.inside(a.level(v))),
        }
    }
}

/// Sets to zero the elements of `dy` (rows of `row` elements, `k` channels last) whose bit is not set, and returns the sums of
/// what is left per channel. Sums: f32 within a row, f64 over the rows of a task, then tasks in order.
pub(super) fn masked_sums<T: Real + Bits>(dy: &mut [T], mask: &[u8], row: usize, k: usize) -> Vec<T> {
    let some = (TASK / row).max(1);
    let parts: Vec<Vec<f64>> = dy
        .par_chunks_mut(some * row)
        .zip(mask.par_chunks(some * row.div_ceil(8)))
        .map(|(dy, mask)| {
            vectorize(
                #[inline(always)]
                || masked_task(dy, mask, row, k),
            )
        })
        .collect();
    (0..k).map(|i| T::of(parts.iter().map(|p| p[i]).sum())).collect()
}

#[inline(always)]
fn masked_task<T: Real + Bits>(dy: &mut [T], mask: &[u8], row: usize, k: usize) -> Vec<f64> {
    // Several narrow pixels side by side, so that loops are long enough for vectors.
    let width = k * 64usize.div_ceil(k);
    let (mut sums, mut line) = (vec![0f64; width], vec![T::zero(); width]);
    for (dy, mask) in dy.chunks_exact_mut(row).zip(mask.chunks_exact(row.div_ceil(8))) {
        each_kept(dy, mask);
        line.fill(T::zero());
        for dy in dy.chunks(width) {
            line.iter_mut().zip(dy).for_each(|(s, v)| *s += *v);
        }
        sums.iter_mut().zip(&line).for_each(|(s, v)| *s += v.f64());
    }
    (0..k).map(|i| sums.iter().skip(i).step_by(k).sum()).collect()
}
