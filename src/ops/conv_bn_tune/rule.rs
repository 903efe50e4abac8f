//! Gradient rule of the fused convolution and batch normalization.

use super::{Fold, OP};
use crate::Result;
use crate::autograd::{Backward, GradMode, Op};
use crate::ops::conv2d::{
    Conv2dParams, Parts, Source, bias_grad, bias_parts, dgrad, dgrad_finishing, layer_parts, wgrad, wgrad_codes,
};
use crate::ops::fake_quant::{Codes, values_of};
use crate::quant::Affine;
use crate::tensor::{DType, Real, Shape, Tensor};
use rayon::prelude::*;

/// An input as it is kept for the filter's gradient.
pub(in crate::ops) enum Kept {
    Values(Tensor),
    /// With one range.
    Codes(Codes),
}

impl Kept {
    fn source(&self) -> Source<'_> {
        match self {
            Self::Values(x) => Source::Values(x),
            Self::Codes(q) => Source::Codes(q),
        }
    }

    /// Overwrites `dw`, on the CPU.
    fn wgrad(&self, dy: &Tensor, dw: &mut Tensor, p: Conv2dParams) -> Result<()> {
        match self {
            Self::Values(x) => wgrad(x, dy, dw, GradMode::Overwrite, p),
            Self::Codes(q) => {
                if dy.dtype() == DType::F32 {
                    let a = Affine::new(q.lo.host::<f32>()[0], q.hi.host::<f32>()[0], q.bits);
                    if wgrad_codes(&q.values, &a, dy, dw, GradMode::Overwrite, p)? {
                        return Ok(());
                    }
                }
                wgrad(&values_of(q)?, dy, dw, GradMode::Overwrite, p)
            }
        }
    }
}

/// Inputs: x, w, gamma, beta, bias.
pub(in crate::ops) struct ConvBnTuneOp {
    /// Kept where w or gamma needs its gradient.
    pub x: Option<Kept>,
    pub x_shape: Shape,
    pub w: Tensor,
    /// The scaled filter, where the forward pass made one.
    pub scaled: Option<Tensor>,
    pub fold: Fold,
    pub p: Conv2dParams,
}

impl Op for ConvBnTuneOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        self.gradients(cx, &dy, None)
    }
}

impl ConvBnTuneOp {
    /// Gradients of the five inputs from the output's, and from its sums `[k]` where they are known.
    pub fn gradients(&self, cx: &mut Backward, dy: &Tensor, sums: Option<Tensor>) -> Result<()> {
        let k = self.fold.mean.len();
        if cx.needs(0) {
            let scaled = match &self.scaled {
                Some(scaled) => scaled.clone(),
                None => self.fold.apply(&self.w)?.parts().0,
            };
            if dy.gpu().is_some() {
                dgrad_finishing(cx, dy, &scaled, self.x_shape, self.p)?;
            } else {
                let (mut dx, mode) = cx.target(0, self.x_shape, dy.dtype())?;
                dgrad(dy, &scaled, &mut dx, mode, self.p)?;
            }
        }
        if (1..5).all(|i| !cx.needs(i)) {
            return Ok(());
        }
        // Those of gamma, beta and the bias, where they end up or on the way there.
        let home = [cx.home(2, [k])?, cx.home(3, [k])?, cx.home(4, [k])?];
        let made = |i: usize| home[i].clone().map_or_else(|| Tensor::empty_like(dy, [k]), Ok);
        let (mut dgamma, mut dshift, mut dbias) = (made(0)?, made(1)?, made(2)?);
        if dy.gpu().is_some() {
            let (dscaled, sums) = match &self.x {
                Some(x) => {
                    let [dw, sums] = layer_parts(x.source(), dy, self.w.shape(), self.p)?;
                    (Some(dw), sums)
                }
                None => (None, bias_parts(dy)?),
            };
            let dw = cx.needs(1).then(|| cx.target(1, self.w.shape(), dy.dtype())).transpose()?;
            self.gpu(dscaled.as_ref(), &sums, dw.as_ref(), [&dgamma, &dshift, &dbias])?;
        } else {
            match sums {
                Some(sums) => dshift.copy_from(&sums)?,
                None => bias_grad(dy, &mut dshift, GradMode::Overwrite)?,
            }
            // Of the scaled filter.
            let dscaled = match &self.x {
                Some(x) => {
                    let mut dw = Tensor::empty_like(dy, self.w.shape())?;
                    x.wgrad(dy, &mut dw, self.p)?;
                    Some(dw)
                }
                None => None,
            };
            let mut dw = cx.needs(1).then(|| cx.target(1, self.w.shape(), dy.dtype())).transpose()?;
            crate::for_real!(OP, dy.dtype(), T => {
                self.cpu::<T>(dscaled.as_ref(), &dshift, dw.as_mut(), [&mut dgamma, &mut dbias]);
                Ok(())
            })?;
        }
        for (i, d) in [dgamma, dshift, dbias].into_iter().enumerate().filter(|(i, _)| home[*i].is_none()) {
            cx.give(2 + i, d)?;
        }
        Ok(())
    }

    fn cpu<T: Real>(
        &self,
        dscaled: Option<&Tensor>,
        dshift: &Tensor,
        dw: Option<&mut (Tensor, GradMode)>,
        [dgamma, dbias]: [&mut Tensor; 2],
    ) {
        let length = self.w.len() / self.fold.mean.len();
        let (w, dshift) = (self.w.host::<T>(), dshift.host::<T>());
        let dscaled: &[T] = dscaled.map_or(&[], |t| t.host());
        // Empty where neither w nor gamma needs its gradient.
        let row = |k: usize| dscaled.get(k * length..(k + 1) * length).unwrap_or_default();
        let (dgamma, dbias) = (dgamma.host_mut::<T>(), dbias.host_mut::<T>());
        dgamma.par_iter_mut().zip(dbias).enumerate().for_each(|(k, (dgamma, dbias))| {
            let along: f64 = row(k).iter().zip(&w[k * length..]).map(|(d, w)| d.f64() * w.f64()).sum();
            let centred = self.fold.centred_bias::<T>(k).f64() * dshift[k].f64();
            *dgamma = T::of(self.fold.inverse::<T>(k) * (along + centred));
            *dbias = self.fold.scale::<T>(k) * dshift[k];
        });
        let Some((dw, mode)) = dw else { return };
        dw.host_mut::<T>().par_chunks_mut(length).enumerate().for_each(|(k, dw)| {
            let scale = self.fold.scale::<T>(k);
            let pairs = dw.iter_mut().zip(row(k));
            match mode {
                GradMode::Overwrite => pairs.for_each(|(dw, d)| *dw = scale * *d),
                GradMode::Accumulate => pairs.for_each(|(dw, d)| *dw += scale * *d),
            }
        });
    }

    /// Adds up the parts of the scaled filter's gradient, in place, and of the output's sums, and takes the gradients from them.
    fn gpu(
        &self,
        dscaled: Option<&Parts>,
        sums: &Parts,
        dw: Option<&(Tensor, GradMode)>,
        vectors: [&Tensor; 3],
    ) -> Result<()> {
        let (k, length) = (self.fold.mean.len(), self.w.len() / self.fold.mean.len());
        let parts = dscaled.map_or(0, |d| d.count);
        let launch = self.fold.launch("conv_bn_tune_grad_f32");
        // Many threads only where there are many parts to add.
        let launch = if parts > 1 { launch.block([1024, 1, 1]) } else { launch };
        let launch = launch
            .ptr(self.w.address())
            .ptr(dscaled.map_or(0, |d| d.values.address()))
            .ptr(sums.values.address())
            .ptr(dw.map_or(0, |(t, _)| t.address()));
        vectors
            .iter()
            .fold(launch, |launch, t| launch.ptr(t.address()))
            .val([k as i32, length as i32, parts as i32, sums.count as i32])
            .val(self.fold.eps)
            .val(dw.map_or(0.0, |(_, mode)| mode.beta()))
            .run(self.w.gpu().expect("called for GPU tensors"))
    }
}
