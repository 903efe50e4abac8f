//! Average over windows.

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::max_pool::{pooled, window};
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::pool::avg_pool;
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Averages each window; padding counts as zeros.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AvgPool {
    pub k: usize,
    pub stride: usize,
    pub pad: usize,
}

impl Kind for AvgPool {
    fn name(&self) -> &'static str {
        "avg_pool"
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        pooled(x, [self.k, self.stride, self.pad])
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        avg_pool(run.tape, &x[0], self.k, self.stride, self.pad)
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let x = node.inputs[0].clone();
        let [a, b, c] = window([self.k, self.stride, self.pad]);
        Ok(node.output("AveragePool", &[&x], &[a, b, c, ("count_include_pad", Attribute::Int(1))]))
    }
}
