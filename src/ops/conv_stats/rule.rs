//! Gradient rule of the fused layer.

use super::{OP, cpu, gpu};
use crate::Result;
use crate::autograd::{Backward, Op};
use crate::ops::conv_bn_tune::ConvBnTuneOp;
use crate::tensor::Tensor;

/// Inputs: those of `conv_bn_tune` (x, w, gamma, beta, bias), and the residual. Outputs: u, then mean and variance.
pub(super) struct ConvStatsOp {
    pub layer: ConvBnTuneOp,
    pub mask: Option<Tensor>,
    /// `y` and its mean.
    pub stats: Option<(Tensor, Tensor)>,
    /// Elements of an output row.
    pub row: usize,
    pub k: usize,
}

impl Op for ConvStatsOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let du = cx.grad(0);
        if let (Some(done), Some(dy)) = (cx.finished(), &du) {
            if cx.needs(5) {
                cx.give(5, done.kept.unwrap_or_else(|| dy.clone()))?;
            }
            return self.layer.gradients(cx, dy, None);
        }
        let stats = match &self.stats {
            Some((y, mean)) => {
                let (dmean, dvar) = (cx.grad(1), cx.grad(2));
                let none = dmean.is_none() && dvar.is_none();
                let zero = || -> Result<Tensor> {
                    let mut zero = Tensor::empty_like(mean, mean.shape())?;
                    zero.fill_zero()?;
                    Ok(zero)
                };
                let or_zero = |t: Option<Tensor>| t.map_or_else(zero, Ok);
                if none { None } else { Some((y, [mean.clone(), or_zero(dmean)?, or_zero(dvar)?])) }
            }
            None => None,
        };
        // Statistics alone may lead to the loss: then there is no gradient of u.
        let reached = du.is_some();
        let (du, mask) = match (du, &stats) {
            (Some(du), _) => (du, self.mask.as_ref()),
            (None, Some((y, _))) => {
                let mut zero = Tensor::empty_like(y, y.shape())?;
                zero.fill_zero()?;
                (zero, None)
            }
            (None, None) => return Ok(()),
        };
        let residual = cx.needs(5) && reached;
        if mask.is_none() && stats.is_none() {
            if residual {
                cx.give(5, du.clone())?;
            }
            return self.layer.gradients(cx, &du, None);
        }
        let mut dresidual =
            if residual && stats.is_some() { Some(Tensor::empty_like(&du, du.shape())?) } else { None };
        let dy = if du.gpu().is_some() {
            gpu::backward(&du, mask, stats.as_ref().map(|(y, s)| (*y, s)), dresidual.as_ref(), [self.row, self.k])?
        } else {
            // In place, where nobody else holds this gradient.
            let mut dy = if du.is_unique() { du } else { du.duplicate()? };
            crate::for_real!(OP, dy.dtype(), T => {
                let sweep = cpu::Backward::<T> {
                    mask: mask.map(|m| m.host()),
                    stats: stats.as_ref().map(|(y, [mean, dmean, dvar])| {
                        (y.host(), [mean.host(), dmean.host(), dvar.host()])
                    }),
                    row: self.row,
                    k: self.k,
                };
                sweep.run(dy.host_mut(), dresidual.as_mut().map(|d| d.host_mut()));
                Ok(())
            })?;
            dy
        };
        if residual {
            cx.give(5, dresidual.unwrap_or_else(|| dy.clone()))?;
        }
        self.layer.gradients(cx, &dy, None)
    }
}
