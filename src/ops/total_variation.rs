//! Total variation of a batch: the L2 norms of the differences of neighbouring pixels in four directions, added
//! (DeepInversion, Yin et al. 2020, released code; DSG's released PTQ code calls it TV2).
//!
//! `loss = sum_o |d_o|`, `d_o` all differences `x[n, i, j] - x[n, i + o_i, j + o_j]` of the batch between pixels of one
//! image, `o` one of (0, 1), (1, 0), (1, -1), (1, 1). Gradient `sum_o d_o / |d_o|` at the one pixel, its negative at the
//! other; a direction without differences has gradient 0.

use super::case::{Case, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

const OP: &str = "total_variation";
/// To the right, below, below left, below right; mirrored in `kernels/total_variation.cu`.
const OFFSETS: [[isize; 2]; 4] = [[0, 1], [1, 0], [1, -1], [1, 1]];
/// Elements of one partial sum, mirrored in `kernels/total_variation.cu`.
const CHUNK: usize = 16384;

/// Kernel parameters, mirrored in `kernels/total_variation.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    size: i32,
    h: i32,
    w: i32,
    c: i32,
}

/// The scalar loss `[1]` of `x[n h w c]` (F32, F64 on the CPU). It grows with the root of the batch, as in the released
/// codes. Errors on another rank or an empty tensor. Saves `x`.
pub fn total_variation(tape: &mut Tape, x: &Var) -> Result<Var> {
    let [_, h, w, c] = x.shape().nhwc(OP)?;
    let size = x.value.len();
    crate::ensure_op!((1..=1 << 30).contains(&size), OP, "cannot take the variation of {}", x.shape());
    let p = Params { size: size as i32, h: h as i32, w: w as i32, c: c as i32 };
    let mut norms = Tensor::empty_like(&x.value, [4])?;
    let mut loss = Tensor::empty_like(&x.value, [1])?;
    if let Some(gpu) = x.value.gpu() {
        let chunks = size.div_ceil(CHUNK);
        let partial = Tensor::empty(tape.device(), [chunks, 4], DType::F64)?;
        Launch::new("total_variation_fwd_f32")
            .grid([chunks as u32, 1, 1])
            .block([256, 1, 1])
            .ptr(x.value.address())
            .ptr(partial.address())
            .val(p)
            .run(gpu)?;
        Launch::new("total_variation_finish_f32")
            .block([256, 1, 1])
            .ptr(partial.address())
            .ptr(norms.address())
            .ptr(loss.address())
            .val(chunks as i32)
            .run(gpu)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let images = x.value.host::<T>().par_chunks(h * w * c);
            let sums: Vec<[f64; 4]> = images.map(|x| OFFSETS.map(|o| squares(x, [h, w, c], o))).collect();
            for (i, norm) in norms.host_mut::<T>().iter_mut().enumerate() {
                *norm = T::of(sums.iter().map(|s| s[i]).sum::<f64>().sqrt());
            }
            loss.host_mut::<T>()[0] = T::of(norms.host::<T>().iter().map(|n| n.f64()).sum());
            Ok(())
        })?;
    }
    Ok(tape.record_one(TotalVariationOp { x: x.value.clone(), norms, p }, &[x], loss))
}

/// Of line `i`: itself and line `i + down`, cut so that element `k` of both are neighbours. Nothing at the edge.
fn pair<T>(x: &[T], [h, w, c]: [usize; 3], i: usize, [down, right]: [isize; 2]) -> Option<[&[T]; 2]> {
    let other = i.checked_add_signed(down).filter(|o| *o < h)?;
    let count = (w - right.unsigned_abs().min(w)) * c;
    let from = |line: usize, shift: isize| &x[(line * w + shift.max(0) as usize) * c..][..count];
    (count > 0).then(|| [from(i, -right), from(other, right)])
}

/// Sum of the squared differences in one direction of one image.
fn squares<T: Real>(x: &[T], shape: [usize; 3], offset: [isize; 2]) -> f64 {
    let mut sum = 0.0;
    for i in 0..shape[0] {
        let Some([a, b]) = pair(x, shape, i, offset) else { continue };
        sum += vectorize(
            #[inline(always)]
            || {
                const LANES: usize = 16;
                let mut sums = [0f64; LANES];
                for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
                    for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
                        let d = a.f64() - b.f64();
                        *s += d * d;
                    }
                }
                sums.iter().sum::<f64>()
            },
        );
    }
    sum
}

/// Every pixel gathers from its eight neighbours.
fn gather<T: Real>(x: &[T], dx: &mut [T], shape: [usize; 3], slopes: [T; 4]) {
    let [h, w, c] = shape;
    dx.fill(T::of(0.0));
    for i in 0..h {
        for (slope, [down, right]) in slopes.iter().zip(OFFSETS) {
            for offset in [[down, right], [-down, -right]] {
                let Some([a, b]) = pair(x, shape, i, offset) else { continue };
                let start = (i * w + (-offset[1]).max(0) as usize) * c;
                let dx = &mut dx[start..][..a.len()];
                vectorize(
                    #[inline(always)]
                    || dx.iter_mut().zip(a.iter().zip(b)).for_each(|(d, (a, b))| *d += *slope * (*a - *b)),
                );
            }
        }
    }
}

struct TotalVariationOp {
    x: Tensor,
    norms: Tensor,
    p: Params,
}

impl Op for TotalVariationOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let x = &self.x;
        let mut dx = Tensor::empty_like(x, x.shape())?;
        if let Some(gpu) = x.gpu() {
            Launch::over("total_variation_bwd_f32", x.len(), 256)
                .ptr(x.address())
                .ptr(self.norms.address())
                .ptr(dy.address())
                .ptr(dx.address())
                .val(self.p)
                .run(gpu)?;
        } else {
            crate::for_real!(OP, x.dtype(), T => {
                let shape = [self.p.h as usize, self.p.w as usize, self.p.c as usize];
                let dy = dy.host::<T>()[0];
                let slope = |i: usize| {
                    let norm = self.norms.host::<T>()[i];
                    if norm > T::of(0.0) { dy / norm } else { T::of(0.0) }
                };
                let slopes = [0, 1, 2, 3].map(slope);
                let image = shape.iter().product();
                let images = dx.host_mut::<T>().par_chunks_mut(image).zip(x.host::<T>().par_chunks(image));
                images.for_each(|(dx, x)| gather(x, dx, shape, slopes));
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![total_variation(t, &v[0])?]);
    let mut cases = Vec::new();
    for shape in [[1, 1, 2, 1], [1, 2, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 13, 17, 5], [5, 32, 16, 8]] {
        let size: usize = shape.iter().product();
        cases.push(Case::new(format!("{}", crate::tensor::Shape::from(shape)), vec![Input::grad(shape)], run).reduction(size));
    }
    // One pixel has no neighbours: no loss, no gradient.
    cases.push(Case::new("1x1x1x1", vec![Input::grad([1, 1, 1, 1])], run));
    let shape = [64, 32, 32, 3];
    let size: usize = shape.iter().product();
    let case = Case::new("64x32x32x3", vec![Input::grad(shape)], run).reduction(size);
    cases.push(case.cost(12.0 * size as f64, 4.0 * size as f64).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn four_directions_by_hand() {
        let d = Device::cpu();
        let x = Tensor::from_slice(&d, [1, 2, 2, 1], &[1f64, 4.0, 1.0, 8.0]).unwrap();
        let v = total_variation(&mut Tape::inference(&d), &Var::constant(x)).unwrap().value.item().unwrap();
        // Right: -3, -7; below: 0, -4; below left: 3; below right: -7.
        assert!((v - (58f64.sqrt() + 4.0 + 3.0 + 7.0)).abs() < 1e-12, "{v}");
        let flat = Var::constant(Tensor::zeros(&d, [4], DType::F32).unwrap());
        assert!(total_variation(&mut Tape::inference(&d), &flat).is_err());
    }
}
