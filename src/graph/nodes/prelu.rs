//! ReLU with a learned slope (He et al. 2015).

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::extent::first;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::prelu::prelu;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Computes `x > 0 ? x : slope x`; slope `[c]`, or `[1]` for all channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PRelu {
    pub slope: String,
}

impl Kind for PRelu {
    fn name(&self) -> &'static str {
        "prelu"
    }
    fn pointwise(&self) -> bool {
        true
    }
    fn tensors(&self) -> Vec<&String> {
        vec![&self.slope]
    }
    fn shape(&self, graph: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let (x, slope) = (first(x)?, graph.tensor(&self.slope)?);
        let c = x.last().copied().unwrap_or(0);
        if slope[..] != [c] && slope[..] != [1] {
            return Err(format!("'{}' has shape {slope}, expected {c} channels or 1", self.slope));
        }
        Ok(x)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let slope = run.param(&self.slope)?;
        prelu(run.tape, &x[0], &slope)
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let slope = node.tensors.vector(&self.slope).map_err(|e| e.to_string())?.values.clone();
        let (x, slope) = (node.inputs[0].clone(), node.per_channel("slope", &slope));
        Ok(node.output("PRelu", &[&x, &slope], &[]))
    }
}
