//! Product and sum with constants per channel.

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::extent::first;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::channel_affine::channel_affine;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Computes `x * scale + shift`, both `[c]`. One of them may be absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelAffine {
    pub scale: Option<String>,
    pub shift: Option<String>,
}

impl Kind for ChannelAffine {
    fn name(&self) -> &'static str {
        "channel_affine"
    }
    fn pointwise(&self) -> bool {
        true
    }
    fn tensors(&self) -> Vec<&String> {
        self.scale.iter().chain(&self.shift).collect()
    }
    fn shape(&self, graph: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let x = first(x)?;
        let c = x.last().copied().unwrap_or(0);
        if self.scale.is_none() && self.shift.is_none() {
            return Err("has neither scale nor shift".into());
        }
        for name in self.tensors() {
            let found = graph.tensor(name)?;
            if found[..] != [c] {
                return Err(format!("'{name}' has shape {found}, expected {c} channels"));
            }
        }
        Ok(x)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let (scale, shift) = (run.optional(self.scale.as_ref())?, run.optional(self.shift.as_ref())?);
        channel_affine(run.tape, &x[0], scale.as_ref(), shift.as_ref())
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let c = node.output.last().copied().unwrap_or(0);
        let vector = |name: &Option<String>, absent: f32| match name {
            Some(name) => node.tensors.vector(name).map(|t| t.values.clone()).map_err(|e| e.to_string()),
            None => Ok(vec![absent; c]),
        };
        let (scale, shift) = (vector(&self.scale, 1.0)?, vector(&self.shift, 0.0)?);
        let x = node.inputs[0].clone();
        Ok(node.scale_and_shift(x, &scale, &shift))
    }
}
