//! Local response normalization (Krizhevsky et al. 2012).

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::extent::image;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::lrn::{LrnParams, lrn};
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Divides each value by a power of the mean square of its neighbours in other channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lrn {
    pub params: LrnParams,
}

impl Kind for Lrn {
    fn name(&self) -> &'static str {
        "lrn"
    }
    fn pointwise(&self) -> bool {
        true
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        image(x)?;
        self.params.check()?;
        Ok(x[0])
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        lrn(run.tape, &x[0], self.params)
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let LrnParams { size, alpha, beta, bias } = self.params;
        let x = node.inputs[0].clone();
        let float = Attribute::Float;
        let all = [("size", Attribute::Int(size as i64)), ("alpha", float(alpha)), ("beta", float(beta)), ("bias", float(bias))];
        Ok(node.output("LRN", &[&x], &all))
    }
}
