//! An input of the network.

use super::super::deployed::{Deployment, OnnxNode, Step};
use super::super::run::Run;
use super::super::{Graph, InputKind};
use super::{Arity, Kind, Outcome};
use crate::autograd::Var;
use crate::tensor::Shape;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Gives the `index`-th input of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    pub index: usize,
}

impl Kind for Input {
    fn name(&self) -> &'static str {
        "input"
    }
    fn arity(&self) -> Arity {
        Arity::Exactly(0)
    }
    fn shape(&self, graph: &Graph, n: usize, _: &[Shape]) -> Outcome<Shape> {
        match graph.inputs.get(self.index) {
            Some(InputKind::Real(s)) if (1..=3).contains(&s.len()) => Ok(Shape::new(&[&[n], &s[..]].concat())),
            Some(InputKind::Real(s)) => Err(format!("samples of shape {s:?}; one to three dimensions are possible")),
            Some(InputKind::Label { .. }) => Ok(Shape::new(&[n])),
            None => Err(format!("is input {} of {}", self.index, graph.inputs.len())),
        }
    }
    fn run(&self, _: &mut Run, _: &[Var]) -> Result<Var> {
        Err(Error::op("input", "has no value: the caller gives it"))
    }
    fn prepare(&self, _: &Deployment) -> Result<Box<dyn Step>> {
        Err(Error::op("input", "has no value: the caller gives it"))
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        Ok(node.name.into())
    }
}
