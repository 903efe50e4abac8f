//! Centre of attention of activations: the mean position of the spatial attention map, a soft arg-max.
//!
//! `q = sum_c |x|^p` per pixel (Zagoruyko, Komodakis 2017), `a = q / Q` with `Q = sum q`, centre
//! `(u, v) = sum_ij a_ij (u_i, v_j)` with `u_i = (i + 1/2) / h` from the top and `v_j = (j + 1/2) / w` from the left, so
//! within 0..1. Backward: with `(gu, gv)` the gradient of the centre, `dq_ij = ((u_i - u) gu + (v_j - v) gv) / Q` and
//! `dx = p |x|^(p-1) sign(x) dq`. Where `Q <= 1e-12` nothing is attended to: the centre is the image's and the gradient 0.
//! For attention correction (ACQ, Li et al. 2023), whose paper names such a centre; this form of it is ours.

use super::attention_map::{Params, gpu_pixel_sums, gpu_slopes, pixel_sums, slope};
use super::case::{Case, Fill, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Shape, Tensor};
use rayon::prelude::*;

const OP: &str = "attention_center";
const EPS: f64 = 1e-12;

/// The centre `[n 2]` (from the top, from the left) of `x[n h w c]`, F32 (F64 on the CPU), with exponent `p >= 1`. Gradients
/// flow to `x`, which is saved. Errors on another rank, an empty tensor or `p < 1`.
pub fn attention_center(tape: &mut Tape, x: &Var, p: f32) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    crate::ensure_op!(p >= 1.0 && p.is_finite(), OP, "the exponent must be >= 1, got {p}");
    crate::ensure_op!((1..=1 << 30).contains(&(n * h * w * c)), OP, "cannot take a centre of {}", x.shape());
    let params = Params { n: n as i32, pixels: (h * w) as i32, c: c as i32, channel: 0, p };
    let mut center = Tensor::empty_like(&x.value, [n, 2])?;
    let mut totals = Tensor::empty_like(&x.value, [n])?;
    if let Some(gpu) = x.value.gpu() {
        let sums = Tensor::empty_like(&x.value, [n, h * w])?;
        gpu_pixel_sums(&x.value, &sums, params)?;
        Launch::new("attention_center_fwd_f32")
            .grid([n as u32, 1, 1])
            .block([256, 1, 1])
            .ptr(sums.address())
            .ptr(center.address())
            .ptr(totals.address())
            .val(h as i32)
            .val(w as i32)
            .run(gpu)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let out = center.host_mut::<T>().par_chunks_mut(2).zip(totals.host_mut::<T>());
            x.value.host::<T>().par_chunks(h * w * c).zip(out).for_each(|(x, (center, total))| {
                *total = forward(x, center, [h, w, c], p);
            });
            Ok(())
        })?;
    }
    let op = AttentionCenterOp { x: x.value.clone(), center: center.clone(), totals, params };
    Ok(tape.record_one(op, &[x], center))
}

/// Writes one image's centre and returns `Q`.
fn forward<T: Real>(x: &[T], center: &mut [T], [h, w, c]: [usize; 3], p: f32) -> T {
    let mut q = vec![T::zero(); h * w];
    vectorize(
        #[inline(always)]
        || pixel_sums(x, &mut q, c, p),
    );
    let (mut total, mut u, mut v) = (0.0, 0.0, 0.0);
    for (i, row) in q.chunks_exact(w).enumerate() {
        let sum: f64 = row.iter().map(|q| q.f64()).sum();
        total += sum;
        u += sum * position(i, h);
        v += row.iter().enumerate().map(|(j, q)| q.f64() * position(j, w)).sum::<f64>();
    }
    // A sum that is not a number is not small, and stays what it is.
    let middle = total <= EPS;
    center[0] = T::of(if middle { 0.5 } else { u / total });
    center[1] = T::of(if middle { 0.5 } else { v / total });
    T::of(total)
}

fn position(i: usize, length: usize) -> f64 {
    (i as f64 + 0.5) / length as f64
}

struct AttentionCenterOp {
    x: Tensor,
    center: Tensor,
    totals: Tensor,
    params: Params,
}

impl Op for AttentionCenterOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(g) = cx.grad(0) else { return Ok(()) };
        let Self { x, center, totals, params } = *self;
        let [n, h, w, c] = x.shape().nhwc(OP)?;
        let mut dx = Tensor::empty_like(&x, x.shape())?;
        if let Some(gpu) = x.gpu() {
            let dq = Tensor::empty_like(&x, [n, h * w])?;
            Launch::over("attention_center_bwd_f32", dq.len(), 256)
                .ptr(center.address())
                .ptr(totals.address())
                .ptr(g.address())
                .ptr(dq.address())
                .val([n, h, w].map(|v| v as i32))
                .run(gpu)?;
            gpu_slopes(&x, &dq, &dx, params)?;
        } else {
            crate::for_real!(OP, x.dtype(), T => {
                let per_image = center.host::<T>().par_chunks(2).zip(g.host::<T>().par_chunks(2)).zip(totals.host::<T>());
                let pixels = dx.host_mut::<T>().par_chunks_mut(h * w * c).zip(x.host::<T>().par_chunks(h * w * c));
                pixels.zip(per_image).for_each(|((dx, x), ((center, g), total))| {
                    backward(dx, x, [center, g], *total, [h, w, c], params.p);
                });
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

fn backward<T: Real>(dx: &mut [T], x: &[T], [center, g]: [&[T]; 2], total: T, [h, w, c]: [usize; 3], p: f32) {
    if total.f64() <= EPS {
        return dx.fill(T::zero());
    }
    let pixels = dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate();
    vectorize(
        #[inline(always)]
        || {
            for (pixel, (dx, x)) in pixels {
                let (u, v) = (T::of(position(pixel / w, h)), T::of(position(pixel % w, w)));
                let dq = ((u - center[0]) * g[0] + (v - center[1]) * g[1]) / total;
                dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = slope(*x, p) * dq);
            }
        },
    );
}

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], p: f32| {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![attention_center(t, &v[0], p)?]);
        let shape = Shape::from(shape);
        let n = shape.elements() as f64;
        // Away from the kink at 0.
        let input = Input::grad(shape).fill(Fill::Away { scale: 1.0, step: 100.0, gap: 0.05 });
        Case::new(format!("p{p}_{shape}"), vec![input], run)
            .reduction(shape.elements() / shape[0])
            .cost(2.0 * n, 4.0 * n)
    };
    let mut cases = Vec::new();
    for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 17, 16, 37]] {
        for p in [1.0, 2.0, 3.0] {
            // One pixel is its own centre: the gradient is 0 but for rounding, and so is what it is compared with.
            let case = case(shape, p);
            cases.push(if shape[1] * shape[2] == 1 {
                Case { inputs: vec![Input::plain(shape)], ..case }
            } else {
                case
            });
        }
    }
    // Powers of f32 are good to a few units.
    cases.push(case([2, 3, 3, 5], 2.5).slack(2.0));
    cases.push(case([64, 8, 8, 64], 2.0).bench());
    cases.push(case([16, 7, 7, 512], 2.0).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn a_single_bright_pixel_is_the_center_and_nothing_is_the_middle() {
        let mut x = vec![0f32; 2 * 4 * 5 * 3];
        x[(2 * 5 + 3) * 3 + 1] = -7.0;
        for device in [Some(Device::cpu()), Device::emulator().ok()].into_iter().flatten() {
            let mut tape = Tape::new(&device);
            let x = tape.leaf(Tensor::from_slice(&device, [2, 4, 5, 3], &x).unwrap());
            let y = attention_center(&mut tape, &x, 2.0).unwrap();
            let values = y.value.to_vec::<f32>().unwrap();
            for (got, want) in values.iter().zip([0.625, 0.7, 0.5, 0.5]) {
                assert!((got - want).abs() < 1e-6, "{values:?}");
            }
            let ones = Tensor::from_slice(&device, [2, 2], &[1f32; 4]).unwrap();
            let dx = tape.backward_from(&[(&y, ones)]).unwrap().of(&x).unwrap().to_vec::<f32>().unwrap();
            assert!(dx[60..].iter().all(|v| *v == 0.0), "the gradient of an image of zeros");
        }
    }
}
