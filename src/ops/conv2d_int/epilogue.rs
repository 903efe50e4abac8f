//! What follows an integer convolution in a deployed network, on the CPU, row by row while the sums are in the cache. Each
//! part is the op that it stands for, with the same f32 operations in the same order:
//!
//! ```text
//! v = f32(acc) * unit[k]          the convolution
//! v = v + bias[k]
//! v = (v - mean[k]) * scale[k] + shift[k]      batch_norm_eval
//! v = v + residual                elementwise::add; of codes, (code + zero) / scale
//! v = v <= 0 ? 0 : v              relu
//! q = clamp(round(s v - z))       fake_quant's code
//! ```

use crate::ops::vectorize::vectorize;
use crate::quant::{Affine, RoundEven};

/// `values[k]` for each of `q` pixels.
pub fn table<T: Copy>(values: &[T], q: usize) -> Vec<T> {
    values.iter().copied().cycle().take(q * values.len()).collect()
}

/// Steps of a row of `q` pixels, `k` channels each.
#[derive(Clone, Debug, Default)]
pub struct Epilogue {
    /// `[q k]`.
    bias: Option<Vec<f32>>,
    /// Mean, scale and shift, `[q k]` each.
    norm: Option<[Vec<f32>; 3]>,
    relu: bool,
}

/// The rows of another branch that are added.
#[derive(Clone, Copy, Debug)]
pub enum Residual<'a> {
    None,
    Real(&'a [f32]),
    Codes(&'a [i8], Affine<f32>),
}

impl Epilogue {
    /// Vectors have one value per channel; `norm` is mean, scale, shift.
    pub fn new(bias: Option<&[f32]>, norm: Option<[&[f32]; 3]>, relu: bool, q: usize) -> Self {
        Self { bias: bias.map(|b| table(b, q)), norm: norm.map(|n| n.map(|v| table(v, q))), relu }
    }

    /// Carries `v` (a row of sums times units) through all steps.
    pub fn apply(&self, v: &mut [f32], residual: Residual) {
        vectorize(
            #[inline(always)]
            || {
                self.linear(v, residual);
                if self.relu {
                    v.iter_mut().for_each(|v| *v = relu(*v));
                }
            },
        );
    }

    /// [`Self::apply`], then the codes of `v` into `out`.
    pub fn quantize(&self, v: &mut [f32], residual: Residual, to: &Affine<f32>, out: &mut [i8]) {
        let a = *to;
        vectorize(
            #[inline(always)]
            || {
                self.linear(v, residual);
                let pairs = out.iter_mut().zip(v);
                if self.relu {
                    pairs.for_each(|(q, v)| *q = a.code(relu(*v)).to_code());
                } else {
                    pairs.for_each(|(q, v)| *q = a.code(*v).to_code());
                }
            },
        );
    }

    /// Bias, normalization and residual: few passes over the row, each one a loop that vectorizes.
    #[inline(always)]
    fn linear(&self, v: &mut [f32], residual: Residual) {
        if let Some(b) = &self.bias {
            v.iter_mut().zip(b).for_each(|(v, b)| *v += *b);
        }
        let norm = self.norm.as_ref().map(|[mean, scale, shift]| mean.iter().zip(scale).zip(shift));
        let of = |v: f32, ((mean, scale), shift): ((&f32, &f32), &f32)| (v - *mean) * *scale + *shift;
        match (norm, residual) {
            (None, Residual::None) => {}
            (None, Residual::Real(x)) => v.iter_mut().zip(x).for_each(|(v, x)| *v += *x),
            (None, Residual::Codes(x, a)) => v.iter_mut().zip(x).for_each(|(v, x)| *v += a.value(f32::from(*x))),
            (Some(n), Residual::None) => v.iter_mut().zip(n).for_each(|(v, n)| *v = of(*v, n)),
            (Some(n), Residual::Real(x)) => v.iter_mut().zip(n).zip(x).for_each(|((v, n), x)| *v = of(*v, n) + *x),
            (Some(n), Residual::Codes(x, a)) => {
                v.iter_mut().zip(n).zip(x).for_each(|((v, n), x)| *v = of(*v, n) + a.value(f32::from(*x)));
            }
        }
    }
}

/// NaN stays NaN.
#[inline(always)]
fn relu(v: f32) -> f32 {
    if v <= 0.0 { 0.0 } else { v }
}
