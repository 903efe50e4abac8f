//! Maximum over windows.

use super::super::Graph;
use super::super::deployed::{Deployment, OnValues, OnnxNode, Step};
use super::super::run::Run;
use super::extent::{bounded, image};
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::pool::max_pool;
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Takes the maximum of each window; padding never wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool {
    pub k: usize,
    pub stride: usize,
    pub pad: usize,
}

impl Kind for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }
    fn moves_codes(&self) -> bool {
        true
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        pooled(x, [self.k, self.stride, self.pad])
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        max_pool(run.tape, &x[0], self.k, self.stride, self.pad)
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        // The largest value's code: values of codes give their codes back.
        OnValues::returning_codes(at)
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let x = node.inputs[0].clone();
        Ok(node.output("MaxPool", &[&x], &window([self.k, self.stride, self.pad])))
    }
}

/// Returns the shape of a pooled map.
pub(super) fn pooled(x: &[Shape], [k, stride, pad]: [usize; 3]) -> Outcome<Shape> {
    let [n, h, w, c] = image(x)?;
    bounded(&[k, stride, pad])?;
    if k == 0 || stride == 0 || 2 * pad > k || h + 2 * pad < k || w + 2 * pad < k {
        return Err(format!("a window of {k} at stride {stride} with padding {pad} does not fit {h}x{w}"));
    }
    Ok([n, (h + 2 * pad - k) / stride + 1, (w + 2 * pad - k) / stride + 1, c].into())
}

/// Returns the attributes of a pooling window.
pub(super) fn window([k, stride, pad]: [usize; 3]) -> [(&'static str, Attribute); 3] {
    let both = |v: usize| Attribute::Ints(vec![v as i64; 2]);
    [("kernel_shape", both(k)), ("strides", both(stride)), ("pads", Attribute::Ints(vec![pad as i64; 4]))]
}
