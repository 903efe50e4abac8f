//! Entropies `H_b = -sum_c p log p`, `p = softmax(x_b / T)`, of rows of logits; `dH/dx = -p (log p + H) / T`.
//!
//! The losses of AdaSG and AdaDFQ (Qian et al. 2023) are these of the difference `a - b` of teacher's and student's logits
//! (`elementwise::sub`), whose entropy is large where they agree:
//! - student: `-T^2` times [`mean_entropy`] of `a - b`, `a` constant;
//! - generator: [`entropy_margin`] of `a - b`, plus cross entropies of `a - b` (disagreement) and `a + b` (agreement) with
//!   the labels; gradients to both networks' logits.

use super::case::{Case, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "entropy";

/// Kernel parameters, mirrored in `kernels/entropy.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    inverse_temperature: f64,
    low: f64,
    high: f64,
    most: f64,
    n: i32,
    c: i32,
}

/// Mean over rows of `H_b` (nats) of `logits[n, c]`: a scalar `[1]`; F32 (F64 on the CPU).
pub fn mean_entropy(tape: &mut Tape, logits: &Var, temperature: f32) -> Result<Var> {
    let t = f64::from(temperature);
    crate::ensure_op!(t > 0.0, OP, "temperature must be > 0, got {t}");
    loss(tape, logits, 1.0 / t, None)
}

/// `mean_b(max(low - H'_b, 0) + max(H'_b - high, 0))` with `H' = (H - min H) / (log c - min H)`, the minimum over the batch:
/// a scalar `[1]` of `logits[n, c]`, `T = 1`; F32 (F64 on the CPU). The minimum is differentiated too, as in the released
/// code (the first row of equals). Rows that are all flat have `H' = 1` and no gradient. AdaDFQ's bounds: 0.1 (ResNet-50
/// 0.4) and 0.8; AdaSG's 0.3 and 0.8. Errors unless `low <= high`.
pub fn entropy_margin(tape: &mut Tape, logits: &Var, low: f32, high: f32) -> Result<Var> {
    crate::ensure_op!(low <= high, OP, "bounds {low} and {high} are not in order");
    loss(tape, logits, 1.0, Some([f64::from(low), f64::from(high)]))
}

fn loss(tape: &mut Tape, logits: &Var, inverse_temperature: f64, bounds: Option<[f64; 2]>) -> Result<Var> {
    let x = &logits.value;
    let [n, c] = row_loss::rows_of(OP, x)?;
    let [low, high] = bounds.unwrap_or_default();
    let p = Params { inverse_temperature, low, high, most: (c as f64).ln(), n: n as i32, c: c as i32 };
    let mut slopes = row_loss::slopes(tape, &[logits])?;
    let mut loss = Tensor::empty_like(x, [1])?;
    if let Some(gpu) = x.gpu() {
        let stats = Tensor::empty(tape.device(), [n, 3], DType::F64)?;
        let pull = Tensor::empty(tape.device(), [n], DType::F64)?;
        let rows = |kernel| Launch::new(kernel).grid([n as u32, 1, 1]).block([128, 1, 1]).ptr(x.address());
        rows("entropy_rows_f32").ptr(stats.address()).val(p).run(gpu)?;
        Launch::new(if bounds.is_some() { "entropy_margin_f32" } else { "entropy_mean_f32" })
            .block([256, 1, 1])
            .ptr(stats.address())
            .ptr(loss.address())
            .ptr(pull.address())
            .val(p)
            .run(gpu)?;
        if let Some(slope) = &slopes[0] {
            let launch = rows("entropy_slope_f32").ptr(stats.address()).ptr(pull.address());
            launch.ptr(slope.address()).val(p).run(gpu)?;
        }
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let x = x.host::<T>();
            let stats: Vec<[f64; 2]> = x.chunks_exact(c).map(|x| entropy(x, inverse_temperature)).collect();
            let (value, pull) = match bounds {
                Some(_) => margin(&stats, p),
                None => (stats.iter().map(|s| s[0]).sum::<f64>() / n as f64, vec![1.0 / n as f64; n]),
            };
            loss.host_mut::<T>()[0] = T::of(value);
            if let Some(slope) = &mut slopes[0] {
                for (b, (out, x)) in slope.host_mut::<T>().chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate() {
                    let [entropy, shift] = stats[b];
                    let scale = -pull[b] * inverse_temperature;
                    for (out, x) in out.iter_mut().zip(x) {
                        let log_p = x.f64() * inverse_temperature - shift;
                        *out = T::of(scale * log_p.exp() * (log_p + entropy));
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &[logits], slopes, loss))
}

/// Entropy, and the log of the sum of exponentials.
fn entropy<T: Real>(x: &[T], inverse_temperature: f64) -> [f64; 2] {
    let top = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(v.f64() * inverse_temperature));
    let (mut sum, mut dot) = (0.0, 0.0);
    for x in x {
        let v = x.f64() * inverse_temperature - top;
        sum += v.exp();
        dot += v.exp() * v;
    }
    [sum.ln() - dot / sum, top + sum.ln()]
}

/// The margin loss and its gradient to each entropy.
fn margin(stats: &[[f64; 2]], p: Params) -> (f64, Vec<f64>) {
    let least = stats.iter().map(|s| s[0]).fold(f64::INFINITY, f64::min);
    let first = stats.iter().position(|s| s[0] == least);
    let range = p.most - least;
    // Also for entropies that are not numbers.
    let flat = range.is_nan() || range <= 1e-9;
    let (mut sum, mut on_least) = (0.0, 0.0);
    let n = stats.len() as f64;
    let mut pull: Vec<f64> = stats
        .iter()
        .map(|s| {
            let share = if flat { 1.0 } else { (s[0] - least) / range };
            let side = if share < p.low {
                -1.0
            } else if share > p.high {
                1.0
            } else {
                0.0
            };
            sum += (p.low - share).max(0.0) + (share - p.high).max(0.0);
            let g = if flat { 0.0 } else { side / (range * n) };
            on_least += g * (share - 1.0);
            g
        })
        .collect();
    if let Some(first) = first {
        pull[first] += on_least;
    }
    (sum / n, pull)
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [n, c] in [[1, 1], [3, 7], [5, 10], [7, 2], [2, 131], [300, 3]] {
        for temperature in [1.0, 20.0] {
            let run = move |t: &mut Tape, v: &[Var]| Ok(vec![mean_entropy(t, &v[0], temperature)?]);
            cases.push(Case::new(format!("mean_t{temperature}_{n}x{c}"), vec![Input::grad([n, c])], run));
        }
        let run = |t: &mut Tape, v: &[Var]| Ok(vec![entropy_margin(t, &v[0], 0.3, 0.6)?]);
        cases.push(Case::new(format!("margin_{n}x{c}"), vec![Input::grad([n, c])], run));
    }
    // As the generator sees it: gradients to both networks.
    let run = |t: &mut Tape, v: &[Var]| {
        let d = super::elementwise::sub(t, &v[0], &v[1])?;
        Ok(vec![entropy_margin(t, &d, 0.1, 0.8)?])
    };
    cases.push(Case::new("margin_of_difference_5x7", vec![Input::grad([5, 7]), Input::grad([5, 7])], run));
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![entropy_margin(t, &v[0], 0.1, 0.8)?]);
    cases.push(Case::new("margin_200x100", vec![Input::grad([200, 100])], run).cost(4e5, 1.6e5).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn flat_rows_have_the_largest_entropy() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let x = tape.leaf(Tensor::zeros(&d, [3, 5], DType::F64).unwrap());
        let h = mean_entropy(&mut tape, &x, 2.0).unwrap().value.item().unwrap();
        assert!((h - 5f64.ln()).abs() < 1e-12);
        let m = entropy_margin(&mut tape, &x, 0.1, 0.75).unwrap();
        assert!((m.value.item().unwrap() - 0.25).abs() < 1e-12);
        let g = tape.backward(&m).unwrap().of(&x).unwrap().to_f64().unwrap();
        assert!(g.iter().all(|g| *g == 0.0));
    }

    #[test]
    fn certain_rows_have_none() {
        let d = Device::cpu();
        let mut tape = Tape::inference(&d);
        let x = Var::constant(Tensor::from_slice(&d, [1, 3], &[1e4f32, 0.0, -1e4]).unwrap());
        assert_eq!(mean_entropy(&mut tape, &x, 1.0).unwrap().value.item().unwrap(), 0.0);
        assert!(entropy_margin(&mut tape, &x, 0.8, 0.1).is_err());
    }
}
