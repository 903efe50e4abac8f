//! Product of two values.

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::{Arity, Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::elementwise::mul;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Multiplies two values of one shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mul {}

impl Kind for Mul {
    fn name(&self) -> &'static str {
        "mul"
    }
    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        super::add::same(x)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        mul(run.tape, &x[0], &x[1])
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let [a, b] = [node.inputs[0].clone(), node.inputs[1].clone()];
        Ok(node.output("Mul", &[&a, &b], &[]))
    }
}
