//! The range that quantizes a tensor with the least squared error, on a grid of shrink factors.
//!
//! With `[lo, hi]` the ends of the values, widened to hold 0 (so values of one sign keep 0 as one end): first the 80
//! ranges `[f lo, f hi]`, `f = 1/80 .. 1`; then, around the best, `lo` alone and `hi` alone on 17 factors an eighth of
//! that spacing apart. All candidates of a pass are evaluated in one sweep over the values, in a fixed order; of equal
//! errors the first wins. Source of the criterion: Banner et al. 2019 and the PTQ literature; the grid is ours.

use super::case::{Case, GradCheck, Input};
use super::observe::min_max;
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::quant::{Affine, Axis, RoundEven};
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

const OP: &str = "range_search";
/// Elements per task (CPU) and per block (GPU).
const PIECE: usize = 1 << 14;
const SPAN: usize = 8192;
/// Factors of the first pass, and of the two refining ones.
const COARSE: usize = 80;
const FINE: usize = 17;

/// One pass over the candidates.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Both,
    Lo,
    Hi,
}

impl Pass {
    fn candidates(self) -> usize {
        if self == Self::Both { COARSE } else { FINE }
    }
    /// Factors `[lo, hi]` of candidate `i`, from the best so far. Candidate 0 is the best so far itself (or factor 1).
    fn factors(self, i: usize, [lo, hi]: [f32; 2]) -> [f32; 2] {
        // 0, +1, -1, +2, -2 ... eighths of the coarse spacing.
        let offset = i.div_ceil(2) as f32 * if i % 2 == 1 { 1.0 } else { -1.0 } / (8.0 * COARSE as f32);
        match self {
            Self::Both => [(COARSE - i) as f32 / COARSE as f32; 2],
            Self::Lo => [(lo + offset).max(0.0), hi],
            Self::Hi => [lo, (hi + offset).max(0.0)],
        }
    }
}

/// Range `(lo, hi)` of least squared quantization error of `x` (F32, any shape) at `bits` in `2..=8`: `[1]` each, or `[k]`
/// with [`Axis::Outer`]. Waits for the device (the few sums are compared on the host). Errors on an empty tensor and on
/// values that are not finite.
pub fn range_search(x: &Tensor, bits: u8, axis: Axis) -> Result<(Tensor, Tensor)> {
    let (lo, hi, _) = search(x, bits, axis)?;
    Ok((lo, hi))
}

/// [`range_search`], and the squared error of each range, summed over its values.
pub fn search(x: &Tensor, bits: u8, axis: Axis) -> Result<(Tensor, Tensor, Vec<f64>)> {
    crate::ensure_op!((2..=8).contains(&bits), OP, "bits must be in 2..=8, got {bits}");
    let (lo, hi) = min_max(x, axis)?;
    let (mut lo, mut hi) = (lo.to_f64()?, hi.to_f64()?);
    for (row, (lo, hi)) in lo.iter_mut().zip(&mut hi).enumerate() {
        crate::ensure_op!(lo.is_finite() && hi.is_finite(), OP, "range {row} of {} holds values that are not finite", x.shape());
        (*lo, *hi) = (lo.min(0.0), hi.max(0.0));
    }
    let rows = lo.len();
    let mut best = vec![[1f32; 2]; rows];
    let mut error = vec![f64::INFINITY; rows];
    for pass in [Pass::Both, Pass::Lo, Pass::Hi] {
        let n = pass.candidates();
        // [row][candidate][lo, hi], as F32 so that all devices try the same ranges.
        let mut ranges = Vec::with_capacity(rows * n * 2);
        for row in 0..rows {
            for i in 0..n {
                let [a, b] = pass.factors(i, best[row]);
                ranges.extend([a * lo[row] as f32, b * hi[row] as f32]);
            }
        }
        let errors = evaluate(x, bits, axis, &ranges, n)?;
        for row in 0..rows {
            let from = best[row];
            for i in 0..n {
                let e = errors[row * n + i];
                if e < error[row] {
                    (error[row], best[row]) = (e, pass.factors(i, from));
                }
            }
        }
    }
    let end = |ends: &[f64], which: usize| -> Result<Tensor> {
        let v: Vec<f32> = ends.iter().zip(&best).map(|(e, f)| f[which] * *e as f32).collect();
        let t = Tensor::from_slice(&x.device(), [rows], &v)?;
        if x.dtype() == DType::F64 { crate::tensor::init::cast(&t, DType::F64) } else { Ok(t) }
    };
    Ok((end(&lo, 0)?, end(&hi, 1)?, error))
}

/// Squared error of each row under each of its `n` candidate ranges: `[row][candidate]`.
fn evaluate(x: &Tensor, bits: u8, axis: Axis, ranges: &[f32], n: usize) -> Result<Vec<f64>> {
    let [rows, length] = axis.rows(&x.shape());
    if let Some(gpu) = x.gpu() {
        let pieces = length.div_ceil(SPAN);
        let ranges = Tensor::from_slice(&x.device(), [ranges.len()], ranges)?;
        let partial = Tensor::empty(&x.device(), [rows, n, pieces], DType::F32)?;
        Launch::new("range_search_f32")
            .grid([pieces as u32, n as u32, rows.min(65_535) as u32])
            .block([256, 1, 1])
            .ptr(x.address())
            .ptr(ranges.address())
            .ptr(partial.address())
            .val(rows as i32)
            .val(length as i32)
            .val(i32::from(bits))
            .run(gpu)?;
        let partial = partial.to_vec::<f32>()?;
        return Ok(partial.chunks(pieces).map(|p| p.iter().map(|v| f64::from(*v)).sum()).collect());
    }
    crate::for_real!(OP, x.dtype(), T => {
        let one = |(row, x): (usize, &[T])| -> Vec<f64> {
            let ranges = &ranges[row * n * 2..][..n * 2];
            // Pieces in parallel, then summed in order; within a piece the values stay in cache for all candidates.
            let pieces: Vec<Vec<f64>> = x
                .par_chunks(PIECE)
                .map(|x| ranges.chunks(2).map(|r| piece(x, T::of(r[0].into()), T::of(r[1].into()), bits)).collect())
                .collect();
            (0..n).map(|i| pieces.iter().map(|p| p[i]).sum()).collect()
        };
        Ok(x.host::<T>().par_chunks(length).enumerate().map(one).collect::<Vec<_>>().concat())
    })
}

/// Squared error of one value.
#[inline(always)]
fn square<T: RoundEven>(a: &Affine<T>, v: T) -> T {
    let d = a.quantize(v) - v;
    d * d
}

fn piece<T: RoundEven>(x: &[T], lo: T, hi: T, bits: u8) -> f64 {
    vectorize(
        #[inline(always)]
        || {
            const LANES: usize = 16;
            let a = Affine::new(lo, hi, bits);
            let mut sums = [T::zero(); LANES];
            let chunks = x.chunks_exact(LANES);
            for (sum, v) in sums.iter_mut().zip(chunks.remainder()) {
                *sum = square(&a, *v);
            }
            for v in chunks {
                for i in 0..LANES {
                    sums[i] += square(&a, v[i]);
                }
            }
            sums.iter().map(|s| s.f64()).sum()
        },
    )
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for axis in [Axis::Tensor, Axis::Outer] {
        for (shape, bits) in [([1, 1, 1, 1], 4), ([5, 3, 3, 3], 2), ([3, 5, 7, 11], 4), ([2, 4, 4, 12], 8), ([64, 3, 3, 64], 4)]
        {
            // The least error is compared, not the range: two ranges may be as good as equal.
            let run = move |_: &mut Tape, v: &[Var]| {
                let (.., error) = search(&v[0].value, bits, axis)?;
                let error: Vec<f32> = error.iter().map(|e| *e as f32).collect();
                let cpu = crate::device::Device::cpu();
                Ok(vec![Var::constant(Tensor::from_slice(&cpu, [error.len()], &error)?)])
            };
            let shape = crate::tensor::Shape::from(shape);
            let n = shape.elements() as f64;
            let name = format!("{axis:?}_int{bits}_{shape}").to_lowercase();
            // The error of a value cancels to a step: 2^bits of relative precision is lost.
            let case = Case::new(name, vec![Input::plain(shape)], run)
                .check(GradCheck::None)
                .reduction(shape.elements())
                .slack(f64::from(1u32 << bits))
                .cost(1000.0 * n, 12.0 * n);
            cases.push(if n > 1e4 { case.bench() } else { case });
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::random::normal;

    fn error_of(x: &[f32], lo: f32, hi: f32, bits: u8) -> f64 {
        let a = Affine::new(f64::from(lo), f64::from(hi), bits);
        x.iter().map(|&v| (a.quantize(f64::from(v)) - f64::from(v)).powi(2)).sum()
    }

    #[test]
    fn low_bits_of_normal_values_are_shrunk_and_beat_the_full_range() {
        let d = Device::cpu();
        let x = normal(&d, [20_000], 1, 1).unwrap();
        let v = x.to_vec::<f32>().unwrap();
        for bits in [2, 3, 4, 8] {
            let (lo, hi, error) = search(&x, bits, Axis::Tensor).unwrap();
            let (lo, hi) = (lo.item().unwrap() as f32, hi.item().unwrap() as f32);
            let (low, high) = v.iter().fold((0f32, 0f32), |(a, b), &v| (a.min(v), b.max(v)));
            assert!((error_of(&v, lo, hi, bits) - error[0]).abs() < 1e-3 * error[0]);
            let full = error_of(&v, low, high, bits);
            assert!(error[0] <= full);
            if bits <= 4 {
                // The optimal uniform quantizer of a normal variable ends near 1.7, 2.3, 2.7 deviations.
                assert!(error[0] < 0.8 * full && hi < 3.2 && lo > -3.2, "{bits}: {lo} {hi}");
            }
        }
    }

    #[test]
    fn values_of_one_sign_keep_zero_as_an_end() {
        for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            let mut v: Vec<f32> = normal(&Device::cpu(), [2, 300], 2, 2).unwrap().to_vec().unwrap();
            for (i, v) in v.iter_mut().enumerate() {
                *v = if i < 300 { v.abs() } else { -v.abs() };
            }
            let x = Tensor::from_slice(&device, [2, 300], &v).unwrap();
            let (lo, hi) = range_search(&x, 4, Axis::Outer).unwrap();
            let (lo, hi) = (lo.to_f64().unwrap(), hi.to_f64().unwrap());
            assert!(lo[0] == 0.0 && hi[0] > 1.0 && lo[1] < -1.0 && hi[1] == 0.0, "{lo:?} {hi:?}");
            let again = range_search(&x, 4, Axis::Outer).unwrap();
            assert_eq!(again.0.to_f64().unwrap(), lo);
        }
    }

    #[test]
    fn zeros_and_broken_values() {
        let d = Device::cpu();
        let (lo, hi, error) = search(&Tensor::zeros(&d, [5], DType::F32).unwrap(), 4, Axis::Tensor).unwrap();
        assert_eq!((lo.item().unwrap(), hi.item().unwrap(), error[0]), (0.0, 0.0, 0.0));
        let x = Tensor::from_slice(&d, [2], &[1.0, f32::NAN]).unwrap();
        assert!(range_search(&x, 4, Axis::Tensor).unwrap_err().to_string().contains("not finite"));
        assert!(range_search(&x, 1, Axis::Tensor).is_err());
    }
}
