//! ReLU, ReLU6, leaky ReLU and tanh, element by element, any shape.
//!
//! `relu(x) = max(x, 0)`, `relu6(x) = min(max(x, 0), 6)`, `leaky_relu(x) = x > 0 ? x : slope * x`, gradient at 0 taken as the
//! negative side's, at 6 as the flat side's. Backward of all of them reads the *output* only: its sign decides (slope > 0),
//! whether it is below 6, and `tanh' = 1 - y^2`.

use super::case::{Case, Fill, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Relu,
    /// Slope of the negative side, > 0.
    LeakyRelu(f32),
    Tanh,
    Relu6,
}

impl Activation {
    fn code(self) -> (i32, f32) {
        match self {
            Self::Relu => (0, 0.0),
            Self::LeakyRelu(slope) => (1, slope),
            Self::Tanh => (2, 0.0),
            Self::Relu6 => (3, 0.0),
        }
    }
    /// Writes `f(x)`. The function is chosen outside the loop, and both sides of each choice are values that are already
    /// computed (not captured constants, which the compiler would select by address): so each loop vectorizes.
    fn forward<T: Real>(self, x: &[T], y: &mut [T]) {
        match self {
            // NaN stays NaN: a broken value must not be hidden.
            Self::Relu => each(y, x, x, |x, _| if x <= T::zero() { T::zero() } else { x }),
            Self::LeakyRelu(slope) => {
                let slope = T::of(f64::from(slope));
                each(y, x, x, move |x, _| {
                    let scaled = x * slope;
                    if x <= T::zero() { scaled } else { x }
                });
            }
            Self::Tanh => each(y, x, x, |x, _| x.tanh()),
            Self::Relu6 => each(y, x, x, |x, _| {
                let x = if x <= T::zero() { T::zero() } else { x };
                if x >= T::of(6.0) { T::of(6.0) } else { x }
            }),
        }
    }
    /// Writes `dy f'`, with the derivative taken from the output `y`.
    fn backward<T: Real>(self, y: &[T], dy: &[T], dx: &mut [T]) {
        match self {
            Self::Relu => each(dx, y, dy, |y, dy| if y > T::zero() { dy } else { T::zero() }),
            Self::LeakyRelu(slope) => {
                let slope = T::of(f64::from(slope));
                each(dx, y, dy, move |y, dy| {
                    let scaled = dy * slope;
                    if y > T::zero() { dy } else { scaled }
                });
            }
            Self::Tanh => each(dx, y, dy, |y, dy| dy * (T::one() - y * y)),
            Self::Relu6 => each(dx, y, dy, |y, dy| if y > T::zero() && y < T::of(6.0) { dy } else { T::zero() }),
        }
    }
}

/// `y = activation(x)`. F32 (F64 on the CPU), any shape.
pub fn activation(tape: &mut Tape, x: &Var, kind: Activation) -> Result<Var> {
    if let Activation::LeakyRelu(slope) = kind {
        crate::ensure_op!(slope > 0.0, "activation", "leaky_relu slope must be > 0, got {slope}");
    }
    let mut y = Tensor::empty_like(&x.value, x.shape())?;
    if x.value.gpu().is_some() {
        gpu("activation_fwd_f32", &x.value, &x.value, &mut y, kind)?;
    } else {
        crate::for_real!("activation", x.dtype(), T => {
            kind.forward::<T>(x.value.host(), y.host_mut());
            Ok(())
        })?;
    }
    Ok(tape.record_one(ActivationOp { y: y.clone(), kind }, &[x], y))
}

struct ActivationOp {
    y: Tensor,
    kind: Activation,
}

impl Op for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut dx = Tensor::empty_like(&self.y, self.y.shape())?;
        if self.y.gpu().is_some() {
            gpu("activation_bwd_f32", &self.y, &dy, &mut dx, self.kind)?;
        } else {
            crate::for_real!("activation", dy.dtype(), T => {
                self.kind.backward::<T>(self.y.host(), dy.host(), dx.host_mut());
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

#[inline(always)]
fn each<T: Real>(out: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T + Copy + Sync) {
    const CHUNK: usize = 1 << 14;
    out.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(|(out, (a, b))| {
        vectorize(
            #[inline(always)]
            move || {
                for (out, (&a, &b)) in out.iter_mut().zip(a.iter().zip(b)) {
                    *out = f(a, b);
                }
            },
        );
    });
}

fn gpu(kernel: &'static str, a: &Tensor, b: &Tensor, out: &mut Tensor, kind: Activation) -> Result<()> {
    let (code, slope) = kind.code();
    Launch::over_quads(kernel, a.len(), 256)
        .ptr(a.address())
        .ptr(b.address())
        .ptr(out.address())
        .val(a.len() as i32)
        .val(code)
        .val(slope)
        .run(a.gpu().expect("called for GPU tensors"))
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (label, kind) in [("relu", Activation::Relu), ("leaky", Activation::LeakyRelu(0.2)), ("tanh", Activation::Tanh)] {
        for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3]] {
            let input = Input::grad(shape).fill(Fill::Away { scale: 1.0, step: 100.0, gap: 0.01 });
            let run = move |t: &mut Tape, v: &[Var]| Ok(vec![activation(t, &v[0], kind)?]);
            cases.push(Case::new(format!("{label}_{}", crate::tensor::Shape::from(shape)), vec![input], run));
        }
    }
    for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3]] {
        // Both bends are passed; values keep away from them.
        let input = Input::grad(shape).fill(Fill::Away { scale: 6.0, step: 6.0, gap: 0.5 });
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![activation(t, &v[0], Activation::Relu6)?]);
        cases.push(Case::new(format!("relu6_{}", crate::tensor::Shape::from(shape)), vec![input], run));
    }
    let n: usize = 64 * 32 * 32 * 16;
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![activation(t, &v[0], Activation::Relu)?]);
    cases.push(Case::new("relu_64x32x32x16", vec![Input::grad([64, 32, 32, 16])], run).cost(n as f64, 8.0 * n as f64).bench());
    cases
}
