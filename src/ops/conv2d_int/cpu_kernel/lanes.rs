//! The vectors that the kernel is written over. Contract: pointers are valid for `N` words (one for `splat`), aligned or
//! not, and the code runs on a CPU that has the instructions.

/// A vector of `N` i32.
pub(super) trait Lanes: Copy {
    const N: usize;
    unsafe fn zero() -> Self;
    /// Four bytes to all lanes.
    unsafe fn splat(p: *const u8) -> Self;
    unsafe fn load(p: *const i32) -> Self;
    unsafe fn store(self, p: *mut i32);
    /// `self` plus, lane by lane, the sum of the products of the elements of `x` and `w`.
    unsafe fn dot(self, x: Self, w: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Four `u8` times four `i8`.
    impl Lanes for __m512i {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { _mm512_setzero_si512() }
        }
        #[inline(always)]
        unsafe fn splat(p: *const u8) -> Self {
            unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn load(p: *const i32) -> Self {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut i32) {
            unsafe { _mm512_storeu_si512(p.cast(), self) }
        }
        #[inline(always)]
        unsafe fn dot(self, x: Self, w: Self) -> Self {
            unsafe { _mm512_dpbusd_epi32(self, x, w) }
        }
    }

    /// Two `i16` times two `i16`: SSE2, which multiplies 16 bits but not 32.
    impl Lanes for [__m128i; 2] {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { [_mm_setzero_si128(); 2] }
        }
        #[inline(always)]
        unsafe fn splat(p: *const u8) -> Self {
            unsafe { [_mm_set1_epi32(p.cast::<i32>().read_unaligned()); 2] }
        }
        #[inline(always)]
        unsafe fn load(p: *const i32) -> Self {
            unsafe { [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(4).cast())] }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut i32) {
            unsafe {
                _mm_storeu_si128(p.cast(), self[0]);
                _mm_storeu_si128(p.add(4).cast(), self[1]);
            }
        }
        #[inline(always)]
        unsafe fn dot(self, x: Self, w: Self) -> Self {
            unsafe {
                let [a, b] = [_mm_madd_epi16(x[0], w[0]), _mm_madd_epi16(x[1], w[1])];
                [_mm_add_epi32(self[0], a), _mm_add_epi32(self[1], b)]
            }
        }
    }

    /// Two `i16` times two `i16`.
    impl Lanes for __m256i {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn zero() -> Self {
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        unsafe fn splat(p: *const u8) -> Self {
            unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn load(p: *const i32) -> Self {
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut i32) {
            unsafe { _mm256_storeu_si256(p.cast(), self) }
        }
        #[inline(always)]
        unsafe fn dot(self, x: Self, w: Self) -> Self {
            unsafe { _mm256_add_epi32(self, _mm256_madd_epi16(x, w)) }
        }
    }
}

/// What every CPU of this kind has.
#[cfg(target_arch = "x86_64")]
pub(super) type Baseline = [std::arch::x86_64::__m128i; 2];
#[cfg(not(target_arch = "x86_64"))]
pub(super) type Baseline = [i32; 8];

/// Two `i16` times two `i16`.
#[cfg(any(test, not(target_arch = "x86_64")))]
impl Lanes for [i32; 8] {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0; 8]
    }
    #[inline(always)]
    unsafe fn splat(p: *const u8) -> Self {
        unsafe { [p.cast::<i32>().read_unaligned(); 8] }
    }
    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        unsafe { p.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        unsafe { p.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn dot(self, x: Self, w: Self) -> Self {
        // Functions, not values: those would be called by address, and the loop would not vectorize.
        #[inline(always)]
        fn low(v: i32) -> i32 {
            i32::from(v as i16)
        }
        #[inline(always)]
        fn high(v: i32) -> i32 {
            v >> 16
        }
        let mut sum = self;
        for i in 0..8 {
            sum[i] = sum[i].wrapping_add(low(x[i]) * low(w[i])).wrapping_add(high(x[i]) * high(w[i]));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::Lanes;

    fn dot<V: Lanes>(sum: &[i32; 8], x: i32, w: &[i32; 8]) -> [i32; 8] {
        let mut out = [0; 8];
        // SAFETY: eight words each, one for `splat`; instructions of the baseline.
        unsafe {
            let x = V::splat((&raw const x).cast());
            V::load(sum.as_ptr()).dot(x, V::load(w.as_ptr())).store(out.as_mut_ptr());
        }
        out
    }

    /// The lanes of other CPUs give what this one's baseline gives.
    #[test]
    fn plain_lanes_equal_the_baseline() {
        let mut state = 1u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Halves of at most 9 bits, as callers have them.
            let half = |v: u32| (v % 512) as i32 - 256;
            half(state >> 20) << 16 | half(state >> 10) & 0xFFFF
        };
        for _ in 0..100 {
            let (sum, x, w) = (std::array::from_fn(|_| draw()), draw(), std::array::from_fn(|_| draw()));
            assert_eq!(dot::<[i32; 8]>(&sum, x, &w), dot::<super::Baseline>(&sum, x, &w));
        }
    }
}
