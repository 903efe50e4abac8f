//! Activations, element by element, any shape. Functions are those of the ONNX standard's operators of the same names.
//!
//! Kinds whose derivative follows from the output save the output, the others their input ([`Activation::saves_input`]). At a
//! bend the gradient is that of the flat (negative) side.

mod cases;
mod cpu;
mod curves;

pub use cases::cases;

use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x > 0 ? x : slope x`, slope > 0.
    LeakyRelu(f32),
    Tanh,
    /// `min(max(x, low), high)`, both ends finite. An open end is the largest finite number.
    Clip {
        low: f32,
        high: f32,
    },
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `max(0, min(1, alpha x + beta))`.
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    /// `x sigmoid(x)`.
    Silu,
    /// `x max(0, min(1, x / 6 + 1 / 2))`.
    HardSwish,
    /// `x > 0 ? x : alpha (e^x - 1)`, alpha > 0.
    Elu(f32),
    /// `x P(X < x)` for a standard normal X, or its form with a hyperbolic tangent.
    Gelu {
        tanh: bool,
    },
    /// `x tanh(softplus(x))`.
    Mish,
    /// `ln(1 + e^x)`.
    Softplus,
}

/// The f32 nearest to 1/6, which the ONNX operator takes too.
const HARD_SWISH_SLOPE: f32 = 1.0 / 6.0;

impl Activation {
    /// `min(max(x, 0), 6)`.
    pub const RELU6: Self = Self::Clip { low: 0.0, high: 6.0 };

    /// The op's name, as in tables.
    pub fn name(&self) -> &'static str {
        match *self {
            Self::Relu => "relu",
            Self::LeakyRelu(_) => "leaky_relu",
            Self::Tanh => "tanh",
            Self::RELU6 => "relu6",
            Self::Clip { .. } => "clip",
            Self::Sigmoid => "sigmoid",
            Self::HardSigmoid { .. } => "hard_sigmoid",
            Self::Silu => "silu",
            Self::HardSwish => "hard_swish",
            Self::Elu(_) => "elu",
            Self::Gelu { .. } => "gelu",
            Self::Mish => "mish",
            Self::Softplus => "softplus",
        }
    }

    /// Whether its numbers make it a function that has a gradient here. Errors say which number is wrong.
    pub fn check(&self) -> std::result::Result<(), String> {
        let positive = |v: f32| v.is_finite() && v > 0.0;
        match *self {
            Self::LeakyRelu(slope) if !positive(slope) => {
                Err(format!("leaky_relu slope must be finite and > 0, got {slope}"))
            }
            Self::Elu(alpha) if !positive(alpha) => Err(format!("elu alpha must be finite and > 0, got {alpha}")),
            Self::Clip { low, high } if !(low.is_finite() && high.is_finite() && low < high) => {
                Err(format!("clip needs finite ends, the first below the second, got {low} and {high}"))
            }
            Self::HardSigmoid { alpha, beta } if !(alpha.is_finite() && beta.is_finite()) => {
                Err(format!("hard_sigmoid needs finite numbers, got alpha {alpha} and beta {beta}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the gradient is computed from the input. Else it is computed from the output.
    pub fn saves_input(&self) -> bool {
        matches!(self, Self::Silu | Self::HardSwish | Self::Gelu { .. } | Self::Mish)
    }

    /// What `kernels/activation.cu` calls it, with its numbers.
    fn code(self) -> (i32, f32, f32) {
        match self {
            Self::Relu => (0, 0.0, 0.0),
            Self::LeakyRelu(slope) => (1, slope, 0.0),
            Self::Tanh => (2, 0.0, 0.0),
            Self::Clip { low, high } => (3, low, high),
            Self::Sigmoid => (4, 0.0, 0.0),
            Self::HardSigmoid { alpha, beta } => (5, alpha, beta),
            Self::Silu => (6, 0.0, 0.0),
            Self::HardSwish => (7, HARD_SWISH_SLOPE, 0.5),
            Self::Elu(alpha) => (8, alpha, 0.0),
            Self::Gelu { tanh: false } => (9, 0.0, 0.0),
            Self::Gelu { tanh: true } => (10, 0.0, 0.0),
            Self::Mish => (11, 0.0, 0.0),
            Self::Softplus => (12, 0.0, 0.0),
        }
    }
}

/// `y = activation(x)`. F32 (F64 on the CPU), any shape. Errors where [`Activation::check`] does.
pub fn activation(tape: &mut Tape, x: &Var, kind: Activation) -> Result<Var> {
    kind.check().map_err(|e| crate::Error::op("activation", e))?;
    let mut y = Tensor::empty_like(&x.value, x.shape())?;
    if x.value.gpu().is_some() {
        let kernel = if kind.code().0 < SMOOTH { "activation_fwd_f32" } else { "activation_smooth_fwd_f32" };
        gpu(kernel, &x.value, &x.value, &mut y, kind)?;
    } else {
        crate::for_real!("activation", x.dtype(), T => {
            cpu::forward::<T>(kind, x.value.host(), y.host_mut());
            Ok(())
        })?;
    }
    let saved = if kind.saves_input() { x.value.clone() } else { y.clone() };
    Ok(tape.record_one(ActivationOp { saved, kind }, &[x], y))
}

/// The first kind of the kernels for functions that need exponentials.
const SMOOTH: i32 = 4;

struct ActivationOp {
    saved: Tensor,
    kind: Activation,
}

impl Op for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let Self { saved, kind } = *self;
        let mut dx = Tensor::empty_like(&saved, saved.shape())?;
        if saved.gpu().is_some() {
            let kernel = if kind.code().0 < SMOOTH { "activation_bwd_f32" } else { "activation_smooth_bwd_f32" };
            gpu(kernel, &saved, &dy, &mut dx, kind)?;
        } else {
            crate::for_real!("activation", dy.dtype(), T => {
                cpu::backward::<T>(kind, saved.host(), dy.host(), dx.host_mut());
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

fn gpu(kernel: &'static str, a: &Tensor, b: &Tensor, out: &mut Tensor, kind: Activation) -> Result<()> {
    let (code, first, second) = kind.code();
    Launch::over_quads(kernel, a.len(), 256)
        .ptr(a.address())
        .ptr(b.address())
        .ptr(out.address())
        .val(a.len() as i32)
        .val(code)
        .val(first)
        .val(second)
        .run(a.gpu().expect("called for GPU tensors"))
}

#[cfg(test)]
mod tests;
