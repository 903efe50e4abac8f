//! A bit per element that says whether its gradient passes: bit `i % 8` of byte `i / 8` of a row, whose bytes begin anew.

/// Elements whose bits are made together.
const PIECE: usize = 256;

/// Writes the bits of a row.
#[inline(always)]
pub fn pack<T: Copy>(v: &[T], mask: &mut [u8], passes: impl Fn(T) -> bool + Copy) {
    for (v, mask) in v.chunks(PIECE).zip(mask.chunks_mut(PIECE / 8)) {
        let mut flags = [0u8; PIECE];
        flags.iter_mut().zip(v).for_each(|(f, v)| *f = u8::from(passes(*v)));
        for (to, eight) in mask.iter_mut().zip(flags.chunks_exact(8)) {
            // Byte i times 2^(56 - 7 i) puts its bit at 56 + i.
            let bytes = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
            *to = (bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
        }
    }
}

/// Sets to zero the elements of a row whose bit is not set.
#[inline(always)]
pub fn each_kept<T: Bits>(row: &mut [T], mask: &[u8]) {
    let length = row.len();
    let mut pieces = row.chunks_exact_mut(16);
    for (v, m) in pieces.by_ref().zip(mask.chunks_exact(2)) {
        let m = u32::from(u16::from_le_bytes([m[0], m[1]]));
        let v: &mut [T; 16] = v.try_into().expect("sixteen elements");
        for (i, v) in v.iter_mut().enumerate() {
            *v = v.kept(m >> i & 1);
        }
    }
    let tail = pieces.into_remainder();
    let from = length - tail.len();
    for (i, v) in tail.iter_mut().enumerate() {
        *v = v.kept(u32::from(mask[(from + i) / 8] >> ((from + i) % 8) & 1));
    }
}

/// Numbers that a bit switches off without a branch.
pub trait Bits: Copy {
    /// The number itself where `bit` is 1, zero where it is 0.
    fn kept(self, bit: u32) -> Self;
}
impl Bits for f32 {
    #[inline(always)]
    fn kept(self, bit: u32) -> Self {
        Self::from_bits(self.to_bits() & 0u32.wrapping_sub(bit))
    }
}
impl Bits for f64 {
    #[inline(always)]
    fn kept(self, bit: u32) -> Self {
        Self::from_bits(self.to_bits() & 0u64.wrapping_sub(u64::from(bit)))
    }
}
