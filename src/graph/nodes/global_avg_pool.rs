//! Average over the whole map.

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::extent::image;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::pool::global_avg_pool;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Averages `n h w c` over height and width to `n c`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GlobalAvgPool {}

impl Kind for GlobalAvgPool {
    fn name(&self) -> &'static str {
        "global_avg_pool"
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let [n, _, _, c] = image(x)?;
        Ok([n, c].into())
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        global_avg_pool(run.tape, &x[0])
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let x = node.inputs[0].clone();
        let pooled = node.part("GlobalAveragePool", &[&x], "pooled", &[]);
        Ok(node.output("Flatten", &[&pooled], &[]))
    }
}
