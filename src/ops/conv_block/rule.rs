//! Gradient rule of the fused layer.

use super::{OP, cpu, gpu};
use crate::Result;
use crate::autograd::{Backward, Op};
use crate::ops::conv_bn_tune::ConvBnTuneOp;
use crate::ops::fake_quant::{Codes, Ste, learned_gradients};
use crate::tensor::Tensor;

/// What says which gradients pass.
pub(super) enum Keep {
    /// Neither ReLU nor clipping.
    All,
    /// A bit per element, see `Made::mask`.
    Bits(Tensor),
    /// The quantizer's input, under a learned rule.
    Learned { values: Tensor, codes: Codes, ste: Ste, relu: bool },
}

/// Inputs: those of `conv_bn_tune` (x, w, gamma, beta, bias), residual, and the range under a learned rule.
pub(super) struct ConvBlockOp {
    pub layer: ConvBnTuneOp,
    pub keep: Keep,
    /// Elements of an output row.
    pub row: usize,
    pub k: usize,
}

impl Op for ConvBlockOp {
    fn name(&self) -> &'static str {
        OP
    }

    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let (dv, sums) = match self.keep {
            // Whoever gave the gradient has applied the mask.
            Keep::Bits(_) if cx.finished().is_some() => (dy, None),
            Keep::All => (dy, None),
            Keep::Bits(mask) if dy.gpu().is_some() => (gpu::masked(&dy, &mask, self.row)?, None),
            Keep::Bits(mask) => {
                // In place, where nobody else holds this gradient.
                let mut dv = if dy.is_unique() { dy } else { dy.duplicate()? };
                let mut sums = Tensor::empty_like(&dv, [self.k])?;
                crate::for_real!(OP, dv.dtype(), T => {
                    let found = cpu::masked_sums::<T>(dv.host_mut(), mask.host(), self.row, self.k);
                    sums.host_mut::<T>().copy_from_slice(&found);
                    Ok(())
                })?;
                (dv, Some(sums))
            }
            Keep::Learned { values, codes, ste, relu } => {
                let [dv, dlo, dhi] =
                    learned_gradients(&values, [&codes.lo, &codes.hi], &dy, codes.bits, ste, relu)?;
                cx.give(6, dlo)?;
                cx.give(7, dhi)?;
                (dv, None)
            }
        };
        if cx.needs(5) {
            cx.give(5, dv.clone())?;
        }
        self.layer.gradients(cx, &dv, sums)
    }
}
