//! Average over windows.

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::max_pool::{pooled, window};
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::pool::{PoolParams, avg_pool};
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Averages each window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AvgPool {
    pub params: PoolParams,
}

impl Kind for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        pooled(x, &self.params)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        avg_pool(run.tape, &x[0], self.params)
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let x = node.inputs[0].clone();
        let mut all = window(&self.params);
        all.push(("count_include_pad", Attribute::Int(i64::from(self.params.count_pad))));
        Ok(node.output("AveragePool", &[&x], &all))
    }
}
