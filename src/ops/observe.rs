//! Ranges of tensors: smallest and largest value, and their moving average.
//!
//! The moving average keeps the range itself (`lo`, `hi`) and `t = beta^steps`, all on the device, starting at
//! `lo = hi = 0`, `t = 1`. With `v` the batch's value and `t' = t beta`:
//! ```text
//! Textbook   r' = (beta (1 - t) r + (1 - beta) v) / (1 - t')    the bias-corrected average of all values so far
//! Legacy     r' = (beta r + (1 - beta) v) / (1 - t')            GDFQ's code: the correction is applied to the stored
//!                                                               value, so it compounds; right only after ~200 steps
//! ```

use super::case::{Case, GradCheck, Input};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::{Device, Launch};
use crate::quant::Axis;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

/// How a moving average is corrected for its start at zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EmaForm {
    /// The weighted mean of all observed values.
    Textbook,
    /// As in GDFQ's code; overshoots in the first ~200 steps.
    Legacy,
}

/// A moving range on a device. The fields are what a checkpoint must hold.
#[derive(Clone, Debug)]
pub struct EmaState {
    /// Lower ends, `[1]` or `[k]`, F32, ready to quantize with.
    pub lo: Tensor,
    /// Upper ends.
    pub hi: Tensor,
    /// `beta^steps`, `[1]`.
    pub t: Tensor,
}

impl EmaState {
    /// The state before the first update, for `ranges` ranges (1 for [`Axis::Tensor`]).
    pub fn new(device: &Device, ranges: usize) -> Result<Self> {
        Ok(Self {
            lo: Tensor::zeros(device, [ranges], DType::F32)?,
            hi: Tensor::zeros(device, [ranges], DType::F32)?,
            t: Tensor::scalar(device, 1.0)?,
        })
    }
}

const OP: &str = "observe";
/// Elements per task on the CPU.
const PIECE: usize = 1 << 14;
/// Elements per block on a GPU.
const SPAN: usize = 8192;

/// Smallest and largest value of each range of `x` (F32, any shape): `[1]` each, or `[k]` with [`Axis::Outer`]. A NaN in
/// a range makes both NaN, so that it is not hidden. Errors on an empty tensor.
pub fn min_max(x: &Tensor, axis: Axis) -> Result<(Tensor, Tensor)> {
    let [rows, length] = axis.rows(&x.shape());
    crate::ensure_op!(rows * length > 0, OP, "an empty tensor ({}) has no range", x.shape());
    crate::ensure_op!(x.len() <= 1 << 30, OP, "{} has more than 2^30 elements", x.shape());
    let mut lo = Tensor::empty_like(x, [rows])?;
    let mut hi = Tensor::empty_like(x, [rows])?;
    if let Some(gpu) = x.gpu() {
        let pieces = length.div_ceil(SPAN);
        let partial = Tensor::empty_like(x, [rows * pieces * 2])?;
        Launch::new("observe_min_max_f32")
            .grid([pieces as u32, rows.min(65_535) as u32, 1])
            .block([256, 1, 1])
            .ptr(x.address())
            .ptr(partial.address())
            .val(rows as i32)
            .val(length as i32)
            .run(gpu)?;
        Launch::new("observe_finish_f32")
            .grid([rows as u32, 1, 1])
            .block([32, 1, 1])
            .ptr(partial.address())
            .ptr(lo.address())
            .ptr(hi.address())
            .val(pieces as i32)
            .run(gpu)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let (lo, hi) = (lo.host_mut::<T>(), hi.host_mut::<T>());
            lo.par_iter_mut()
                .zip(hi)
                .zip(x.host::<T>().par_chunks(length))
                .with_min_len((PIECE / length).max(1))
                .for_each(|((lo, hi), row)| {
                    let ends = row.par_chunks(PIECE).map(piece).reduce(|| [T::INFINITY, T::NEG_INFINITY], join);
                    [*lo, *hi] = ends;
                });
            Ok(())
        })?;
    }
    Ok((lo, hi))
}

/// Smallest and largest value of a row that one task takes, NaN if one is there.
pub(in crate::ops) fn row_ends<T: Real>(row: &[T]) -> [T; 2] {
    row.chunks(PIECE).map(piece).fold([T::infinity(), T::neg_infinity()], join)
}

/// Ends of two ranges together; exact, so the order does not matter. NaN wins.
fn join<T: Real>([a, b]: [T; 2], [c, d]: [T; 2]) -> [T; 2] {
    if a.is_nan() || c.is_nan() {
        return [T::nan(); 2];
    }
    [if c < a { c } else { a }, if d > b { d } else { b }]
}

fn piece<T: Real>(x: &[T]) -> [T; 2] {
    super::vectorize::vectorize(
        #[inline(always)]
        || {
            const LANES: usize = 32;
            let (mut lo, mut hi) = ([T::infinity(); LANES], [T::neg_infinity(); LANES]);
            let mut broken = [false; LANES];
            let chunks = x.chunks_exact(LANES);
            for (i, v) in chunks.remainder().iter().enumerate() {
                (lo[i], hi[i], broken[i]) = (*v, *v, v.is_nan());
            }
            for v in chunks {
                for i in 0..LANES {
                    lo[i] = if v[i] < lo[i] { v[i] } else { lo[i] };
                    hi[i] = if v[i] > hi[i] { v[i] } else { hi[i] };
                    broken[i] |= v[i].is_nan();
                }
            }
            if broken.contains(&true) {
                return [T::nan(); 2];
            }
            (0..LANES).fold([T::infinity(), T::neg_infinity()], |all, i| join(all, [lo[i], hi[i]]))
        },
    )
}

/// Moves `state` by one observed range (`lo`, `hi` as from [`min_max`]) with decay `beta` in `0..1`. In place, so that a
/// recorded launch sequence moves it on whenever it is replayed: copy the range before a tape holds it. Nothing is waited
/// for. Errors on another number of ranges.
pub fn ema_update(state: &mut EmaState, lo: &Tensor, hi: &Tensor, form: EmaForm, beta: f32) -> Result<()> {
    let n = state.lo.len();
    crate::ensure_op!(
        lo.len() == n && hi.len() == n && lo.dtype() == DType::F32 && hi.dtype() == DType::F32,
        OP,
        "the state has {n} ranges, the observation {} and {}",
        lo.shape(),
        hi.shape()
    );
    crate::ensure_op!((0.0..1.0).contains(&beta), OP, "beta must be in 0..1, got {beta}");
    if let Some(gpu) = lo.gpu() {
        Launch::new("observe_ema_f32")
            .block([256, 1, 1])
            .ptr(state.lo.address())
            .ptr(state.hi.address())
            .ptr(state.t.address())
            .ptr(lo.address())
            .ptr(hi.address())
            .val(n as i32)
            .val(i32::from(form == EmaForm::Legacy))
            .val(beta)
            .run(gpu)?;
    } else {
        let t = state.t.host::<f32>()[0];
        let next = t * beta;
        let keep = if form == EmaForm::Legacy { beta } else { beta * (1.0 - t) };
        for (r, v) in [(&mut state.lo, lo), (&mut state.hi, hi)] {
            for (r, v) in r.host_mut::<f32>().iter_mut().zip(v.host::<f32>()) {
                *r = (keep * *r + (1.0 - beta) * v) / (1.0 - next);
            }
        }
        state.t.host_mut::<f32>()[0] = next;
    }
    Ok(())
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for axis in [Axis::Tensor, Axis::Outer] {
        for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [5, 3, 3, 3], [2, 24, 19, 20], [64, 32, 32, 16]] {
            let run = move |_: &mut Tape, v: &[Var]| {
                let (lo, hi) = min_max(&v[0].value, axis)?;
                Ok(vec![Var::constant(lo), Var::constant(hi)])
            };
            let shape = crate::tensor::Shape::from(shape);
            let n = shape.elements() as f64;
            let name = format!("{axis:?}_{shape}").to_lowercase();
            let case = Case::new(name, vec![Input::plain(shape)], run).check(GradCheck::None).cost(2.0 * n, 4.0 * n);
            cases.push(if n > 1e5 { case.bench() } else { case });
        }
    }
    for form in [EmaForm::Textbook, EmaForm::Legacy] {
        let run = move |t: &mut Tape, v: &[Var]| {
            // The state is F32 on every device, so the oracle rounds its inputs too.
            let f32s = |v: &Var| crate::tensor::init::cast(&v.value, DType::F32);
            let on_cpu = v[0].dtype() == DType::F64;
            let mut state = EmaState::new(&t.device().clone(), 5)?;
            for step in 0..4 {
                let (lo, hi) = (v[step].value.clone(), v[step + 1].value.clone());
                let (lo, hi) = if on_cpu { (f32s(&v[step])?, f32s(&v[step + 1])?) } else { (lo, hi) };
                ema_update(&mut state, &lo, &hi, form, 0.9)?;
            }
            Ok([state.lo, state.hi, state.t].map(Var::constant).to_vec())
        };
        let inputs = (0..5).map(|_| Input::plain([5])).collect();
        cases.push(Case::new(format!("ema_{form:?}").to_lowercase(), inputs, run).check(GradCheck::None));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Device> {
        [Ok(Device::cpu()), Device::emulator()].into_iter().flatten().collect()
    }

    #[test]
    fn a_nan_is_not_hidden_wherever_it_stands() {
        for d in devices() {
            for at in [0, 1, 31, 32, 69] {
                let mut v = vec![1f32; 70];
                v[at] = f32::NAN;
                let (lo, hi) = min_max(&Tensor::from_slice(&d, [2, 35], &v).unwrap(), Axis::Outer).unwrap();
                let (lo, hi) = (lo.to_f64().unwrap(), hi.to_f64().unwrap());
                let row = at / 35;
                assert!(lo[row].is_nan() && hi[row].is_nan());
                assert_eq!((lo[1 - row], hi[1 - row]), (1.0, 1.0));
            }
        }
    }

    /// A constant of 1: the textbook form stays at 1; the compounding one follows the published transient.
    #[test]
    fn constant_input() {
        for d in devices() {
            let (zero, one) = (Tensor::scalar(&d, 0.0).unwrap(), Tensor::scalar(&d, 1.0).unwrap());
            let mut textbook = EmaState::new(&d, 1).unwrap();
            let mut legacy = EmaState::new(&d, 1).unwrap();
            for step in 1..=200 {
                ema_update(&mut textbook, &zero, &one, EmaForm::Textbook, 0.9).unwrap();
                ema_update(&mut legacy, &zero, &one, EmaForm::Legacy, 0.9).unwrap();
                assert!((textbook.hi.item().unwrap() - 1.0).abs() < 1e-5, "step {step}");
                assert_eq!(textbook.lo.item().unwrap(), 0.0);
                let want = [(1, 1.0), (2, 5.26), (3, 17.8), (5, 104.0), (10, 1103.0), (20, 3904.0), (100, 3.6), (200, 1.0)];
                if let Some((_, w)) = want.iter().find(|(s, _)| *s == step) {
                    let got = legacy.hi.item().unwrap();
                    assert!((got - w).abs() < 0.01 * w, "step {step}: {got}, {w}");
                }
            }
        }
    }

    #[test]
    fn textbook_average_is_the_weighted_mean() {
        let d = Device::cpu();
        let mut state = EmaState::new(&d, 1).unwrap();
        let (mut sum, mut weights) = (0.0, 0.0);
        for step in 0..20 {
            let v = f64::from((step * 37 % 11) as i32) / 4.0;
            let t = Tensor::scalar(&d, v as f32).unwrap();
            ema_update(&mut state, &t, &t, EmaForm::Textbook, 0.8).unwrap();
            (sum, weights) = (0.8 * sum + v, 0.8 * weights + 1.0);
            assert!((state.hi.item().unwrap() - sum / weights).abs() < 1e-5);
        }
        let two = Tensor::zeros(&d, [2], DType::F32).unwrap();
        assert!(ema_update(&mut state, &two, &two, EmaForm::Textbook, 0.8).is_err());
        let one = Tensor::zeros(&d, [1], DType::F32).unwrap();
        assert!(ema_update(&mut state, &one, &one, EmaForm::Textbook, 1.0).is_err());
    }
}
