//! Gradient rule of batch normalization.

use super::scales;
use crate::Result;
use crate::autograd::{Backward, Op};
use crate::device::{Gpu, Launch};
use crate::ops::channel_stats::Stages;
use crate::ops::columns::Columns;
use crate::tensor::{Real, Tensor};

/// Inputs: x, gamma, beta.
pub(super) struct BatchNormOp {
    /// Kept where the batch statistics or gamma's gradient need it.
    pub x: Option<Tensor>,
    pub gamma: Option<Tensor>,
    pub mean: Tensor,
    pub var: Tensor,
    pub eps: f32,
    pub train: bool,
}

impl Op for BatchNormOp {
    fn name(&self) -> &'static str {
        if self.train { "batch_norm_train" } else { "batch_norm_eval" }
    }

    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let needs = [cx.needs(0), cx.needs(1), cx.needs(2)];
        let c = self.mean.len();
        let mut dx = needs[0].then(|| Tensor::empty_like(&dy, dy.shape())).transpose()?;
        let sums = if let Some(gpu) = dy.gpu() {
            self.gpu(gpu, &dy, dx.as_mut(), needs[1] || needs[2])?
        } else {
            crate::for_real!("batch_norm", dy.dtype(), T => self.cpu::<T>(&dy, dx.as_mut(), needs[1] || needs[2]))?
        };
        if let Some(dx) = dx {
            cx.give(0, dx)?;
        }
        // [dbeta, dgamma] of c values each.
        if let Some(sums) = sums {
            cx.give(1, sums.view(c, [c])?)?;
            cx.give(2, sums.view(0, [c])?)?;
        }
        Ok(())
    }
}

impl BatchNormOp {
    fn cpu<T: Real>(&self, dy: &Tensor, dx: Option<&mut Tensor>, affine: bool) -> Result<Option<Tensor>> {
        let c = self.mean.len();
        let (mean, var) = (self.mean.host::<T>(), self.var.host::<T>());
        let columns = Columns::new(c);
        let scale = scales::<T>(&columns, &self.var, self.gamma.as_ref(), self.eps);
        let dy_host = dy.host::<T>();
        // When only beta's gradient is wanted of x there is none, and the second sum is not used.
        let x = self.x.as_ref().map_or(dy_host, |x| x.host::<T>());
        let sum = |x: f64, dy: f64| (dy, dy * x);
        let eval_dx = |_: T, dy: T, [scale]: [T; 1]| dy * scale;
        let [first, second] = match dx {
            Some(dx) if self.train => {
                let m = T::of((dy.len() / c) as f64);
                let sums = columns.sums(x, dy_host, sum);
                let centre = columns.table(|i| mean[i]);
                let offset = columns.table(|i| T::of(sums[0][i]) / m);
                let slope = columns.table(|i| {
                    let centred = sums[1][i] - mean[i].f64() * sums[0][i];
                    T::of(centred / (var[i].f64() + f64::from(self.eps))) / m
                });
                columns.map(
                    dx.host_mut(),
                    x,
                    dy_host,
                    [&centre, &scale, &offset, &slope],
                    #[inline(always)]
                    |x, dy, [centre, scale, offset, slope]| scale * (dy - offset - (x - centre) * slope),
                );
                sums
            }
            Some(dx) if affine => columns.map_and_sums(dx.host_mut(), (x, dy_host), [&scale], eval_dx, sum),
            Some(dx) => {
                columns.map(dx.host_mut(), dy_host, dy_host, [&scale], eval_dx);
                return Ok(None);
            }
            None => columns.sums(x, dy_host, sum),
        };
        if !affine {
            return Ok(None);
        }
        let mut sums = Tensor::empty_like(dy, [2, c])?;
        let (dbeta, dgamma) = sums.host_mut::<T>().split_at_mut(c);
        for i in 0..c {
            dbeta[i] = T::of(first[i]);
            let centred = second[i] - mean[i].f64() * first[i];
            dgamma[i] = T::of(centred / (var[i].f64() + f64::from(self.eps)).sqrt());
        }
        Ok(Some(sums))
    }

    fn gpu(&self, gpu: &Gpu, dy: &Tensor, dx: Option<&mut Tensor>, affine: bool) -> Result<Option<Tensor>> {
        let [rows, c] = dy.shape().rows_cols();
        let x = self.x.as_ref().map_or(0, Tensor::address);
        let sums = if affine || self.train {
            let plan = Stages::new(rows, c);
            let first = plan
                .first("batch_norm_bwd_sums_f32")
                .ptr(x)
                .ptr(dy.address())
                .ptr(self.mean.address())
                .ptr(self.var.address())
                .val(self.eps);
            Some(plan.sum_pairs(dy, gpu, first)?)
        } else {
            None
        };
        if let Some(dx) = dx {
            let through_statistics = if self.train { sums.as_ref() } else { None };
            Launch::over("batch_norm_bwd_dx_f32", dy.len(), 256)
                .ptr(x)
                .ptr(dy.address())
                .ptr(self.mean.address())
                .ptr(self.var.address())
                .ptr(self.gamma.as_ref().map_or(0, Tensor::address))
                .ptr(through_statistics.map_or(0, Tensor::address))
                .ptr(dx.address())
                .val(dy.len() as i32)
                .val(c as i32)
                .val(self.eps)
                .val(1.0 / rows as f32)
                .run(gpu)?;
        }
        Ok(sums.filter(|_| affine))
    }
}
