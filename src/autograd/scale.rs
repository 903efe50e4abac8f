//! Gradients that are numbers.

use crate::tensor::{Real, Tensor};

/// The gradient of a one-element output.
pub enum Scale {
    /// The host knows it: the tape's seed, or what a weighted sum made of it.
    Known(f64),
    Stored(Tensor),
}

impl Scale {
    /// For kernels that multiply with `at ? *at : value`: the address, null if the value is known, and the value.
    pub fn on_device(&self) -> (u64, f32) {
        match self {
            Self::Known(v) => (0, *v as f32),
            Self::Stored(t) => (t.address(), 0.0),
        }
    }
    /// The value; of a stored one on the CPU only.
    pub fn on_host<T: Real>(&self) -> T {
        match self {
            Self::Known(v) => T::of(*v),
            Self::Stored(t) => t.host::<T>()[0],
        }
    }
}
