//! Channels of several values side by side.

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::extent::first;
use super::{Arity, Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::concat::concat;
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Joins the inputs along their last dimension.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Concat {}

impl Kind for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }
    fn arity(&self) -> Arity {
        Arity::AtLeast(1)
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let head = first(x)?;
        let Some((_, outer)) = head.split_last().filter(|(_, outer)| !outer.is_empty()) else {
            return Err("its input is empty".into());
        };
        let mut channels = 0usize;
        for s in x {
            match s.split_last() {
                Some((c, o)) if o == outer => channels = channels.saturating_add(*c),
                _ => return Err(format!("{s} does not fit beside {head}")),
            }
        }
        Ok(Shape::new(&[outer, &[channels]].concat()))
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        concat(run.tape, &x.iter().collect::<Vec<_>>())
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let inputs = node.inputs.to_vec();
        let inputs: Vec<&str> = inputs.iter().map(|s| &s[..]).collect();
        Ok(node.output("Concat", &inputs, &[("axis", Attribute::Int(1))]))
    }
}
