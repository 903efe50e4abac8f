//! Correlation between the samples of a batch, to be inhibited (DSG's SCI, Qin et al. 2023).
//!
//! `mean_{i != j} (S_ij - R_ij)^2` with the cosines `S_ij = x_i . x_j / (|x_i| |x_j|)` of flattened samples; `R` is 0, or the
//! cosines of a reference batch (noise). Gradient `dx_i = 4 / (n (n - 1) |x_i|) (sum_j D_ij u_j - (sum_j D_ij S_ij) u_i)`,
//! `D = S - R`, `u = x / |x|`, sums over `j != i`. Samples of length 0 correlate with none and are not moved.
//!
//! A reconstruction: the released code compares eigenvalues and eigenvectors of `S` with those of noise, but cuts them off
//! from the graph, so that its term acts on nothing; [`released_value`] computes that number, for logs.

use super::case::{Case, Fill, Input};
use super::row_loss;
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

const OP: &str = "correlation_inhibition";
/// (Product of) lengths below which samples have no direction, mirrored in the kernels.
const NO_LENGTH: f64 = 1e-20;

/// Kernel parameters, mirrored in `kernels/correlation_inhibition.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight: f64,
    slope: f64,
    n: i32,
    d: i32,
}

fn samples(x: &Tensor) -> Result<[usize; 2]> {
    let n = x.shape().first().copied().unwrap_or(0);
    let fits = (1..=4096).contains(&n) && (1..=1 << 30).contains(&x.len());
    crate::ensure_op!(fits, OP, "expected [n, ..] with 1 to 4096 samples, got {}", x.shape());
    Ok([n, x.len() / n])
}

/// The scalar loss `[1]` of `x[n, ...]` (rows flattened; F32, F64 on the CPU), against the constant `reference` of the same
/// shape if given. Gradient to `x`. One sample costs 0. Saves `x` and `n^2` numbers.
pub fn correlation_inhibition(tape: &mut Tape, x: &Var, reference: Option<&Tensor>) -> Result<Var> {
    let [n, d] = samples(&x.value)?;
    if let Some(r) = reference {
        row_loss::check_like(OP, "the reference", r, &x.value)?;
    }
    let pairs = (n * (n - 1)).max(1) as f64;
    let p = Params { weight: 1.0 / pairs, slope: 4.0 / pairs, n: n as i32, d: d as i32 };
    let gram = gram(&x.value)?;
    let reference = reference.map(self::gram).transpose()?;
    let mut mix = Tensor::empty_like(&x.value, [n, n])?;
    let mut loss = Tensor::empty_like(&x.value, [1])?;
    if let Some(gpu) = x.value.gpu() {
        let row_losses = Tensor::empty(tape.device(), [n], DType::F64)?;
        Launch::new("correlation_inhibition_rows_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(gram.address())
            .ptr(reference.as_ref().map_or(0, Tensor::address))
            .ptr(row_losses.address())
            .ptr(mix.address())
            .val(p)
            .run(gpu)?;
        row_loss::sum_on_gpu(&row_losses, &loss)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let gram = gram.host::<f64>();
            let reference = reference.as_ref().map(|r| r.host::<f64>());
            let mut slopes = [Some(mix.clone())];
            let sum = row_loss::on_cpu::<T>(n, n, &mut slopes, |i, mix| row(gram, reference, i, p, mix));
            mix = slopes[0].take().expect("just given");
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(tape.record_one(CorrelationOp { x: x.value.clone(), mix }, &[x], loss))
}

/// `x_i . x_j` of all rows, `[n, n]` F64.
fn gram(x: &Tensor) -> Result<Tensor> {
    let [n, d] = samples(x)?;
    let mut gram = Tensor::empty(&x.device(), [n, n], DType::F64)?;
    if let Some(gpu) = x.gpu() {
        Launch::new("correlation_inhibition_gram_f32")
            .grid([n as u32, n as u32, 1])
            .block([128, 1, 1])
            .ptr(x.address())
            .ptr(gram.address())
            .val(n as i32)
            .val(d as i32)
            .run(gpu)?;
        return Ok(gram);
    }
    crate::for_real!(OP, x.dtype(), T => {
        let x = x.host::<T>();
        // Both triangles: equal, as products commute, and rows stay independent.
        gram.host_mut::<f64>().par_chunks_mut(n).enumerate().for_each(|(i, row)| {
            for (g, other) in row.iter_mut().zip(x.chunks_exact(d)) {
                *g = vectorize(#[inline(always)] || dot(&x[i * d..][..d], other));
            }
        });
        Ok(())
    })?;
    Ok(gram)
}

#[inline(always)]
fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0f64; LANES];
    let (a_whole, b_whole) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (s, (a, b)) in sums.iter_mut().zip(a_whole.remainder().iter().zip(b_whole.remainder())) {
        *s = a.f64() * b.f64();
    }
    for (a, b) in a_whole.zip(b_whole) {
        for i in 0..LANES {
            sums[i] += a[i].f64() * b[i].f64();
        }
    }
    sums.iter().sum()
}

fn cosine(gram: &[f64], i: usize, j: usize, n: usize) -> f64 {
    let lengths = gram[i * n + i].sqrt() * gram[j * n + j].sqrt();
    if lengths > NO_LENGTH { gram[i * n + j] / lengths } else { 0.0 }
}

fn row(gram: &[f64], reference: Option<&[f64]>, i: usize, p: Params, mix: &mut [f64]) -> f64 {
    let n = p.n as usize;
    let own = gram[i * n + i];
    let (mut loss, mut along) = (0.0, 0.0);
    for j in (0..n).filter(|&j| j != i) {
        let s = cosine(gram, i, j, n);
        let d = s - reference.map_or(0.0, |r| cosine(r, i, j, n));
        let lengths = own.sqrt() * gram[j * n + j].sqrt();
        loss += d * d;
        along += d * s;
        mix[j] = if lengths > NO_LENGTH { p.slope * d / lengths } else { 0.0 };
    }
    mix[i] = if own > NO_LENGTH { -p.slope * along / own } else { 0.0 };
    p.weight * loss
}

struct CorrelationOp {
    x: Tensor,
    mix: Tensor,
}

impl Op for CorrelationOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let [n, d] = samples(&self.x)?;
        let mut dx = Tensor::empty_like(&self.x, self.x.shape())?;
        if let Some(gpu) = dx.gpu() {
            Launch::new("correlation_inhibition_bwd_f32")
                .grid([d.div_ceil(128) as u32, n as u32, 1])
                .block([128, 1, 1])
                .ptr(self.x.address())
                .ptr(self.mix.address())
                .ptr(dy.address())
                .ptr(dx.address())
                .val(n as i32)
                .val(d as i32)
                .run(gpu)?;
        } else {
            crate::for_real!(OP, dx.dtype(), T => {
                let (x, mix, dy) = (self.x.host::<T>(), self.mix.host::<T>(), dy.host::<T>()[0]);
                dx.host_mut::<T>().par_chunks_mut(d).zip(mix.par_chunks(n)).for_each(|(dx, mix)| {
                    vectorize(#[inline(always)] || {
                        dx.fill(T::of(0.0));
                        for (m, x) in mix.iter().zip(x.chunks_exact(d)) {
                            let m = *m * dy;
                            dx.iter_mut().zip(x).for_each(|(dx, x)| *dx += m * *x);
                        }
                    });
                });
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

/// What the released code of DSG adds as its SCI, without gradient there and here: `1e-4 MSE(l, l') + |sum_i minmax(l')_i
/// (-v_i . v'_i)|` with eigenvalues `l` and vectors `v` of the cosines of `x` and `l'`, `v'` of those of `noise` (same
/// shape). There the order and signs of the vectors are arbitrary; here eigenvalues descend and the entry of a vector that
/// is largest in magnitude is positive. Host arithmetic: waits for the device, `n^3` operations.
pub fn released_value(x: &Tensor, noise: &Tensor) -> Result<f64> {
    row_loss::check_like(OP, "noise", noise, x)?;
    let [n, _] = samples(x)?;
    let spectrum = |t: &Tensor| -> Result<Vec<(f64, Vec<f64>)>> {
        let gram = gram(t)?.to_vec::<f64>()?;
        Ok(eigen((0..n * n).map(|at| cosine(&gram, at / n, at % n, n)).collect(), n))
    };
    let (of_x, of_noise) = (spectrum(x)?, spectrum(noise)?);
    let (low, high) = (of_noise[n - 1].0, of_noise[0].0);
    let mut distance = 0.0;
    let mut overlap = 0.0;
    for ((l, v), (m, u)) in of_x.iter().zip(&of_noise) {
        distance += (l - m).powi(2) / n as f64;
        let weight = if high > low { (m - low) / (high - low) } else { 0.0 };
        overlap -= weight * v.iter().zip(u).map(|(a, b)| a * b).sum::<f64>();
    }
    Ok(1e-4 * distance + overlap.abs())
}

/// Eigenvalues, descending, and unit eigenvectors of a symmetric matrix `[n, n]`: cyclic Jacobi rotations.
fn eigen(mut a: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    // Rows of `v` become the eigenvectors.
    let mut v: Vec<f64> = (0..n * n).map(|at| if at / n == at % n { 1.0 } else { 0.0 }).collect();
    for _ in 0..50 {
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
        if off <= 1e-24 * n as f64 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let t = if theta >= 0.0 { 1.0 } else { -1.0 } / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                for m in [&mut a, &mut v] {
                    for k in 0..n {
                        let (x, y) = (m[p * n + k], m[q * n + k]);
                        (m[p * n + k], m[q * n + k]) = (c * x - s * y, s * x + c * y);
                    }
                }
            }
        }
    }
    let mut pairs: Vec<(f64, Vec<f64>)> = v
        .chunks_exact(n)
        .enumerate()
        .map(|(i, v)| {
            let largest = v.iter().fold(0f64, |m, x| if x.abs() > m.abs() { *x } else { m });
            (a[i * n + i], v.iter().map(|x| x * largest.signum()).collect())
        })
        .collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![correlation_inhibition(t, &v[0], None)?]);
    let noise = |t: &mut Tape, v: &[Var]| Ok(vec![correlation_inhibition(t, &v[0], Some(&v[1].value))?]);
    let mut cases = Vec::new();
    for shape in [&[1usize, 1][..], &[2, 3], &[5, 131], &[3, 2, 5, 3], &[7, 1, 1, 37]] {
        let name = crate::tensor::Shape::from(shape);
        cases.push(Case::new(format!("{name}"), vec![Input::grad(shape)], run).reduction(shape[0]));
        let inputs = vec![Input::grad(shape), Input::plain(shape)];
        cases.push(Case::new(format!("noise_{name}"), inputs, noise).reduction(shape[0]));
    }
    // Images that hardly differ: what is to be inhibited. The gradient is what remains of terms that nearly cancel
    // (cosines near 1, differences of 5 %), so their rounding shows 20 to 200 times larger.
    let alike = Input::grad([4, 5, 5, 3]).fill(Fill::Uniform { low: 1.0, high: 1.2 });
    cases.push(Case::new("alike", vec![alike], run).reduction(4).slack(200.0));
    cases.push(
        Case::new("200x32x32x3", vec![Input::grad([200, 32, 32, 3])], run).reduction(200).cost(1.2e8, 5e6).bench(),
    );
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn gradients_flow_and_a_step_against_them_helps() {
        let d = Device::cpu();
        let mut values: Vec<f32> = vec![1.0, 0.2, 0.0, 1.0, 0.0, 0.3, 1.0, 0.1, 0.1];
        let mut before = f64::INFINITY;
        for _ in 0..5 {
            let mut tape = Tape::new(&d);
            let x = tape.leaf(Tensor::from_slice(&d, [3, 3], &values).unwrap());
            let loss = correlation_inhibition(&mut tape, &x, None).unwrap();
            let now = loss.value.item().unwrap();
            assert!(now < before, "{now} {before}");
            before = now;
            let g = tape.backward(&loss).unwrap().of(&x).unwrap().to_f64().unwrap();
            assert!(g.iter().map(|g| g * g).sum::<f64>() > 1e-3);
            values.iter_mut().zip(g).for_each(|(v, g)| *v -= 0.1 * g as f32);
        }
    }

    #[test]
    fn eigenvectors_are_those_of_the_matrix() {
        let n = 7;
        let a: Vec<f64> = (0..n * n).map(|at| (((at / n) * (at % n) + at / n + at % n) % 5) as f64).collect();
        let pairs = eigen(a.clone(), n);
        for (l, v) in &pairs {
            for i in 0..n {
                let av: f64 = (0..n).map(|j| a[i * n + j] * v[j]).sum();
                assert!((av - l * v[i]).abs() < 1e-9, "{av} {l}");
            }
        }
        assert!(pairs.windows(2).all(|w| w[0].0 >= w[1].0));
    }

    #[test]
    fn the_released_value_of_noise_against_itself() {
        let d = Device::cpu();
        let noise = crate::ops::random::normal(&d, [6, 50], 1, 2).unwrap();
        // Equal spectra; each vector overlaps with itself: the sum of the scaled eigenvalues, of which the largest is 1.
        let value = released_value(&noise, &noise).unwrap();
        assert!((1.0..6.0).contains(&value), "{value}");
    }
}
