//! Activations on the CPU. The function is chosen outside the loop, and both sides of each choice are values that are already
//! computed, so each loop vectorizes. NaN stays NaN.

use super::curves::{self, Smooth};
use super::{Activation, HARD_SWISH_SLOPE};
use crate::ops::vectorize::vectorize;
use crate::tensor::Real;
use rayon::prelude::*;

/// Writes `f(x)`.
pub(super) fn forward<T: Smooth>(kind: Activation, x: &[T], y: &mut [T]) {
    let of = |v: f32| T::of(f64::from(v));
    match kind {
        Activation::Relu => each(y, x, x, |x, _| if x <= T::zero() { T::zero() } else { x }),
        Activation::LeakyRelu(slope) => {
            let slope = of(slope);
            each(y, x, x, move |x, _| {
                let scaled = x * slope;
                if x <= T::zero() { scaled } else { x }
            });
        }
        Activation::Tanh => each(y, x, x, |x, _| x.tanh()),
        Activation::Clip { low, high } => {
            let (low, high) = (of(low), of(high));
            each(y, x, x, move |x, _| clip(x, low, high));
        }
        Activation::Sigmoid => each(y, x, x, |x, _| curves::sigmoid(x)),
        Activation::HardSigmoid { alpha, beta } => {
            let (alpha, beta) = (of(alpha), of(beta));
            each(y, x, x, move |x, _| clip(x * alpha + beta, T::zero(), T::one()));
        }
        Activation::Silu => each(y, x, x, |x, _| x * curves::sigmoid(x)),
        Activation::HardSwish => {
            let slope = of(HARD_SWISH_SLOPE);
            each(y, x, x, move |x, _| x * clip(x * slope + T::of(0.5), T::zero(), T::one()));
        }
        Activation::Elu(alpha) => {
            let alpha = of(alpha);
            each(y, x, x, move |x, _| {
                let below = alpha * x.exponential_m1();
                if x > T::zero() { x } else { below }
            });
        }
        Activation::Gelu { tanh: false } => each(y, x, x, |x, _| x * x.normal().1),
        Activation::Gelu { tanh: true } => each(y, x, x, |x, _| x * curves::gelu_tanh(x).0),
        Activation::Mish => each(y, x, x, |x, _| x * curves::mish(x).0),
        Activation::Softplus => each(y, x, x, |x, _| curves::softplus(x)),
    }
}

/// Writes `dy f'`, with the derivative taken from what the op saved ([`Activation::saves_input`]).
pub(super) fn backward<T: Smooth>(kind: Activation, saved: &[T], dy: &[T], dx: &mut [T]) {
    let of = |v: f32| T::of(f64::from(v));
    match kind {
        Activation::Relu => each(dx, saved, dy, |y, dy| if y > T::zero() { dy } else { T::zero() }),
        Activation::LeakyRelu(slope) => {
            let slope = of(slope);
            each(dx, saved, dy, move |y, dy| {
                let scaled = dy * slope;
                if y > T::zero() { dy } else { scaled }
            });
        }
        Activation::Tanh => each(dx, saved, dy, |y, dy| dy * (T::one() - y * y)),
        Activation::Clip { low, high } => {
            let (low, high) = (of(low), of(high));
            each(dx, saved, dy, move |y, dy| if y > low && y < high { dy } else { T::zero() });
        }
        Activation::Sigmoid => each(dx, saved, dy, |y, dy| dy * (y * (T::one() - y))),
        Activation::HardSigmoid { alpha, .. } => {
            let alpha = of(alpha);
            each(dx, saved, dy, move |y, dy| {
                let inside = dy * alpha;
                if y > T::zero() && y < T::one() { inside } else { T::zero() }
            });
        }
        Activation::Silu => each(dx, saved, dy, |x, dy| {
            let [s, rest] = curves::sigmoids(x);
            dy * (s + x * s * rest)
        }),
        Activation::HardSwish => {
            let slope = of(HARD_SWISH_SLOPE);
            each(dx, saved, dy, move |x, dy| {
                let gate = x * slope + T::of(0.5);
                let inside = gate + x * slope;
                let rate = if gate <= T::zero() { T::zero() } else { inside };
                dy * if gate >= T::one() { T::one() } else { rate }
            });
        }
        Activation::Elu(alpha) => {
            let alpha = of(alpha);
            each(dx, saved, dy, move |y, dy| {
                let below = dy * (y + alpha);
                if y > T::zero() { dy } else { below }
            });
        }
        Activation::Gelu { tanh: false } => each(dx, saved, dy, |x, dy| {
            let (density, below) = x.normal();
            dy * (below + x * density)
        }),
        Activation::Gelu { tanh: true } => each(dx, saved, dy, |x, dy| dy * curves::gelu_tanh(x).1),
        Activation::Mish => each(dx, saved, dy, |x, dy| dy * curves::mish(x).1),
        // 1 - e^-y is the sigmoid of x.
        Activation::Softplus => each(dx, saved, dy, |y, dy| dy * -(-y).exponential_m1()),
    }
}

#[inline(always)]
fn clip<T: Real>(x: T, low: T, high: T) -> T {
    let x = if x <= low { low } else { x };
    if x >= high { high } else { x }
}

#[inline(always)]
fn each<T: Real>(out: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T + Copy + Sync + Send) {
    const CHUNK: usize = 1 << 14;
    out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(|(out, (a, b))| {
        vectorize(
            #[inline(always)]
            move || {
                // A copy of its own keeps captured constants in registers.
                let f = f;
                for (out, (&a, &b)) in out.iter_mut().zip(a.iter().zip(b)) {
                    *out = f(a, b);
                }
            },
        );
    });
}
