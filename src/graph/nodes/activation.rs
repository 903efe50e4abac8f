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
        self.function.name()
    }
    fn pointwise(&self) -> bool {
        true
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        use Activation::{Clip, HardSigmoid, Relu, Sigmoid, Softplus};
        match self.function {
            Relu | Sigmoid | HardSigmoid { .. } | Softplus => true,
            Clip { low, .. } => low >= 0.0,
            _ => inputs,
        }
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        self.function.check()?;
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
        let float = Attribute::Float;
        Ok(match self.function {
            Activation::Relu => node.output("Relu", &[&x], &[]),
            Activation::LeakyRelu(slope) => node.output("LeakyRelu", &[&x], &[("alpha", float(slope))]),
            Activation::Tanh => node.output("Tanh", &[&x], &[]),
            Activation::Clip { low, high } => {
                let [low, high] = [("low", low), ("high", high)].map(|(end, v)| node.scalar(end, v));
                node.output("Clip", &[&x, &low, &high], &[])
            }
            Activation::Sigmoid => node.output("Sigmoid", &[&x], &[]),
            Activation::HardSigmoid { alpha, beta } => {
                node.output("HardSigmoid", &[&x], &[("alpha", float(alpha)), ("beta", float(beta))])
            }
            Activation::Silu => {
                let gate = node.part("Sigmoid", &[&x], "sigmoid", &[]);
                node.output("Mul", &[&x, &gate], &[])
            }
            Activation::HardSwish => node.output("HardSwish", &[&x], &[]),
            Activation::Elu(alpha) => node.output("Elu", &[&x], &[("alpha", float(alpha))]),
            Activation::Gelu { tanh } => {
                let form = if tanh { "tanh" } else { "none" };
                node.output("Gelu", &[&x], &[("approximate", Attribute::Text(form.into()))])
            }
            Activation::Mish => node.output("Mish", &[&x], &[]),
            Activation::Softplus => node.output("Softplus", &[&x], &[]),
        })
    }
}
