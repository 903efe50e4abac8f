//! Scalar functions behind the smooth activations: exponentials, sigmoid, Mish's gate, the normal distribution.
//!
//! In f32 they are short polynomials without calls or branches, so that loops over them vectorize and give the same bits on
//! every machine. In f64, the oracle's type, they come from the standard library, series and continued fractions.

use crate::tensor::Real;

/// A float type with exponentials.
pub(super) trait Smooth: Real {
    /// `e^x`, 0 and infinity outside the type's range.
    fn exponential(self) -> Self;
    /// `e^x - 1`, accurate near 0.
    fn exponential_m1(self) -> Self;
    /// Density and distribution function of the standard normal distribution.
    fn normal(self) -> (Self, Self);
}

/// Coefficients of `(e^r - 1 - r) / r^2` for `|r| <= ln(2) / 2`: a minimax fit of ours, to 3e-9 of `e^r`.
const EXPONENTIAL: [f32; 5] = [0.499_999_93, 0.166_665_19, 0.041_668_406, 0.008_368_899, 0.001_381_422];

/// Coefficients of `e^(t^2 / 2) P(X > t)` in powers of `1 / (1 + t / 4)` from the first on, for `t >= 0`: a minimax fit of ours,
/// to 2.3e-8 of the value.
const TAIL: [f32; 10] = [
    0.099_735_54,
    0.099_737_83,
    0.093_440_57,
    0.081_826_09,
    0.057_921_45,
    0.066_624_66,
    -0.036_611_265,
    0.100_439_89,
    -0.083_485_106,
    0.020_370_325,
];

/// `x = n ln 2 + r` with a whole `n` and `|r| <= ln(2) / 2`: returns `n`, `r` and `e^r - 1`.
#[inline(always)]
fn reduced(x: f32) -> (i32, f32) {
    // Beyond these ends e^x is 0 and infinite. NaN passes.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    // Adding 1.5 * 2^23 leaves the nearest whole number in the lowest bits.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    // ln 2 in two parts, of which the first times n is exact.
    let r = (x - n * 0.693_359_375) - n * -2.121_944_4e-4;
    let [c0, c1, c2, c3, c4] = EXPONENTIAL;
    let rest = (((c4 * r + c3) * r + c2) * r + c1) * r + c0;
    (shifted.to_bits().wrapping_sub(SHIFT.to_bits()) as i32, r + r * r * rest)
}

/// `2^n` as two factors, since n = 128 and results below the normal numbers need both.
#[inline(always)]
fn powers(n: i32) -> (f32, f32) {
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let half = n >> 1;
    (power(half), power(n.wrapping_sub(half)))
}

impl Smooth for f32 {
    #[inline(always)]
    fn exponential(self) -> Self {
        let (n, m1) = reduced(self);
        let (a, b) = powers(n);
        (1.0 + m1) * a * b
    }
    #[inline(always)]
    fn exponential_m1(self) -> Self {
        let (n, m1) = reduced(self);
        let (a, b) = powers(n);
        let far = (1.0 + m1) * a * b - 1.0;
        if n == 0 { m1 } else { far }
    }
    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        let t = self.abs();
        let e = (t * t * -0.5).exponential();
        let s = 1.0 / (1.0 + 0.25 * t);
        let mut ratio = 0.0;
        for c in TAIL.iter().rev() {
            ratio = ratio * s + c;
        }
        let tail = e * (ratio * s);
        let body = 1.0 - tail;
        (e * 0.398_942_3, if self < 0.0 { tail } else { body })
    }
}

impl Smooth for f64 {
    fn exponential(self) -> Self {
        self.exp()
    }
    fn exponential_m1(self) -> Self {
        self.exp_m1()
    }
    fn normal(self) -> (Self, Self) {
        let t = self.abs();
        let density = (-0.5 * t * t).exp() / std::f64::consts::TAU.sqrt();
        let tail = if t < 3.0 {
            // Abramowitz and Stegun 26.2.11.
            let (mut term, mut sum, mut k) = (t, t, 1.0);
            while term > 1e-18 * sum {
                k += 2.0;
                term *= t * t / k;
                sum += term;
            }
            0.5 - density * sum
        } else {
            // Abramowitz and Stegun 26.2.14.
            density / (1..=80).rev().fold(t, |below, k| t + f64::from(k) / below)
        };
        (density, if self < 0.0 { tail } else { 1.0 - tail })
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid<T: Smooth>(x: T) -> T {
    sigmoids(x)[0]
}

/// The sigmoids of `x` and `-x`, whose sum is 1: the smaller one would lose its digits in a difference.
#[inline(always)]
pub(super) fn sigmoids<T: Smooth>(x: T) -> [T; 2] {
    let one = T::one();
    let e = (-x.abs()).exponential();
    let (above, below) = if x < T::zero() { (e, one) } else { (one, e) };
    [above / (one + e), below / (one + e)]
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub(super) fn softplus<T: Smooth>(x: T) -> T {
    let above = if x < T::zero() { T::zero() } else { x };
    above + (-x.abs()).exponential().ln_1p()
}

/// `tanh(softplus(x))` and the derivative of `x tanh(softplus(x))`. With `e = e^-|x|` the first is
/// `e (e + 2) / (e (e + 2) + 2)` below 0, `(1 + 2 e) / (1 + 2 e + 2 e^2)` above, which neither overflows nor cancels.
#[inline(always)]
pub(super) fn mish<T: Smooth>(x: T) -> (T, T) {
    let (one, two) = (T::one(), T::of(2.0));
    let e = (-x.abs()).exponential();
    let negative = x < T::zero();
    let (low, high) = (e * (e + two), one + two * e);
    let (low_below, high_below) = (low + two, high + two * e * e);
    let below = if negative { low_below } else { high_below };
    let above = if negative { low } else { high };
    let (for_sigmoid, for_root) = if negative { (e, one) } else { (one, e) };
    let (gate, sigmoid) = (above / below, for_sigmoid / (one + e));
    // 1 - gate^2 is the square of this.
    let root = two * (one + e) * for_root / below;
    (gate, gate + x * sigmoid * root * root)
}

/// `2 sqrt(2 / pi)`: twice the slope of the tangent form of GELU at 0.
const GELU_SLOPE: f64 = 1.595_769_121_605_730_7;
/// The cubic part of that form (Hendrycks and Gimpel 2016).
const GELU_CUBE: f64 = 0.044_715;

/// `(1 + tanh u) / 2` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, and the derivative of `x` times that.
#[inline(always)]
pub(super) fn gelu_tanh<T: Smooth>(x: T) -> (T, T) {
    let (slope, cube) = (T::of(GELU_SLOPE), T::of(GELU_CUBE));
    // From here on the gate is 0 or 1. NaN passes.
    let end = T::of(16.0);
    let v = if x < -end { -end } else { x };
    let v = if v > end { end } else { v };
    let square = v * v;
    let [gate, rest] = sigmoids(slope * v * (T::one() + cube * square));
    let rate = slope * (T::one() + T::of(3.0) * cube * square);
    (gate, gate + v * gate * rest * rate)
}
