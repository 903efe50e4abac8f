//! Optimizers over flat F32 buffers: parameters and gradients lie side by side, so a step is one pass (one launch).
//! Learning rates come from outside at every step, see [`Schedule`].

mod adam;
pub mod inundation;
mod schedule;
mod sgd;

pub use adam::Adam;
pub use schedule::{Plateau, Schedule};
pub use sgd::Sgd;

use crate::Result;
use crate::tensor::{DType, Tensor};

/// Parameters, gradients and the state must be F32, of one length, on one device.
fn check(op: &'static str, params: &Tensor, grads: &Tensor, state: &Tensor, lr: f32) -> Result<()> {
    crate::ensure_op!(
        [params, grads].iter().all(|t| t.dtype() == DType::F32 && t.len() == state.len()),
        op,
        "made for {} F32 parameters, got {:?} {} and gradients {:?} {}",
        state.len(),
        params.dtype(),
        params.len(),
        grads.dtype(),
        grads.len()
    );
    let one_device = params.device() == state.device() && grads.device() == state.device();
    crate::ensure_op!(one_device, op, "parameters, gradients and state lie on different devices");
    crate::ensure_op!(lr.is_finite() && lr >= 0.0, op, "the learning rate must be finite and >= 0, got {lr}");
    Ok(())
}

/// Elements per task on the CPU.
const PIECE: usize = 1 << 14;
