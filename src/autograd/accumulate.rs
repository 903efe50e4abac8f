//! `y += x`, the tape's own arithmetic: a value used twice receives the sum of two gradients.

use crate::Result;
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

/// Adds `x` to `y` element by element. Same shape, dtype (F32, or F64 on the CPU) and device.
pub fn accumulate(y: &mut Tensor, x: &Tensor) -> Result<()> {
    crate::ensure_op!(y.len() == x.len(), "accumulate", "gradients of shape {} and {} meet", y.shape(), x.shape());
    if let Some(gpu) = x.gpu() {
        return Launch::over_quads("accumulate_f32", x.len(), 256)
            .ptr(y.address())
            .ptr(x.address())
            .val(x.len() as i32)
            .run(gpu);
    }
    crate::for_real!("accumulate", x.dtype(), T => {
        cpu::<T>(y.host_mut(), x.host());
        Ok(())
    })
}

fn cpu<T: Real>(y: &mut [T], x: &[T]) {
    y.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14)).for_each(|(y, x)| {
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    });
}
