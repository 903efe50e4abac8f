//! Nonlinearities.

use super::super::Graph;
use super::super::deployed::{Deployment, FinishStep, OnnxNode, Step};
use super::super::run::Run;
use super::extent::first;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::activation::{Activation, activation};
use crate::ops::integer_layer::Steps;
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Applies a function element by element.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activate {
    pub function: Activation,
}

impl Kind for Activate {
    fn name(&self) -> &'static str {
        match self.function {
            Activation::Relu => "relu",
            Activation::LeakyRelu(_) => "leaky_relu",
            Activation::Tanh => "tanh",
            Activation::Relu6 => "relu6",
        }
    }
    fn pointwise(&self) -> bool {
        true
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        if let Activation::LeakyRelu(slope) = self.function {
            if !(slope.is_finite() && slope > 0.0) {
                return Err(format!("slope {slope}; it must be finite and above 0"));
            }
        }
        first(x)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        activation(run.tape, &x[0], self.function)
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        match self.function {
            Activation::Relu => FinishStep::boxed(at, Steps { relu: true, ..Steps::default() }),
            _ => at.on_values(),
        }
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let x = node.inputs[0].clone();
        Ok(match self.function {
            Activation::Relu => node.output("Relu", &[&x], &[]),
            Activation::LeakyRelu(slope) => node.output("LeakyRelu", &[&x], &[("alpha", Attribute::Float(slope))]),
            Activation::Tanh => node.output("Tanh", &[&x], &[]),
            Activation::Relu6 => {
                let [low, high] = [("low", 0.0), ("high", 6.0)].map(|(end, v)| node.scalar(end, v));
                node.output("Clip", &[&x, &low, &high], &[])
            }
        })
    }
}
