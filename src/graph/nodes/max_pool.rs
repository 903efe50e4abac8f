//! Maximum over windows.

use super::super::Graph;
use super::super::deployed::{Deployment, OnValues, OnnxNode, Step};
use super::super::run::Run;
use super::extent::image;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::pool::{PoolParams, max_pool};
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Takes the maximum of each window; padding never wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool {
    pub params: PoolParams,
}

impl Kind for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }
    fn moves_codes(&self) -> bool {
        true
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        pooled(x, &self.params)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        max_pool(run.tape, &x[0], self.params)
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        // The largest value's code: values of codes give their codes back.
        OnValues::returning_codes(at)
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let x = node.inputs[0].clone();
        Ok(node.output("MaxPool", &[&x], &window(&self.params)))
    }
}

/// Returns the shape of a pooled map.
pub(super) fn pooled(x: &[Shape], params: &PoolParams) -> Outcome<Shape> {
    let [n, h, w, c] = image(x)?;
    let [oh, ow] = params.output([h, w])?;
    Ok([n, oh, ow, c].into())
}

/// Returns the attributes of a pooling window.
pub(super) fn window(p: &PoolParams) -> Vec<(&'static str, Attribute)> {
    let ints = |v: &[usize]| Attribute::Ints(v.iter().map(|&v| v as i64).collect());
    vec![
        ("kernel_shape", ints(&p.kernel)),
        ("strides", ints(&p.stride)),
        ("pads", ints(&p.pad)),
        ("ceil_mode", Attribute::Int(i64::from(p.ceil))),
    ]
}
