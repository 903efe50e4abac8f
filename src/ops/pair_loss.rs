//! Losses that push apart two samples of one condition: rows `i` and `n + i` of `2n` samples.
//!
//! - Mode seeking: `mean_i 1 / (D_i + eps)`, `D = |f1 - f2|_1 / (|z1 - z2|_1 + eps)` with the noises `z` (Mao et al. 2019);
//!   gradient `-+ sign(f1 - f2) / (n (D + eps)^2 (|z1 - z2|_1 + eps))`.
//! - Cosine: `mean_i max(cos(f1, f2) - margin, 0)`.
//!
//! Both are reconstructions of the adversarial loss of paired samples of ACQ (Li et al. 2023), whose text is not public.

use super::case::{Case, Fill, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "pair_loss";
/// Product of lengths below which features have no direction.
const NO_LENGTH: f64 = 1e-20;

/// Which loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PairForm {
    /// `eps` > 0 bounds the loss by `1 / eps`.
    ModeSeeking { eps: f32 },
    /// Pairs cost while the cosine of their features exceeds `margin` (in `-1..1`).
    CosineHinge { margin: f32 },
}

/// Kernel parameters, mirrored in `kernels/pair_loss.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight: f64,
    epsilon: f64,
    margin: f64,
    pairs: i32,
    c: i32,
    d: i32,
    unused: i32,
}

/// The scalar loss `[1]`, mean over pairs, of `features[2n, ...]` (any rank, rows flattened; F32, F64 on the CPU) with the
/// constant noises `z[2n, ...]`, which only mode seeking looks at. Gradient to the features. Errors on an odd number of rows.
pub fn pair_loss(tape: &mut Tape, features: &Var, z: &Tensor, form: PairForm) -> Result<Var> {
    let rows = features.shape().first().copied().unwrap_or(0);
    let size = features.value.len();
    let paired = rows > 0 && rows % 2 == 0 && size > 0 && size <= 1 << 30;
    crate::ensure_op!(paired, OP, "features must be [2n, ..], got {}", features.shape());
    let (c, n) = (size / rows, rows / 2);
    let mode_seeking = matches!(form, PairForm::ModeSeeking { .. });
    let noise = z.shape().first() == Some(&rows) && !z.is_empty() && z.dtype() == features.dtype();
    crate::ensure_op!(noise || !mode_seeking, OP, "noise {:?} {} for {rows} rows", z.dtype(), z.shape());
    let d = if mode_seeking { z.len() / rows } else { 0 };
    let (epsilon, margin) = match form {
        PairForm::ModeSeeking { eps } => (f64::from(eps), 0.0),
        PairForm::CosineHinge { margin } => (NO_LENGTH, f64::from(margin)),
    };
    crate::ensure_op!(epsilon > 0.0 && margin.abs() <= 1.0, OP, "{form:?} has no meaning");
    let p = Params { weight: 1.0 / n as f64, epsilon, margin, pairs: n as i32, c: c as i32, d: d as i32, unused: 0 };
    let x = &features.value;
    let mut slopes = row_loss::slopes(tape, &[features])?;
    let mut loss = Tensor::empty_like(x, [1])?;
    if let Some(gpu) = x.gpu() {
        let row_losses = Tensor::empty(tape.device(), [n], DType::F64)?;
        let kernel = if mode_seeking { "pair_loss_mode_seeking_f32" } else { "pair_loss_cosine_f32" };
        let mut launch = Launch::new(kernel).grid([n as u32, 1, 1]).block([128, 1, 1]).ptr(x.address());
        if mode_seeking {
            launch = launch.ptr(z.address());
        }
        launch.ptr(row_losses.address()).ptr(row_loss::address(&slopes[0])).val(p).run(gpu)?;
        row_loss::sum_on_gpu(&row_losses, &loss)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let f = x.host::<T>();
            // A row's gradient goes to both members of its pair: formed in pairs, then written apart.
            let mut halves = vec![Some(Tensor::empty_like(x, [n, c])?), Some(Tensor::empty_like(x, [n, c])?)];
            let sum = row_loss::on_cpu::<T>(n, c, &mut halves, |i, g| {
                let (a, b) = (&f[i * c..][..c], &f[(n + i) * c..][..c]);
                if mode_seeking {
                    let z = z.host::<T>();
                    mode_seeking_row(a, b, distance(&z[i * d..][..d], &z[(n + i) * d..][..d]), p, g)
                } else {
                    cosine_row(a, b, p, g)
                }
            });
            if let Some(slope) = &mut slopes[0] {
                for (out, half) in slope.host_mut::<T>().chunks_exact_mut(n * c).zip(&halves) {
                    out.copy_from_slice(half.as_ref().expect("just made").host::<T>());
                }
            }
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &[features], slopes, loss))
}

/// L1.
fn distance<T: Real>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a.f64() - b.f64()).abs()).sum()
}

fn mode_seeking_row<T: Real>(a: &[T], b: &[T], noise: f64, p: Params, g: &mut [f64]) -> f64 {
    let noise = noise + p.epsilon;
    let ratio = distance(a, b) / noise + p.epsilon;
    let slope = p.weight / (ratio * ratio * noise);
    let (ga, gb) = g.split_at_mut(a.len());
    for i in 0..a.len() {
        let d = a[i].f64() - b[i].f64();
        ga[i] = if d == 0.0 { 0.0 } else { -slope * d.signum() };
        gb[i] = -ga[i];
    }
    p.weight / ratio
}

fn cosine_row<T: Real>(a: &[T], b: &[T], p: Params, g: &mut [f64]) -> f64 {
    let dot = |a: &[T], b: &[T]| -> f64 { a.iter().zip(b).map(|(a, b)| a.f64() * b.f64()).sum() };
    let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
    let lengths = aa.sqrt() * bb.sqrt();
    // Features without a direction are orthogonal to all, and are not turned.
    let cosine = if lengths > p.epsilon { ab / lengths } else { 0.0 };
    if cosine <= p.margin {
        return 0.0;
    }
    if lengths > p.epsilon {
        let (ga, gb) = g.split_at_mut(a.len());
        for i in 0..a.len() {
            let (u, v) = (a[i].f64(), b[i].f64());
            ga[i] = p.weight * (v / lengths - cosine * u / aa);
            gb[i] = p.weight * (u / lengths - cosine * v / bb);
        }
    }
    p.weight * (cosine - p.margin)
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, form) in [
        ("mode_seeking", PairForm::ModeSeeking { eps: 1e-3 }),
        ("cosine", PairForm::CosineHinge { margin: 0.1 }),
        ("cosine_all", PairForm::CosineHinge { margin: -1.0 }),
    ] {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![pair_loss(t, &v[0], &v[1].value, form)?]);
        for shape in [&[2usize, 1][..], &[6, 5], &[10, 131], &[4, 3, 5, 7]] {
            let mut inputs = vec![Input::grad(shape), Input::plain([shape[0], 11])];
            // One feature has cosine 1 or -1, whose derivative is rounding. (Its gradient is held by a test.)
            if shape[1] == 1 && name != "mode_seeking" {
                inputs[0] = Input::grad([2, 2]).fill(Fill::Values(vec![1.0, 0.5, 0.75, 1.0]));
            }
            cases.push(Case::new(format!("{name}_{}", crate::tensor::Shape::from(shape)), inputs, run));
        }
        if name == "mode_seeking" {
            let inputs = vec![Input::grad([200, 64]), Input::plain([200, 100])];
            cases.push(Case::new("mode_seeking_200x64", inputs, run).cost(1e5, 1.3e5).bench());
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn pairs_are_halves_and_bounds_hold() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let f = tape.leaf(Tensor::from_slice(&d, [4, 2], &[1f32, 0., 0., 1., 1., 0., 0., 3.]).unwrap());
        let z = Tensor::from_slice(&d, [4, 1], &[0f32, 0.0, 2.0, 1.0]).unwrap();
        let eps = 1e-3;
        let loss = pair_loss(&mut tape, &f, &z, PairForm::ModeSeeking { eps }).unwrap().value.item().unwrap();
        // Equal features cost the bound; the other pair has D = 2 / 1.
        assert!((loss - 0.5 * (1e3 + 1.0 / (2.0 / 1.001 + 1e-3))).abs() < 0.01, "{loss}");
        let cosine = pair_loss(&mut tape, &f, &z, PairForm::CosineHinge { margin: 0.5 }).unwrap();
        assert_eq!(cosine.value.item().unwrap(), 0.5);
        let g = tape.backward(&cosine).unwrap().of(&f).unwrap().to_f64().unwrap();
        assert!(g.iter().all(|g| g.abs() < 1e-9), "parallel features are at the maximum: {g:?}");
        let mut tape = Tape::inference(&d);
        let odd = Var::constant(Tensor::zeros(&d, [3, 2], DType::F32).unwrap());
        assert!(pair_loss(&mut tape, &odd, &z, PairForm::ModeSeeking { eps }).is_err());
    }
}
