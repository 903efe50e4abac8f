//! What a device can do at most, measured: bytes copied and, on the CPU, multiply-adds in registers.

use crate::Result;
use crate::device::{Device, VectorWidth};
use crate::tensor::{DType, Tensor};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::hint::black_box;
use std::time::Instant;

/// Bytes read and written by each copy: from what every cache holds to what none does.
pub const COPIED: [usize; 5] = [1 << 16, 1 << 19, 1 << 22, 1 << 25, 1 << 28];
/// Bytes that a thread copies at a time.
const PIECE: usize = 1 << 16;
/// Bytes that are copied for one measurement, at least.
const ENOUGH: usize = 1 << 25;

/// Buffers of one copy.
pub struct Copy {
    from: Tensor,
    to: Tensor,
}

impl Copy {
    /// Reads `bytes / 2` and writes as many.
    pub fn new(device: &Device, bytes: usize) -> Result<Self> {
        let half = || Tensor::zeros(device, [bytes / 2 / 4], DType::F32);
        let mut copy = Self { from: half()?, to: half()? };
        copy.run()?;
        Ok(copy)
    }

    /// Bytes per second, read and written, of as many copies as take a while. On the CPU the threads share each; on a GPU
    /// the driver copies.
    pub fn bytes_per_second(&mut self) -> Result<f64> {
        let bytes = 2 * self.from.len() * 4;
        let n = ENOUGH.div_ceil(bytes);
        let device = self.from.device();
        let seconds = device.timed(|| (0..n).try_for_each(|_| self.run()))?;
        Ok((n * bytes) as f64 / seconds)
    }

    fn run(&mut self) -> Result<()> {
        if self.from.gpu().is_some() {
            return self.to.copy_from(&self.from);
        }
        let from = self.from.host::<f32>().par_chunks(PIECE / 4);
        self.to.host_mut::<f32>().par_chunks_mut(PIECE / 4).zip(from).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(self.to.host::<f32>());
        Ok(())
    }
}

/// f32 operations per second of all threads, multiply and add counted as two: chains of multiply-adds long enough to hide
/// each other's latency, nothing read or written. What no kernel can pass.
pub fn cpu_flops_per_second() -> f64 {
    const ROUNDS: usize = 1 << 19;
    let start = Instant::now();
    let done = rayon::broadcast(|_| {
        let (operations, sum) = match VectorWidth::here() {
            VectorWidth::Avx512 => pulp::Arch::new().dispatch(Chains(ROUNDS)),
            #[cfg(target_arch = "x86_64")]
            VectorWidth::Avx2 => match pulp::x86::V3::try_new() {
                Some(v3) => Simd::vectorize(v3, Chains(ROUNDS)),
                None => Chains(ROUNDS).with_simd(pulp::Scalar::new()),
            },
            _ => Chains(ROUNDS).with_simd(pulp::Scalar::new()),
        };
        black_box(sum);
        operations
    });
    done.iter().sum::<f64>() / start.elapsed().as_secs_f64()
}

/// Rounds of one multiply-add on each of [`Chains::AT_ONCE`] registers: operations, and a sum that depends on them all.
struct Chains(usize);

impl Chains {
    const AT_ONCE: usize = 12;
}

impl WithSimd for Chains {
    type Output = (f64, f32);
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f64, f32) {
        let (a, b) = (simd.splat_f32s(black_box(0.999)), simd.splat_f32s(black_box(1e-3)));
        let mut chains = [b; Self::AT_ONCE];
        for _ in 0..self.0 {
            for c in &mut chains {
                *c = simd.mul_add_e_f32s(*c, a, b);
            }
        }
        let sum = chains.into_iter().map(|c| simd.reduce_sum_f32s(c)).sum();
        ((2 * self.0 * Self::AT_ONCE * S::F32_LANES) as f64, sum)
    }
}
