//! A choice of channels: slices, splits, shuffles.

use super::super::Graph;
use super::super::deployed::{CodesStep, Deployment, OnnxNode, Step};
use super::super::run::Run;
use super::extent::{bounded, first};
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::gather_channels::{gather_channels, gather_codes};
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Gives channel `index[j]` of the input as channel `j`. Channels may repeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatherChannels {
    pub index: Vec<usize>,
}

impl Kind for GatherChannels {
    fn name(&self) -> &'static str {
        "gather_channels"
    }
    fn moves_codes(&self) -> bool {
        true
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let x = first(x)?;
        bounded(&[self.index.len()])?;
        let Some((c, outer)) = x.split_last().filter(|(_, outer)| !outer.is_empty()) else {
            return Err("its input has no channels".into());
        };
        if let Some(i) = self.index.iter().find(|i| **i >= *c) {
            return Err(format!("takes channel {i} of {c}"));
        }
        Ok(Shape::new(&[outer, &[self.index.len()]].concat()))
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        gather_channels(run.tape, &x[0], &self.index)
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        let index = self.index.clone();
        CodesStep::boxed(at, move |codes| gather_codes(codes, &index))
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let index: Vec<i64> = self.index.iter().map(|&i| i as i64).collect();
        let (x, index) = (node.inputs[0].clone(), node.int64s("index", &index));
        Ok(node.output("Gather", &[&x, &index], &[("axis", Attribute::Int(1))]))
    }
}
