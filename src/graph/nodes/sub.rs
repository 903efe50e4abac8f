//! Difference of two values.

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::{Arity, Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::elementwise::sub;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Subtracts the second value from the first, of one shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sub {}

impl Kind for Sub {
    fn name(&self) -> &'static str {
        "sub"
    }
    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        super::add::same(x)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        sub(run.tape, &x[0], &x[1])
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let [a, b] = [node.inputs[0].clone(), node.inputs[1].clone()];
        Ok(node.output("Sub", &[&a, &b], &[]))
    }
}
