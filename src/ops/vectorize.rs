//! Runs a loop compiled for the widest vectors of this CPU (AVX-512, AVX2, or the baseline), chosen at run time.
//!
//! The binary itself is built for the baseline x86-64 (or other) target and runs anywhere. A loop gains only if the
//! closure and all it calls are inlined, so callees carry `#[inline(always)]`.

use pulp::WithSimd;

struct Body<F>(F);

impl<R, F: FnOnce() -> R> WithSimd for Body<F> {
    type Output = R;
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> R {
        let _ = simd;
        (self.0)()
    }
}

/// Calls `f` with this CPU's vector instructions enabled. Write `vectorize(#[inline(always)] || ...)`.
#[inline]
pub fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(Body(f))
}
