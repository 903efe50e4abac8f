//! Numbers of a deployed network: quantizers of activations, and weights as codes.

use super::Affine;

/// Why numbers of a file do not fit, without the node's name, which the caller adds.
type Outcome<T> = std::result::Result<T, String>;

/// Bounds of the zero points of activations and of weights, so that sums fit in 64 bits.
pub const MAX_ZERO: [i64; 2] = [1 << 17, 1 << 28];
/// Taps times channels of a filter, at most.
pub const MAX_REDUCTION: usize = (1 << 17) - 1;

/// Quantizes an activation: `code = clamp(round(scale v - zero))` to `bits` bits, halves to even. Product, difference and
/// rounding are f32 operations. A code stands for `(code + zero) / scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    /// 2 to 8.
    pub bits: u8,
    /// Steps per unit.
    pub scale: f32,
    pub zero: i32,
}

impl Quantizer {
    /// Derives the quantizer of the range `[lo, hi]`. Errors on a range that is not finite, or far from 0 for its width.
    pub fn of_range(lo: f32, hi: f32, bits: u8) -> Outcome<Self> {
        let (scale, zero) = pair(lo, hi, bits, MAX_ZERO[0])?;
        Ok(Self { bits, scale, zero })
    }

    /// Returns the rounding rule with these numbers.
    pub fn affine(&self) -> Affine<f32> {
        affine(self.scale, self.zero, self.bits)
    }

    /// Errors on a width outside 2..=8, a scale that is not finite and positive, or a zero point out of bounds.
    pub fn check(&self) -> Outcome<()> {
        if !(2..=8).contains(&self.bits) {
            return Err(format!("activations of {} bits; 2 to 8 are possible", self.bits));
        }
        check_pair(self.scale, self.zero, MAX_ZERO[0])
    }
}

/// A weight as codes in two's complement, one quantizer per output channel.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightCodes {
    /// 2 to 8.
    pub bits: u8,
    /// `k r s c` or `k c`.
    pub shape: Vec<usize>,
    /// In row-major order of `shape`.
    pub codes: Vec<i8>,
    /// Steps per unit, `[k]`.
    pub scale: Vec<f32>,
    /// `[k]`.
    pub zero: Vec<i32>,
}

impl WeightCodes {
    /// Derives scales and zero points from ranges per output channel. Errors name the channel whose range is not finite, or far
    /// from 0 for its width.
    pub fn of_ranges(codes: Vec<i8>, shape: Vec<usize>, bits: u8, lo: &[f32], hi: &[f32]) -> Outcome<Self> {
        let (mut scale, mut zero) = (Vec::with_capacity(lo.len()), Vec::with_capacity(lo.len()));
        for (k, (lo, hi)) in lo.iter().zip(hi).enumerate() {
            let (s, z) = pair(*lo, *hi, bits, MAX_ZERO[1]).map_err(|e| format!("output channel {k}: {e}"))?;
            scale.push(s);
            zero.push(z);
        }
        Ok(Self { bits, shape, codes, scale, zero })
    }

    /// Returns the rounding rule of each output channel.
    pub fn affines(&self) -> Vec<Affine<f32>> {
        self.scale.iter().zip(&self.zero).map(|(s, z)| affine(*s, *z, self.bits)).collect()
    }

    /// Returns the values of the codes, bitwise those of fake quantization.
    pub fn values(&self) -> Vec<f32> {
        let row = self.codes.len() / self.scale.len().max(1);
        let rows = self.codes.chunks(row.max(1)).zip(self.affines());
        rows.flat_map(|(codes, a)| codes.iter().map(move |q| a.value(f32::from(*q)))).collect()
    }

    /// Returns the bytes of the codes in a file: two codes to a byte up to 4 bits.
    pub fn packed_bytes(&self) -> usize {
        if self.bits <= 4 { self.codes.len().div_ceil(2) } else { self.codes.len() }
    }

    /// Errors unless codes, scales and zero points fit shape and width.
    pub fn check(&self) -> Outcome<()> {
        let k = self.shape.first().copied().unwrap_or(0);
        if !(2..=8).contains(&self.bits) {
            return Err(format!("weights of {} bits; 2 to 8 are possible", self.bits));
        }
        let elements = self.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        if elements != Some(self.codes.len()) || self.codes.is_empty() {
            return Err(format!("{} weights for shape {:?}", self.codes.len(), self.shape));
        }
        if self.codes.len() / k > MAX_REDUCTION {
            return Err(format!("{} weights per output; at most {MAX_REDUCTION} are possible", self.codes.len() / k));
        }
        let half = 1i16 << (self.bits - 1);
        if let Some(i) = self.codes.iter().position(|q| !(-half..half).contains(&i16::from(*q))) {
            return Err(format!("weight {i} is {}, which {} bits do not hold", self.codes[i], self.bits));
        }
        if self.scale.len() != k || self.zero.len() != k {
            return Err(format!("{} scales and {} zero points for {k} outputs", self.scale.len(), self.zero.len()));
        }
        self.scale.iter().zip(&self.zero).try_for_each(|(s, z)| check_pair(*s, *z, MAX_ZERO[1]))
    }
}

fn affine(scale: f32, zero: i32, bits: u8) -> Affine<f32> {
    let half = f32::from(1u16 << (bits - 1));
    Affine { scale, zero: zero as f32, low: -half, high: half - 1.0 }
}

/// Scale and zero point of a range.
fn pair(lo: f32, hi: f32, bits: u8, limit: i64) -> Outcome<(f32, i32)> {
    let a = Affine::new(lo, hi, bits);
    if !(lo.is_finite() && hi.is_finite() && a.scale.is_finite() && a.scale > 0.0) {
        return Err(format!("its range [{lo}, {hi}] is not finite; calibrate again"));
    }
    if a.zero.abs() > limit as f32 {
        return Err(format!("its range [{lo}, {hi}] is too narrow for where it lies; calibrate again"));
    }
    Ok((a.scale, a.zero as i32))
}

fn check_pair(scale: f32, zero: i32, limit: i64) -> Outcome<()> {
    if !(scale.is_finite() && scale > 0.0) {
        return Err(format!("scale {scale}; it must be finite and above 0"));
    }
    if i64::from(zero).abs() > limit {
        return Err(format!("zero point {zero} lies beyond {limit}: the range is far from 0 for its width"));
    }
    Ok(())
}
