//! Gaussian low-pass filter of images: `F^-1(G . F(x))`, `G = exp(-D^2 / (2 D0^2))`, `D` the distance from the centre of
//! the shifted spectrum in frequency indices (SynQ, Kim et al., ICLR 2025). Every image and channel by itself.
//!
//! `D^2 = f^2 + g^2` with the signed frequencies `f`, `g` of rows and columns (`-h/2 .. h/2 - 1` for even `h`,
//! `-(h-1)/2 .. (h-1)/2` for odd), so `G` is a product of one factor per axis, and multiplying a spectrum is a cyclic
//! convolution: `y = A_h x A_w^T`, `A_h[i, j] = k_h[(i - j) mod h]`, `k_h[d] = (1/h) sum_f exp(-f^2 / (2 D0^2)) cos(2 pi f d / h)`.
//! The sines cancel because the factor is even in `f` (and `f = -h/2` has none), hence `k` is real and even, `A` symmetric,
//! and the gradient is the filter itself. Two passes of `h` and `w` products per pixel; no Fourier transform is needed.

use super::case::{Case, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

const OP: &str = "low_pass";

/// `x[n h w c]` without its high frequencies: those `d0` indices from the centre keep `exp(-1/2)` of their amplitude, the
/// mean of each channel stays. F32 (F64 on the CPU), any `n h w c`. Gradients flow to `x`; nothing but two small tables is
/// saved. Errors on other shapes or dtypes and unless `d0` is finite and above 0.
pub fn low_pass(tape: &mut Tape, x: &Var, d0: f32) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    crate::ensure_op!(d0.is_finite() && d0 > 0.0, OP, "D0 must be finite and above 0, got {d0}");
    let elements = n * h * w * c;
    crate::ensure_op!((1..=1 << 30).contains(&elements), OP, "cannot filter {}", x.shape());
    let tables = [h, w].map(|length| table(length, f64::from(d0)));
    let y = filter(&x.value, &tables)?;
    Ok(tape.record_one(LowPassOp { tables }, &[x], y))
}

struct LowPassOp {
    tables: [Vec<f64>; 2],
}

impl Op for LowPassOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        cx.give(0, filter(&dy, &self.tables)?)
    }
}

/// `k[(i - j) mod length]` at `i - j + length - 1`: every difference of two positions, so that no pass needs a modulus.
fn table(length: usize, d0: f64) -> Vec<f64> {
    let size = length as i64;
    let kernel = |d: i64| {
        let frequencies = -size / 2..(size + 1) / 2;
        let terms = frequencies.map(|f| {
            let gain = (-((f * f) as f64) / (2.0 * d0 * d0)).exp();
            // Reduced first: the angle stays exact for long axes.
            gain * (std::f64::consts::TAU * (f * d).rem_euclid(size) as f64 / size as f64).cos()
        });
        terms.sum::<f64>() / size as f64
    };
    let one: Vec<f64> = (0..size).map(kernel).collect();
    (1 - size..size).map(|d| one[d.rem_euclid(size) as usize]).collect()
}

/// Both passes.
fn filter(x: &Tensor, tables: &[Vec<f64>; 2]) -> Result<Tensor> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    let mut y = Tensor::empty_like(x, x.shape())?;
    if x.gpu().is_some() {
        let rows = Tensor::empty_like(x, x.shape())?;
        axis_on_gpu(x, &rows, &tables[0], w * c)?;
        axis_on_gpu(&rows, &y, &tables[1], c)?;
        return Ok(y);
    }
    crate::for_real!(OP, x.dtype(), T => {
        let [down, across] = tables.each_ref().map(|t| t.iter().map(|v| T::of(*v)).collect::<Vec<T>>());
        let size = h * w * c;
        y.host_mut::<T>().par_chunks_mut(size).zip(x.host::<T>().par_chunks(size)).for_each(|(y, x)| {
            let mut turned = vec![T::of(0.0); size];
            axis(x, y, &down, w * c);
            // With rows innermost the second pass runs over long lines too.
            transpose(y, &mut turned, w * c);
            axis(&turned, y, &across, c * h);
            transpose(y, &mut turned, h);
            y.copy_from_slice(&turned);
        });
        debug_assert_eq!(n * size, x.len());
        Ok(())
    })?;
    Ok(y)
}

/// `y[i, r] = sum_j table[i - j] x[j, r]`, lines of `inner` elements.
fn axis<T: Real>(x: &[T], y: &mut [T], table: &[T], inner: usize) {
    let last = x.len() / inner - 1;
    vectorize(
        #[inline(always)]
        || {
            for (i, y) in y.chunks_exact_mut(inner).enumerate() {
                y.fill(T::zero());
                for (j, x) in x.chunks_exact(inner).enumerate() {
                    let k = table[last + i - j];
                    y.iter_mut().zip(x).for_each(|(y, x)| *y += k * *x);
                }
            }
        },
    );
}

/// `y[b, a] = x[a, b]`, `columns` of x.
fn transpose<T: Real>(x: &[T], y: &mut [T], columns: usize) {
    let rows = x.len() / columns;
    for (b, y) in y.chunks_exact_mut(rows).enumerate() {
        for (a, y) in y.iter_mut().enumerate() {
            *y = x[a * columns + b];
        }
    }
}

/// One thread per element; `inner` elements lie between neighbours along the axis.
fn axis_on_gpu(x: &Tensor, y: &Tensor, table: &[f64], inner: usize) -> Result<()> {
    let host: Vec<f32> = table.iter().map(|v| *v as f32).collect();
    let on_device = Tensor::from_slice(&x.device(), [host.len()], &host)?;
    Launch::over("low_pass_axis_f32", x.len(), 256)
        .ptr(x.address())
        .ptr(on_device.address())
        .ptr(y.address())
        .val(x.len() as i32)
        .val((host.len() as i32 + 1) / 2)
        .val(inner as i32)
        .run(x.gpu().expect("called for GPU tensors"))
}

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], d0: f32| {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![low_pass(t, &v[0], d0)?]);
        let [n, h, w, c] = shape;
        let elements = (n * h * w * c) as f64;
        Case::new(format!("{}_d{d0}", crate::tensor::Shape::from(shape)), vec![Input::grad(shape)], run)
            .reduction(h + w)
            .cost(2.0 * elements * (h + w) as f64, 8.0 * elements)
    };
    vec![
        case([1, 1, 1, 1], 20.0),
        case([2, 5, 7, 3], 1.5),
        case([3, 8, 6, 3], 2.0),
        case([1, 13, 1, 11], 0.25),
        case([2, 2, 17, 5], 80.0),
        case([1, 11, 4, 37], 3.0),
        case([64, 32, 32, 3], 20.0).bench(),
        case([16, 224, 224, 3], 80.0).bench(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use std::f64::consts::TAU;

    /// The definition: transform, shift, multiply, shift back, transform back, of one image of one channel. Real and
    /// imaginary part of each pixel.
    fn by_transform(x: &[f64], h: usize, w: usize, d0: f64) -> Vec<[f64; 2]> {
        let wave = |values: &[[f64; 2]], u: usize, v: usize, sign: f64| {
            let mut sum = [0f64; 2];
            for (i, [re, im]) in values.iter().enumerate() {
                let turns = (u * (i / w)) as f64 / h as f64 + (v * (i % w)) as f64 / w as f64;
                let (sin, cos) = (sign * TAU * turns).sin_cos();
                sum = [sum[0] + re * cos - im * sin, sum[1] + re * sin + im * cos];
            }
            sum
        };
        let image: Vec<[f64; 2]> = x.iter().map(|v| [*v, 0.0]).collect();
        let mut spectrum = vec![[0f64; 2]; h * w];
        for u in 0..h {
            for v in 0..w {
                // Index of the shifted spectrum, whose centre is (h / 2, w / 2).
                let (a, b) = ((u + h / 2) % h, (v + w / 2) % w);
                let (down, across) = (a as f64 - (h / 2) as f64, b as f64 - (w / 2) as f64);
                let gain = (-(down * down + across * across) / (2.0 * d0 * d0)).exp();
                spectrum[u * w + v] = wave(&image, u, v, -1.0).map(|part| part * gain);
            }
        }
        let size = (h * w) as f64;
        (0..h * w).map(|i| wave(&spectrum, i / w, i % w, 1.0).map(|part| part / size)).collect()
    }

    #[test]
    fn equals_the_fourier_transform() {
        let d = Device::cpu();
        for (h, w, d0) in [(1, 1, 3.0f32), (4, 6, 1.25), (5, 7, 2.0), (8, 5, 20.0), (3, 4, 0.5), (2, 9, 0.75)] {
            let values: Vec<f64> = (0..h * w).map(|i| ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0).collect();
            let x = Var::constant(Tensor::from_slice(&d, [1, h, w, 1], &values).unwrap());
            let y = low_pass(&mut Tape::inference(&d), &x, d0).unwrap().value;
            for (i, (got, [re, im])) in
                y.host::<f64>().iter().zip(by_transform(&values, h, w, f64::from(d0))).enumerate()
            {
                assert!(im.abs() < 1e-13 && (got - re).abs() < 1e-13, "{h}x{w} at {i}: {got}, {re} + {im} i");
            }
        }
    }

    #[test]
    fn the_mean_stays_and_a_wide_filter_changes_nothing() {
        let d = Device::cpu();
        let values: Vec<f64> = (0..6 * 8).map(|i| (i * i % 17) as f64).collect();
        let x = Var::constant(Tensor::from_slice(&d, [1, 6, 8, 1], &values).unwrap());
        let mean = values.iter().sum::<f64>() / 48.0;
        let filtered = |d0| low_pass(&mut Tape::inference(&d), &x, d0).unwrap().value;
        // So narrow that only the mean is left.
        assert!(filtered(1e-3).host::<f64>().iter().all(|v| (v - mean).abs() < 1e-12));
        assert!(filtered(1e6).host::<f64>().iter().zip(&values).all(|(a, b)| (a - b).abs() < 1e-9));
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let message = low_pass(&mut Tape::inference(&d), &x, bad).unwrap_err().to_string();
            assert!(message.contains("D0"), "{message}");
        }
    }
}
