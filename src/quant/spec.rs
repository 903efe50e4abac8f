//! How one tensor is quantized, checked once.

use super::Axis;
use crate::{Error, Result};

/// Bits and what shares a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantSpec {
    bits: u8,
    axis: Axis,
}

impl QuantSpec {
    /// Errors, naming `bits`, unless `bits` is in `2..=8`.
    pub fn new(bits: u8, axis: Axis) -> Result<Self> {
        if !(2..=8).contains(&bits) {
            return Err(Error::config("bits", format!("must be in 2..=8 (INT2 to INT8), got {bits}")));
        }
        Ok(Self { bits, axis })
    }
    pub fn bits(self) -> u8 {
        self.bits
    }
    pub fn axis(self) -> Axis {
        self.axis
    }
    /// Lowest and highest code.
    pub fn codes(self) -> (i8, i8) {
        let half = 1i16 << (self.bits - 1);
        (-half as i8, (half - 1) as i8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_checked() {
        for bits in [0, 1, 9, 255] {
            let e = QuantSpec::new(bits, Axis::Tensor).unwrap_err().to_string();
            assert!(e.contains("2..=8") && e.contains(&bits.to_string()), "{e}");
        }
        assert_eq!(QuantSpec::new(2, Axis::Outer).unwrap().codes(), (-2, 1));
        assert_eq!(QuantSpec::new(8, Axis::Tensor).unwrap().codes(), (-128, 127));
    }
}
