//! Sum of two values.

use super::super::Graph;
use super::super::deployed::{Deployment, FinishStep, OnnxNode, Step};
use super::super::run::Run;
use super::{Arity, Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::elementwise::add;
use crate::ops::integer_layer::Steps;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Adds two values of one shape.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Add {}

impl Kind for Add {
    fn name(&self) -> &'static str {
        "add"
    }
    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        same(x)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        add(run.tape, &x[0], &x[1])
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        FinishStep::boxed(at, Steps::default())
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let [a, b] = [node.inputs[0].clone(), node.inputs[1].clone()];
        Ok(node.output("Add", &[&a, &b], &[]))
    }
}

/// Returns the shape of two inputs that must be alike.
pub(super) fn same(x: &[Shape]) -> Outcome<Shape> {
    match *x {
        [a, b] if a == b => Ok(a),
        [a, b] => Err(format!("{a} and {b} differ in shape")),
        _ => Err("has not two inputs".into()),
    }
}
