//! On the CPU: band by band of output rows, while the convolution's output is in the cache; one sweep backward.

use crate::Result;
use crate::ops::columns::Columns;
use crate::ops::conv_block::bits::{Bits, each_kept, pack};
use crate::ops::conv2d::{self, Conv2dParams, Geometry};
use crate::ops::vectorize::vectorize;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

/// Elements of a task, about.
const TASK: usize = 1 << 14;

/// What follows a convolution.
pub(super) struct Sweep {
    pub relu: bool,
    pub stats: bool,
}

/// An output row.
pub(super) struct Row<'a, T> {
    /// In place of the convolution's output if absent.
    u: Option<&'a mut [T]>,
    mask: Option<&'a mut [u8]>,
    residual: Option<&'a [T]>,
}

/// All output rows.
pub(super) fn rows<'a, T: Real>(
    u: Option<&'a mut Tensor>,
    mask: Option<&'a mut Tensor>,
    residual: Option<&'a Tensor>,
    g: &Geometry,
) -> Vec<Row<'a, T>> {
    let row = g.q * g.k;
    let mut u = u.map(|u| u.host_mut::<T>().chunks_exact_mut(row));
    let mut mask = mask.map(|m| m.host_mut::<u8>().chunks_exact_mut(row.div_ceil(8)));
    let mut residual = residual.map(|r| r.host::<T>().chunks_exact(row));
    let one = |_| Row {
        u: u.as_mut().and_then(Iterator::next),
        mask: mask.as_mut().and_then(Iterator::next),
        residual: residual.as_mut().and_then(Iterator::next),
    };
    (0..g.n * g.p).map(one).collect()
}

/// Convolves, and carries each row through what follows; the sums of `y` and of its squares per channel.
pub(super) fn convolve<T: Real>(
    sweep: &Sweep,
    [x, w, shift]: [&Tensor; 3],
    y: &mut Tensor,
    mut rows: Vec<Row<T>>,
    p: Conv2dParams,
    g: &Geometry,
) -> Result<[Vec<f64>; 2]> {
    let row = g.q * g.k;
    let columns = Columns::new(g.k);
    let finish = |y: &mut [T], rows: &mut [Row<T>]| {
        vectorize(
            #[inline(always)]
            || sweep.rows(&columns, y, rows, row),
        )
    };
    // The blocked path is f32's; the types are the same then.
    let parts = if T::DTYPE == DType::F32 && conv2d::blocked(x, p) {
        conv2d::fprop_rows(x, w, Some(shift), y, p, rows, |y, rows| finish(bytemuck::cast_slice_mut(y), rows))?
    } else {
        conv2d::fprop(x, w, Some(shift), y, p)?;
        let some = (TASK / row).max(1);
        let tasks = y.host_mut::<T>().par_chunks_mut(some * row).zip(rows.par_chunks_mut(some));
        tasks.map(|(y, rows)| finish(y, rows)).collect()
    };
    Ok(if sweep.stats { columns.combine(&parts) } else { [Vec::new(), Vec::new()] })
}

impl Sweep {
    /// Carries some rows; the sums of theirs, in the form of [`Columns::combine`].
    #[inline(always)]
    fn rows<T: Real>(&self, columns: &Columns, y: &mut [T], rows: &mut [Row<T>], row: usize) -> Vec<f64> {
        let mut sums = columns.no_sums();
        for (y, to) in y.chunks_exact_mut(row).zip(rows) {
            if self.stats {
                columns.add_to(&mut sums, y, y, |y, _| (y, y * y));
            }
            let u = match to.u.as_deref_mut() {
                Some(u) => {
                    u.copy_from_slice(y);
                    u
                }
                None => y,
            };
            if let Some(r) = to.residual {
                u.iter_mut().zip(r).for_each(|(u, r)| *u += *r);
            }
            if let Some(mask) = to.mask.as_deref_mut() {
                pack(u, mask, |v| v > T::zero());
            }
            if self.relu {
                u.iter_mut().for_each(|u| *u = if *u <= T::zero() { T::zero() } else { *u });
            }
        }
        sums
    }
}

/// The gradient of `y` into `dy`, which holds that of `u` before; that of the residual into `dresidual`.
pub(super) struct Backward<'a, T> {
    pub mask: Option<&'a [u8]>,
    /// `y`, its mean, and the gradients of mean and variance.
    pub stats: Option<(&'a [T], [&'a [T]; 3])>,
    pub row: usize,
    pub k: usize,
}

impl<T: Real + Bits> Backward<'_, T> {
    pub fn run(&self, dy: &mut [T], dresidual: Option<&mut [T]>) {
        let (row, m) = (self.row, T::of((dy.len() / self.k) as f64));
        let columns = Columns::new(self.k);
        let tables = self.stats.map(|(_, [mean, dmean, dvar])| {
            let offset = columns.table(|i| dmean[i] / m);
            [columns.table(|i| mean[i]), offset, columns.table(|i| T::of(2.0) * dvar[i] / m)]
        });
        let some = (TASK / row).max(1);
        let task = |i: usize, dy: &mut [T], mut dresidual: Option<&mut [T]>| {
            if let Some(mask) = self.mask {
                let bytes = row.div_ceil(8);
                let masks = mask[i * some * bytes..].chunks_exact(bytes);
                dy.chunks_exact_mut(row).zip(masks).for_each(|(dy, mask)| each_kept(dy, mask));
            }
            if let Some(to) = dresidual.as_deref_mut() {
                to.copy_from_slice(dy);
            }
            if let (Some((y, _)), Some([mean, offset, slope])) = (self.stats, &tables) {
                let from = i * some * row;
                let width = mean.len();
                for (dy, y) in dy.chunks_mut(width).zip(y[from..].chunks(width)) {
                    let tables = mean.iter().zip(offset).zip(slope);
                    for ((dy, y), ((mean, offset), slope)) in dy.iter_mut().zip(y).zip(tables) {
                        *dy += *offset + *slope * (*y - *mean);
                    }
                }
            }
        };
        let task = |i: usize, dy: &mut [T], dresidual: Option<&mut [T]>| {
            vectorize(
                #[inline(always)]
                || task(i, dy, dresidual),
            );
        };
        let tasks = dy.par_chunks_mut(some * row).enumerate();
        match dresidual {
            Some(to) => tasks.zip(to.par_chunks_mut(some * row)).for_each(|((i, dy), to)| task(i, dy, Some(to))),
            None => tasks.for_each(|(i, dy)| task(i, dy, None)),
        }
    }
}
