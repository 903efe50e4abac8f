//! Scale and zero point of each range, as integer inference and exchange formats want them.

use super::{Affine, QuantSpec};
use crate::{Error, Result};

/// `value = (code - zero_point) * step`, one pair per range (ONNX's form; the zero point is not clamped to the codes).
#[derive(Clone, Debug, PartialEq)]
pub struct QParams {
    /// Width of one code in units of the values.
    pub step: Vec<f32>,
    /// Code of the value 0.
    pub zero_point: Vec<i32>,
}

impl QParams {
    /// Of ranges `[lo[i], hi[i]]`, by the rounding rule of [`Affine`]: `step = 1 / scale`, `zero_point = -zero`.
    /// Errors on ends of different number, that are not finite, or in the wrong order.
    pub fn of_ranges(lo: &[f32], hi: &[f32], spec: QuantSpec) -> Result<Self> {
        if lo.len() != hi.len() {
            return Err(Error::config("ranges", format!("{} lower ends and {} upper ends", lo.len(), hi.len())));
        }
        let (mut step, mut zero_point) = (Vec::with_capacity(lo.len()), Vec::with_capacity(lo.len()));
        for (i, (&lo, &hi)) in lo.iter().zip(hi).enumerate() {
            if !(lo.is_finite() && hi.is_finite() && lo <= hi) {
                return Err(Error::config("ranges", format!("range {i} is [{lo}, {hi}]")));
            }
            let a = Affine::new(lo, hi, spec.bits());
            step.push(1.0 / a.scale);
            zero_point.push(-a.zero as i32);
        }
        Ok(Self { step, zero_point })
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.step.len()
    }
    pub fn is_empty(&self) -> bool {
        self.step.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Axis;

    #[test]
    fn values_of_codes_agree_with_the_rule() {
        let spec = QuantSpec::new(4, Axis::Outer).unwrap();
        let (lo, hi) = ([-1.0, 0.0, -3.0f32], [2.0, 6.0, -0.0f32]);
        let q = QParams::of_ranges(&lo, &hi, spec).unwrap();
        assert_eq!(q.len(), 3);
        assert_eq!(q.zero_point, [-3, -8, 7]);
        for i in 0..3 {
            let a = Affine::new(lo[i], hi[i], 4);
            for code in -8..=7 {
                let value = (code - q.zero_point[i]) as f32 * q.step[i];
                assert!((value - a.value(code as f32)).abs() <= 1e-6 * hi[i].max(-lo[i]));
            }
        }
        assert!(QParams::of_ranges(&[1.0], &[0.0], spec).is_err());
        assert!(QParams::of_ranges(&[f32::NAN], &[0.0], spec).is_err());
        assert!(QParams::of_ranges(&[], &[0.0], spec).is_err());
    }
}
