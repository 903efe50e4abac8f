//! The rounding rule, twin of `kernels/include/quant.cuh`: the same operations in the same order, none of them fused,
//! so that both give the same bits.

use crate::tensor::Real;

/// Rounding to the nearest integer, halves to even.
pub trait RoundEven: Real {
    fn round_even(self) -> Self;
    /// An integer value in `-128..=127` as a code; NaN gives 0.
    fn to_code(self) -> i8;
    /// A code as a number.
    fn of_code(code: i8) -> Self;
}
impl RoundEven for f32 {
    #[inline(always)]
    fn round_even(self) -> Self {
        self.round_ties_even()
    }
    #[inline(always)]
    fn to_code(self) -> i8 {
        // Integers lie in the low bits of sums with 1.5 * 2^23. (`as` saturates, element by element.)
        let code = (self + 12_582_912.0).to_bits() as i8;
        if self.is_nan() { 0 } else { code }
    }
    #[inline(always)]
    fn of_code(code: i8) -> Self {
        Self::from(code)
    }
}
impl RoundEven for f64 {
    #[inline(always)]
    fn round_even(self) -> Self {
        self.round_ties_even()
    }
    #[inline(always)]
    fn to_code(self) -> i8 {
        self as i8
    }
    #[inline(always)]
    fn of_code(code: i8) -> Self {
        Self::from(code)
    }
}

/// The asymmetric affine quantizer of a range `[lo, hi]` (GDFQ, Xu et al. 2020, and the line of work it began):
/// ```text
/// n = 2^bits - 1    s = n / max(hi - lo, 1e-8)    z = round(s lo) + 2^(bits-1)
/// q = clamp(round(s x - z), -2^(bits-1), 2^(bits-1) - 1)    value = (q + z) / s
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine<T> {
    /// Steps per unit (the inverse of the step).
    pub scale: T,
    /// An integer: `q + zero` steps is the value.
    pub zero: T,
    /// Lowest code.
    pub low: T,
    /// Highest code.
    pub high: T,
}

impl<T: RoundEven> Affine<T> {
    /// Of the range `[lo, hi]`, for `bits` in `2..=8` (checked by the callers).
    #[inline(always)]
    pub fn new(lo: T, hi: T, bits: u8) -> Self {
        let steps = T::of(f64::from((1u32 << bits) - 1));
        let half = T::of(f64::from(1u32 << (bits - 1)));
        let width = hi - lo;
        let floor = T::of(1e-8);
        // Written so that a NaN range gives NaN values.
        let scale = steps / if width < floor { floor } else { width };
        Self { scale, zero: (scale * lo).round_even() + half, low: -half, high: half - T::one() }
    }
    /// The code before clamping.
    #[inline(always)]
    pub fn level(&self, x: T) -> T {
        (self.scale * x - self.zero).round_even()
    }
    /// `low..=high`; NaN stays NaN.
    #[inline(always)]
    pub fn clamp(&self, level: T) -> T {
        let v = if level < self.low { self.low } else { level };
        if v > self.high { self.high } else { v }
    }
    /// The code of `x`, an integer.
    #[inline(always)]
    pub fn code(&self, x: T) -> T {
        self.clamp(self.level(x))
    }
    /// The value that a code stands for.
    #[inline(always)]
    pub fn value(&self, code: T) -> T {
        (code + self.zero) / self.scale
    }
    /// `x` rounded to the nearest value that has a code.
    #[inline(always)]
    pub fn quantize(&self, x: T) -> T {
        self.value(self.code(x))
    }
    /// Whether the code of `x` needs no clamping.
    #[inline(always)]
    pub fn inside(&self, level: T) -> bool {
        level >= self.low && level <= self.high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_go_to_even() {
        // scale 1, zero 8 - 8 = 0: codes are rounded values.
        let a = Affine::new(-8f32, 7.0, 4);
        assert_eq!((a.scale, a.zero, a.low, a.high), (1.0, 0.0, -8.0, 7.0));
        let codes: Vec<f32> = [-8.6, -0.5, 0.5, 1.5, 2.5, -1.5, 6.5, 7.5, 99.0].iter().map(|&x| a.code(x)).collect();
        assert_eq!(codes, [-8.0, -0.0, 0.0, 2.0, 2.0, -2.0, 6.0, 7.0, 7.0]);
        assert!(a.quantize(f32::NAN).is_nan() && a.code(f32::NAN).to_code() == 0);
    }

    #[test]
    fn codes_are_the_integers() {
        for code in -128..=127i8 {
            assert_eq!((f32::from(code).to_code(), f64::from(code).to_code()), (code, code));
        }
        // NaN of any payload.
        assert_eq!(
            [f32::NAN, -f32::NAN, f32::from_bits(0x7fc0_0001), f32::from_bits(u32::MAX)].map(f32::to_code),
            [0; 4]
        );
        assert_eq!((-0.0f32).to_code(), 0);
    }

    #[test]
    fn an_empty_range_is_kept_finite() {
        let a = Affine::new(0f32, 0.0, 8);
        assert_eq!(a.quantize(0.0), 0.0);
        assert!(a.quantize(1.0).is_finite());
    }

    #[test]
    fn ends_of_the_range_have_the_end_codes() {
        for bits in 2..=8 {
            let a = Affine::new(-1.25f64, 3.0, bits);
            assert_eq!(a.code(-1.25), a.low);
            assert!(a.high - a.code(3.0) <= 1.0);
            assert!((a.quantize(0.7) - 0.7).abs() <= 0.5 / a.scale + 1e-12);
            assert_eq!(a.quantize(0.0), 0.0, "zero is exact");
        }
    }
}
