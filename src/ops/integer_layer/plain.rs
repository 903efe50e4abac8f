//! The oracle: every step by itself, in f64.

use super::{Branch, Steps};
use crate::Result;
use crate::ops::conv2d::Geometry;
use crate::ops::conv2d_int::{Ranges, sums_f64};
use crate::quant::{Affine, RoundEven};
use crate::tensor::{DType, Tensor};

fn wide(a: &Affine<f32>) -> Affine<f64> {
    let of = f64::from;
    Affine { scale: of(a.scale), zero: of(a.zero), low: of(a.low), high: of(a.high) }
}

fn values(branch: &Branch) -> Result<Vec<f64>> {
    let v = branch.tensor().to_f64()?;
    Ok(match branch {
        Branch::Real(_) => v,
        Branch::Codes(_, a) => v.into_iter().map(|q| wide(a).value(q)).collect(),
    })
}

/// Sums times units, F64 `[n p q k]`.
pub fn sums(x: &Tensor, codes: &[i8], ranges: &Ranges<f32>, g: &Geometry) -> Result<Tensor> {
    let wide = Ranges::new(wide(&ranges.x), ranges.w.iter().map(wide).collect());
    let mut y = Tensor::empty(&x.device(), [g.n, g.p, g.q, g.k], DType::F64)?;
    sums_f64(x.host(), codes, &wide, y.host_mut(), g);
    Ok(y)
}

pub fn finish(steps: &Steps, channels: usize, x: &Branch, residual: Option<&Branch>) -> Result<Tensor> {
    let t = x.tensor();
    let residual = residual.map(values).transpose()?;
    let mut out = values(x)?;
    for (i, v) in out.iter_mut().enumerate() {
        let k = i % channels;
        let of = |v: &Vec<f32>| f64::from(v[k]);
        *v += steps.bias.as_ref().map_or(0.0, of);
        if let Some([mean, scale, shift]) = &steps.norm {
            *v = (*v - of(mean)) * of(scale) + of(shift);
        }
        *v += residual.as_ref().map_or(0.0, |r| r[i]);
        if steps.relu && *v <= 0.0 {
            *v = 0.0;
        }
    }
    match &steps.to {
        None => Tensor::from_slice(&t.device(), t.shape(), &out),
        Some(to) => {
            let codes: Vec<i8> = out.iter().map(|v| wide(to).code(*v).to_code()).collect();
            Tensor::from_slice(&t.device(), t.shape(), &codes)
        }
    }
}
