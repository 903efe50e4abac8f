//! Optimizers over flat F32 buffers: parameters and gradients lie side by side, so a step is one pass (one launch).
//! Learning rates come from outside at every step, see [`Rate`] and [`Schedule`].

mod adam;
pub mod inundation;
mod schedule;
mod sgd;

pub use adam::Adam;
pub use schedule::{Plateau, Schedule};
pub use sgd::Sgd;

use crate::Result;
use crate::tensor::{DType, Tensor};

/// A learning rate: a number, or one that is read from device memory when the step runs, so that a recorded launch takes
/// the rate of the day whenever it is replayed.
#[derive(Clone, Debug)]
pub enum Rate {
    Now(f32),
    /// F32 `[1]` on the parameters' device. Whoever writes it sees to it that it is finite and not negative.
    Stored(Tensor),
}

impl From<f32> for Rate {
    fn from(rate: f32) -> Self {
        Self::Now(rate)
    }
}

impl Rate {
    /// The rate times `factor`, on the CPU.
    fn on_host(&self, factor: f32) -> f32 {
        match self {
            Self::Now(rate) => rate * factor,
            Self::Stored(t) => t.host::<f32>()[0] * factor,
        }
    }

    /// For a kernel, the rate times `factor` is `lr`, times what lies at the address unless that is 0.
    fn on_device(&self, factor: f32) -> (f32, u64) {
        match self {
            Self::Now(rate) => (rate * factor, 0),
            Self::Stored(t) => (factor, t.address()),
        }
    }

    fn check(&self, op: &'static str, params: &Tensor) -> Result<()> {
        match self {
            Self::Now(lr) => {
                let good = lr.is_finite() && *lr >= 0.0;
                crate::ensure_op!(good, op, "the learning rate must be finite and >= 0, got {lr}");
            }
            Self::Stored(t) => {
                let good = t.dtype() == DType::F32 && t.len() == 1 && t.device() == params.device();
                crate::ensure_op!(good, op, "a stored rate is F32 [1] on the parameters' device, got {t:?}");
            }
        }
        Ok(())
    }
}

/// Parameters, gradients and the state must be F32, of one length, on one device.
fn check(op: &'static str, params: &Tensor, grads: &Tensor, state: &Tensor, lr: &Rate) -> Result<()> {
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
    lr.check(op, params)
}

/// Elements per task on the CPU.
const PIECE: usize = 1 << 14;
