//! The quantizer of an activation, per tensor.

use super::super::Graph;
use super::super::deployed::{Deployment, FinishStep, Step};
use super::super::run::Run;
use super::extent::first;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::integer_layer::Steps;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Rounds to values of `bits`-bit codes. Its range belongs to the network, under the node's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FakeQuant {
    pub bits: u8,
}

impl Kind for FakeQuant {
    fn name(&self) -> &'static str {
        "fake_quant"
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        first(x)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        if run.how.float { Ok(x[0].clone()) } else { run.quantize(&x[0], self.bits) }
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        let to = at.tensors.quantizer(&at.node.name)?.affine();
        FinishStep::boxed(at, Steps { to: Some(to), ..Steps::default() })
    }
}
