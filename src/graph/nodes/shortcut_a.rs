//! The parameter-free shortcut of CIFAR ResNets (He et al. 2016, option A).

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::extent::{bounded, image};
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::shortcut::shortcut_a;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Takes every `stride`-th pixel and pads channels with zeros to `c_out`, `(c_out - c) / 2` of them first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShortcutA {
    pub stride: usize,
    pub c_out: usize,
}

impl ShortcutA {
    /// Writes the node's operators on `x`, named after `of`.
    pub fn write(&self, node: &mut OnnxNode, x: &str, of: &str) -> String {
        let name = |part: &str| format!("{of}/{part}");
        let step = node.writer.int64s(name("steps"), &[self.stride as i64; 2]);
        let start = node.writer.int64s(name("starts"), &[0; 2]);
        let end = node.writer.int64s(name("ends"), &[i64::MAX; 2]);
        let axes = node.writer.int64s(name("axes"), &[2, 3]);
        let every = node.writer.node("Slice", &[x, &start, &end, &axes, &step], name("subsampled"), &[]);
        let c = node.shapes[0][2];
        let (before, more) = ((self.c_out - c) / 2, self.c_out - c);
        let pads = [0, before as i64, 0, 0, 0, (more - before) as i64, 0, 0];
        let pads = node.writer.int64s(name("pads"), &pads);
        node.writer.node("Pad", &[&every, &pads], of.into(), &[])
    }
}

impl Kind for ShortcutA {
    fn name(&self) -> &'static str {
        "shortcut"
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let [n, h, w, c] = image(x)?;
        bounded(&[self.stride, self.c_out])?;
        if self.stride == 0 || self.c_out < c {
            return Err(format!("stride {}, {c} channels to {}", self.stride, self.c_out));
        }
        Ok([n, h.div_ceil(self.stride), w.div_ceil(self.stride), self.c_out].into())
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        shortcut_a(run.tape, &x[0], self.stride, self.c_out)
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let (x, name) = (node.inputs[0].clone(), node.name.to_string());
        Ok(self.write(node, &x, &name))
    }
}
