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

/// Two `i16` times two `i16`.
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
        let [low, high] = [|v: i32| i32::from(v as i16), |v: i32| v >> 16];
        std::array::from_fn(|i| {
            self[i].wrapping_add(low(x[i]) * low(w[i])).wrapping_add(high(x[i]) * high(w[i]))
        })
    }
}
