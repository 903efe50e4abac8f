//! Codes of 4 bits, two to a byte: element `2 i` in the low half of byte `i`, element `2 i + 1` in the high half, as two's
//! complement. An odd count leaves the last high half 0.

use crate::{Error, Result};

/// Packs codes in `-8..=7`. Errors on another code, naming its place.
pub fn pack_int4(codes: &[i8]) -> Result<Vec<u8>> {
    if let Some(i) = codes.iter().position(|c| !(-8..=7).contains(c)) {
        return Err(Error::op("pack_int4", format!("code {} of element {i} is not in -8..=7", codes[i])));
    }
    let half = |c: i8| c as u8 & 0x0F;
    Ok(codes.chunks(2).map(|c| half(c[0]) | c.get(1).map_or(0, |c| half(*c) << 4)).collect())
}

/// The `count` codes packed in `bytes`. Errors unless `bytes` has `ceil(count / 2)` bytes.
pub fn unpack_int4(bytes: &[u8], count: usize) -> Result<Vec<i8>> {
    if bytes.len() != count.div_ceil(2) {
        let detail = format!("{count} codes need {} bytes, got {}", count.div_ceil(2), bytes.len());
        return Err(Error::op("unpack_int4", detail));
    }
    let signed = |half: u8| ((half << 4) as i8) >> 4;
    Ok((0..count).map(|i| signed(if i % 2 == 0 { bytes[i / 2] & 0x0F } else { bytes[i / 2] >> 4 })).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(codes in prop::collection::vec(-8i8..=7, 0..200)) {
            let bytes = pack_int4(&codes).unwrap();
            prop_assert_eq!(bytes.len(), codes.len().div_ceil(2));
            prop_assert_eq!(unpack_int4(&bytes, codes.len()).unwrap(), codes);
        }

        #[test]
        fn codes_outside_are_errors(before in prop::collection::vec(-8i8..=7, 0..20), bad in prop_oneof![-128i8..=-9, 8i8..=127]) {
            let mut codes = before;
            codes.push(bad);
            prop_assert!(pack_int4(&codes).is_err());
        }
    }

    #[test]
    fn layout() {
        assert_eq!(pack_int4(&[1, -1, -8]).unwrap(), [0xF1, 0x08]);
        assert!(unpack_int4(&[0, 0], 5).is_err());
    }
}
