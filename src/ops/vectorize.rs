//! Runs a loop compiled for the widest vectors of this CPU (AVX-512, AVX2, or the baseline), chosen at run time.
//!
//! The binary itself is built for the baseline x86-64 (or other) target and runs anywhere. A loop gains only if the
//! closure and all it calls are inlined, so callees carry `#[inline(always)]`.

use crate::device::VectorWidth;
use pulp::{Simd, WithSimd};

struct Body<F>(F);

impl<R, F: FnOnce() -> R> WithSimd for Body<F> {
    type Output = R;
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) -> R {
        let _ = simd;
        (self.0)()
    }
}

/// Calls `f` with the vector instructions enabled that this CPU has and [`VectorWidth::here`] allows. Write
/// `vectorize(#[inline(always)] || ...)`.
#[inline]
pub fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    match VectorWidth::here() {
        VectorWidth::Avx512 => pulp::Arch::new().dispatch(Body(f)),
        #[cfg(target_arch = "x86_64")]
        VectorWidth::Avx2 => match pulp::x86::V3::try_new() {
            Some(v3) => v3.vectorize(f),
            None => f(),
        },
        _ => f(),
    }
}

/// [`vectorize`] for what names its vectors: `op` is given the widest ones.
#[inline]
pub fn with_vectors<Op: WithSimd>(op: Op) -> Op::Output {
    match VectorWidth::here() {
        VectorWidth::Avx512 => pulp::Arch::new().dispatch(op),
        #[cfg(target_arch = "x86_64")]
        VectorWidth::Avx2 => match pulp::x86::V3::try_new() {
            Some(v3) => Simd::vectorize(v3, op),
            None => op.with_simd(pulp::Scalar256b),
        },
        _ => op.with_simd(pulp::Scalar256b),
    }
}
