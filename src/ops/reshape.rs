//! The same elements, in order, under another shape. No data moves.

use super::case::{Case, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::tensor::Shape;

/// `x` under `shape`, which must have as many elements; any dtype and device. The result shares x's buffer.
pub fn reshape(tape: &mut Tape, x: &Var, shape: impl Into<Shape>) -> Result<Var> {
    let y = x.value.reshape(shape)?;
    Ok(tape.record_one(ReshapeOp { shape: x.shape() }, &[x], y))
}

struct ReshapeOp {
    shape: Shape,
}

impl Op for ReshapeOp {
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        cx.give(0, dy.reshape(self.shape)?)
    }
}

pub fn cases() -> Vec<Case> {
    let flat = |t: &mut Tape, v: &[Var]| Ok(vec![reshape(t, &v[0], [v[0].value.len()])?]);
    let image = |t: &mut Tape, v: &[Var]| {
        let n = v[0].value.dim(0);
        Ok(vec![reshape(t, &v[0], [n, 8, 8, 128])?])
    };
    vec![
        Case::new("1x1x1x1_flat", vec![Input::grad([1, 1, 1, 1])], flat),
        Case::new("3x5x7x11_flat", vec![Input::grad([3, 5, 7, 11])], flat),
        Case::new("1x8192_image", vec![Input::grad([1, 8192])], image),
        Case::new("64x8192_image", vec![Input::grad([64, 8192])], image).bench(),
    ]
}
