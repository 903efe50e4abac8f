//! A convolution per group: channels are put group by group first, and back together afterwards. In f64 each of them is the
//! definition; in f32 the blocked path of dense convolutions, which groups of eight channels and more repay.

use super::Groups;
use crate::autograd::GradMode;
use crate::ops::conv2d::Convolve;
use rayon::prelude::*;

/// Pixels that a job puts together.
const PIXELS: usize = 256;

/// Returns `v[pixels][groups][width]` as `[groups][pixels][width]`.
pub(crate) fn apart<T: Copy + Default + Send + Sync>(v: &[T], groups: usize, width: usize) -> Vec<T> {
    let mut to = vec![T::default(); v.len()];
    to.par_chunks_exact_mut(v.len() / groups).enumerate().for_each(|(group, to)| {
        for (to, pixel) in to.chunks_exact_mut(width).zip(v.chunks_exact(groups * width)) {
            to.copy_from_slice(&pixel[group * width..][..width]);
        }
    });
    to
}

/// Hands `put` each pixel of a group of `to[pixels][groups][width]` with that of `v[groups][pixels][width]` and the group's
/// first channel.
pub(crate) fn together<T: Sync, U: Send>(
    v: &[T],
    to: &mut [U],
    groups: usize,
    width: usize,
    put: impl Fn(&mut [U], &[T], usize) + Sync,
) {
    let (plane, pixel) = (v.len() / groups, groups * width);
    to.par_chunks_mut(PIXELS * pixel).enumerate().for_each(|(job, to)| {
        for (i, to) in to.chunks_exact_mut(pixel).enumerate() {
            for (group, to) in to.chunks_exact_mut(width).enumerate() {
                put(to, &v[group * plane + (job * PIXELS + i) * width..][..width], group * width);
            }
        }
    });
}

pub(super) fn fprop<T: Convolve + Default>(x: &[T], w: &[T], bias: Option<&[T]>, y: &mut [T], g: &Groups) {
    let (each, k) = (&g.each, g.each.k);
    let x = apart(x, g.count, each.c);
    let mut parts = vec![T::zero(); y.len()];
    let filter = w.len() / g.count;
    parts
        .par_chunks_exact_mut(y.len() / g.count)
        .zip(x.par_chunks_exact(x.len() / g.count).zip(w.par_chunks_exact(filter)))
        .enumerate()
        .for_each(|(group, (y, (x, w)))| T::fprop(x, w, bias.map(|b| &b[group * k..][..k]), y, each));
    together(&parts, y, g.count, k, |y, part, _| y.copy_from_slice(part));
}

pub(super) fn dgrad<T: Convolve + Default>(dy: &[T], w: &[T], dx: &mut [T], mode: GradMode, g: &Groups) {
    let each = &g.each;
    let dy = apart(dy, g.count, each.k);
    let mut parts = vec![T::zero(); dx.len()];
    let filter = w.len() / g.count;
    parts
        .par_chunks_exact_mut(dx.len() / g.count)
        .zip(dy.par_chunks_exact(dy.len() / g.count).zip(w.par_chunks_exact(filter)))
        .for_each(|(dx, (dy, w))| T::dgrad(dy, w, dx, GradMode::Overwrite, each));
    together(&parts, dx, g.count, each.c, |dx, part, _| match mode {
        GradMode::Overwrite => dx.copy_from_slice(part),
        GradMode::Accumulate => dx.iter_mut().zip(part).for_each(|(d, v)| *d += *v),
    });
}

pub(super) fn wgrad<T: Convolve + Default>(x: &[T], dy: &[T], dw: &mut [T], mode: GradMode, g: &Groups) {
    let each = &g.each;
    let (x, dy) = (apart(x, g.count, each.c), apart(dy, g.count, each.k));
    let filter = dw.len() / g.count;
    dw.par_chunks_exact_mut(filter)
        .zip(x.par_chunks_exact(x.len() / g.count).zip(dy.par_chunks_exact(dy.len() / g.count)))
        .for_each(|(dw, (x, dy))| T::wgrad(x, dy, dw, mode, each));
}
