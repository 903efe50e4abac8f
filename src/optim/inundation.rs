//! Gradient inundation (AIT, Choi et al., CVPR 2022): a step long enough that quantized weights really change.
//!
//! For each quantized weight tensor the smallest factor `>= 1` on the learning rate at which at least a share `target` of
//! the integer codes flips: `flips(factor) = share of codes of Q(w - factor step) that differ from Q(w)`. Doubled until
//! reached, then bisected. Used with a Nesterov step (`Sgd::next_step` gives it before anything is written,
//! `Sgd::step_scaled` takes it), weight decay 0 and the KL loss alone.

use crate::Result;
use crate::device::Launch;
use crate::quant::Affine;
use crate::tensor::{DType, Tensor};
use rayon::prelude::*;

const OP: &str = "inundation";
/// Doublings after which a step that flips too little is taken as it is: it is zero, or as good as.
const DOUBLINGS: u32 = 40;

/// When to stop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inundation {
    /// Share of codes to flip, in `0..1`. AIT: 1e-3 for CIFAR, 1e-4 for ImageNet, divided by 10 where the rate is.
    pub target: f32,
    /// Doubling ends when the factor exceeds this (AIT: 100 until the epoch after warm-up).
    pub cap: Option<f32>,
    /// Halvings of the interval (AIT: 5). They end early within 1 % of the target.
    pub bisections: u32,
}

impl Default for Inundation {
    fn default() -> Self {
        Self { target: 1e-3, cap: None, bisections: 5 }
    }
}

/// Kernel parameters, mirrored in `kernels/optim_inundation.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    factor: f32,
    length: i32,
    bits: i32,
    ranges: i32,
}

/// Share of the codes of `weights[k, ...]` that `weights - factor * step` flips (both F32, same shape; `step` includes the
/// learning rate), at `bits` 2 to 8. `ranges`: `lo` and `hi`, `[1]` or `[k]`, that stay as they are; without, the extremes
/// of each output channel, before and after the step. Waits for the device.
pub fn flips(weights: &Tensor, step: &Tensor, factor: f32, bits: u8, ranges: Option<[&Tensor; 2]>) -> Result<f64> {
    let rows = weights.shape().first().copied().unwrap_or(0);
    let size = weights.len();
    let same = weights.dtype() == DType::F32 && step.dtype() == DType::F32 && step.len() == size;
    crate::ensure_op!(
        same && size > 0,
        OP,
        "weights {} and step {} must be F32 and alike",
        weights.shape(),
        step.shape()
    );
    crate::ensure_op!((2..=8).contains(&bits) && size <= 1 << 30, OP, "{size} weights of {bits} bits");
    for r in ranges.into_iter().flatten() {
        let fits = r.dtype() == DType::F32 && (r.len() == 1 || r.len() == rows);
        crate::ensure_op!(fits, OP, "ranges must be F32 [1] or [{rows}], got {:?} {}", r.dtype(), r.shape());
    }
    let length = size / rows;
    let each = ranges.is_some_and(|[lo, _]| lo.len() == rows);
    crate::ensure_op!(ranges.is_none_or(|[lo, hi]| lo.len() == hi.len()), OP, "lo and hi differ in length");
    let count: i64 = if let Some(gpu) = weights.gpu() {
        let counts = Tensor::empty(&weights.device(), [rows], DType::I32)?;
        Launch::new("optim_inundation_f32")
            .grid([rows as u32, 1, 1])
            .block([256, 1, 1])
            .ptr(weights.address())
            .ptr(step.address())
            .ptr(ranges.map_or(0, |[lo, _]| lo.address()))
            .ptr(ranges.map_or(0, |[_, hi]| hi.address()))
            .ptr(counts.address())
            .val(Params { factor, length: length as i32, bits: bits.into(), ranges: each.into() })
            .run(gpu)?;
        counts.to_vec::<i32>()?.into_iter().map(i64::from).sum()
    } else {
        let ranges = ranges.map(|r| r.map(|t| t.host::<f32>()));
        let rows = weights.host::<f32>().par_chunks(length).zip(step.host::<f32>().par_chunks(length));
        rows.enumerate()
            .map(|(row, (w, s))| {
                let fixed = ranges.map(|[lo, hi]| if each { [lo[row], hi[row]] } else { [lo[0], hi[0]] });
                row_flips(w, s, factor, bits, fixed)
            })
            .sum()
    };
    Ok(count as f64 / size as f64)
}

fn row_flips(w: &[f32], s: &[f32], factor: f32, bits: u8, fixed: Option<[f32; 2]>) -> i64 {
    let moved = || w.iter().zip(s).map(|(w, s)| w - factor * s);
    let extremes = |values: &mut dyn Iterator<Item = f32>| {
        values.fold([f32::INFINITY, f32::NEG_INFINITY], |[lo, hi], v| {
            [if v < lo { v } else { lo }, if v > hi { v } else { hi }]
        })
    };
    let [old_lo, old_hi] = fixed.unwrap_or_else(|| extremes(&mut w.iter().copied()));
    let [new_lo, new_hi] = fixed.unwrap_or_else(|| extremes(&mut moved()));
    let (before, after) = (Affine::new(old_lo, old_hi, bits), Affine::new(new_lo, new_hi, bits));
    w.iter().zip(moved()).filter(|(w, m)| before.code(**w) != after.code(*m)).count() as i64
}

/// The factor on the learning rate for one weight tensor, see above and [`flips`]: 1 if the plain step already flips
/// enough. About a dozen waits for the device.
pub fn inundation_factor(
    weights: &Tensor,
    step: &Tensor,
    bits: u8,
    ranges: Option<[&Tensor; 2]>,
    spec: Inundation,
) -> Result<f32> {
    let target = f64::from(spec.target);
    crate::ensure_op!((0.0..1.0).contains(&target), OP, "the share of codes to flip must be in 0..1, got {target}");
    let share = |factor: f32| flips(weights, step, factor, bits, ranges);
    let mut high = 1.0f32;
    if share(high)? >= target {
        return Ok(high);
    }
    let mut reached = false;
    for _ in 0..DOUBLINGS {
        high *= 2.0;
        reached = share(high)? >= target;
        if reached || spec.cap.is_some_and(|cap| high > cap) {
            break;
        }
    }
    if !reached {
        // The cap's factor, as in the released code; but a step of nothing is not made longer.
        return Ok(if spec.cap.is_some_and(|cap| high > cap) { high } else { 1.0 });
    }
    let mut low = high / 2.0;
    for _ in 0..spec.bisections {
        let middle = 0.5 * (low + high);
        let now = share(middle)?;
        if (now - target).abs() < target / 100.0 {
            return Ok(middle);
        }
        if now < target { low = middle } else { high = middle }
    }
    Ok(high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::random;

    fn devices() -> impl Iterator<Item = Device> {
        [Ok(Device::cpu()), Device::emulator()].into_iter().flatten()
    }

    #[test]
    fn flips_are_counted_alike_on_both_devices() {
        let cpu = Device::cpu();
        for (shape, bits) in [([1, 1, 1, 1], 4u8), ([5, 3, 3, 7], 4), ([3, 3, 3, 64], 8), ([7, 1, 1, 37], 2)] {
            let w = random::normal(&cpu, shape, 1, 2).unwrap();
            let s = random::normal(&cpu, shape, 3, 4).unwrap();
            let lo = Tensor::from_slice(&cpu, [1], &[-1.5f32]).unwrap();
            let hi = Tensor::from_slice(&cpu, [1], &[1.25f32]).unwrap();
            for factor in [0.0, 1e-3, 0.05] {
                let all: Vec<[f64; 2]> = devices()
                    .map(|d| {
                        let on = |t: &Tensor| t.to_device(&d).unwrap();
                        let (lo, hi) = (on(&lo), on(&hi));
                        [None, Some([&lo, &hi])].map(|r| flips(&on(&w), &on(&s), factor, bits, r).unwrap())
                    })
                    .collect();
                assert!(all.windows(2).all(|p| p[0] == p[1]), "{shape:?} {factor}: {all:?}");
                if factor == 0.0 {
                    assert_eq!(all[0], [0.0, 0.0]);
                }
            }
        }
    }

    #[test]
    fn the_factor_reaches_the_target_and_not_much_more() {
        let d = Device::cpu();
        let w = random::normal(&d, [16, 3, 3, 16], 1, 2).unwrap();
        let mut s = random::normal(&d, [16, 3, 3, 16], 3, 4).unwrap();
        s.host_mut::<f32>().iter_mut().for_each(|s| *s *= 1e-6);
        let spec = Inundation { target: 0.02, ..Inundation::default() };
        let factor = inundation_factor(&w, &s, 4, None, spec).unwrap();
        assert!(factor > 100.0, "{factor}");
        let share = flips(&w, &s, factor, 4, None).unwrap();
        assert!((0.0198..0.03).contains(&share), "{share}");
        // A cap ends the doubling; a step that already flips enough stays; a step of nothing too.
        let capped = Inundation { cap: Some(100.0), ..spec };
        assert_eq!(inundation_factor(&w, &s, 4, None, capped).unwrap(), 128.0);
        assert_eq!(inundation_factor(&w, &w, 4, None, spec).unwrap(), 1.0);
        s.fill_zero().unwrap();
        assert_eq!(inundation_factor(&w, &s, 4, None, spec).unwrap(), 1.0);
    }
}
