//! `y = x + eps sign(g)`: the step within `eps` per element that raises a loss with gradient `g` most (fast gradient sign,
//! Goodfellow et al. 2015; HAST, Li et al., CVPR 2023, perturbs training images with it). No gradient.

use super::case::{Case, Fill, GradCheck, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

const OP: &str = "sign_step";

/// `x + eps sign(g)`, `sign(0) = 0`, in a new tensor. `x` and `g` of one shape (any) and dtype, F32 (F64 on the CPU). A NaN
/// in `g` gives NaN. Errors if they differ or `eps` is not finite.
pub fn sign_step(x: &Tensor, g: &Tensor, eps: f32) -> Result<Tensor> {
    let alike = x.shape() == g.shape() && x.dtype() == g.dtype();
    crate::ensure_op!(alike, OP, "{x:?} cannot step along {g:?}");
    crate::ensure_op!(eps.is_finite() && x.len() <= 1 << 30, OP, "a step of {eps} on {} elements", x.len());
    let mut y = Tensor::empty_like(x, x.shape())?;
    if let Some(gpu) = x.gpu() {
        Launch::over("sign_step_fwd_f32", x.len(), 256)
            .ptr(x.address())
            .ptr(g.address())
            .ptr(y.address())
            .val(x.len() as i32)
            .val(eps)
            .run(gpu)?;
        return Ok(y);
    }
    crate::for_real!(OP, x.dtype(), T => {
        cpu::<T>(y.host_mut(), x.host(), g.host(), T::of(f64::from(eps)));
        Ok(())
    })?;
    Ok(y)
}

fn cpu<T: Real>(y: &mut [T], x: &[T], g: &[T], eps: T) {
    const CHUNK: usize = 1 << 14;
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK).zip(g.par_chunks(CHUNK))).for_each(|(y, (x, g))| {
        vectorize(
            #[inline(always)]
            || {
                for (y, (x, g)) in y.iter_mut().zip(x.iter().zip(g)) {
                    let (up, down) = (*x + eps, *x - eps);
                    let level = *x + *g * T::zero();
                    let low = if *g < T::zero() { down } else { level };
                    *y = if *g > T::zero() { up } else { low };
                }
            },
        );
    });
}

pub fn cases() -> Vec<Case> {
    let case = |shape: &[usize], eps: f32| {
        let run =
            move |_: &mut Tape, v: &[Var]| Ok(vec![Var::constant(sign_step(&v[0].value, &v[1].value, eps)?)]);
        // Signs that a rounding does not change; zeros are the test's below.
        let g = Input::plain(shape).fill(Fill::Away { scale: 1.0, step: 100.0, gap: 0.01 });
        let elements = shape.iter().product::<usize>() as f64;
        Case::new(format!("{}", crate::tensor::Shape::from(shape)), vec![Input::plain(shape), g], run)
            .check(GradCheck::None)
            .cost(elements, 12.0 * elements)
    };
    vec![
        case(&[1, 1, 1, 1], 0.01),
        case(&[3, 5, 7, 11], 0.5),
        case(&[2, 4, 4, 3], 0.02),
        case(&[64, 32, 32, 3], 0.01).bench(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn only_the_sign_counts_and_a_zero_stays() {
        for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            let on = |v: &[f32]| Tensor::from_slice(&device, [v.len()], v).unwrap();
            let y = sign_step(&on(&[1.0, 1.0, 1.0, 1.0, 1.0]), &on(&[1e-30, -7.0, 0.0, -0.0, f32::NAN]), 0.25).unwrap();
            let y = y.to_vec::<f32>().unwrap();
            assert_eq!(y[..4], [1.25, 0.75, 1.0, 1.0], "{device:?}");
            assert!(y[4].is_nan(), "{device:?}: a broken gradient was hidden");
            assert!(sign_step(&on(&[1.0]), &on(&[1.0, 2.0]), 0.1).is_err());
            assert!(sign_step(&on(&[1.0]), &on(&[1.0]), f32::NAN).is_err());
        }
    }
}
