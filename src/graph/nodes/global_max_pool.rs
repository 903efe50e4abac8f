//! Maximum over the whole map.

use super::super::Graph;
use super::super::deployed::{Deployment, OnValues, OnnxNode, Step};
use super::super::run::Run;
use super::extent::image;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::pool::global_max_pool;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Takes the maximum of `n h w c` over height and width, `n c`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GlobalMaxPool {}

impl Kind for GlobalMaxPool {
    fn name(&self) -> &'static str {
        "global_max_pool"
    }
    fn moves_codes(&self) -> bool {
        true
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let [n, _, _, c] = image(x)?;
        Ok([n, c].into())
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        global_max_pool(run.tape, &x[0])
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        OnValues::returning_codes(at)
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let x = node.inputs[0].clone();
        let pooled = node.part("GlobalMaxPool", &[&x], "pooled", &[]);
        Ok(node.output("Flatten", &[&pooled], &[]))
    }
}
