//! Nodes of an integer network: what they give, what they are made of, and how they run.

mod onnx;
mod steps;

pub use onnx::OnnxNode;
pub use steps::{CodesStep, FilterStep, FinishStep, LayerStep, OnValues, ReshapeStep, Step};

use super::Node;
use super::nodes::BatchNorm;
use crate::device::Device;
use crate::ops::batch_norm::Stored;
use crate::ops::conv2d::Conv2dParams;
use crate::ops::conv2d_int::Ranges;
use crate::ops::integer_layer::Steps;
use crate::quant::{Quantizer, WeightCodes};
use crate::tensor::Tensor;
use crate::tensor::io::HostTensor;
use crate::{Error, Result};
use std::collections::BTreeMap;

/// The output of a node: its per-sample shape, and the quantizer if it is codes.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub shape: Vec<usize>,
    pub codes: Option<Quantizer>,
}

/// Numbers of an integer network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IntegerTensors {
    /// Quantized weights, by parameter.
    pub weights: BTreeMap<String, WeightCodes>,
    /// All other parameters and statistics in f32, by name.
    pub vectors: BTreeMap<String, HostTensor>,
    /// Quantizers of activations, by the quantizing node's name.
    pub quantizers: BTreeMap<String, Quantizer>,
}

impl IntegerTensors {
    /// Returns a parameter that is not quantized.
    pub fn vector(&self, name: &str) -> Result<&HostTensor> {
        self.vectors.get(name).ok_or_else(|| Error::op("integer network", format!("tensor '{name}' is missing")))
    }

    /// Returns the quantizer of the quantizing node `name`.
    pub fn quantizer(&self, name: &str) -> Result<Quantizer> {
        let found = self.quantizers.get(name).copied();
        found.ok_or_else(|| Error::op("integer network", format!("quantizer '{name}' is missing")))
    }

    /// Returns the coefficients of a batch norm, rounded as evaluation rounds them.
    pub fn norm(&self, norm: &BatchNorm) -> Result<NormCoefficients> {
        let host = |name: &String| {
            let t = self.vector(name)?;
            Tensor::from_slice(&Device::cpu(), [t.values.len()], &t.values)
        };
        let optional = |name: &Option<String>| name.as_ref().map(host).transpose();
        let (gamma, beta) = (optional(&norm.gamma)?, optional(&norm.beta)?);
        let (mean, var) = (host(&norm.mean)?, host(&norm.var)?);
        let stored = Stored { gamma: gamma.as_ref(), beta: beta.as_ref(), mean: &mean, var: &var, eps: norm.eps };
        let [mean, scale, shift] = stored.coefficients::<f32>();
        Ok(NormCoefficients { mean, scale, shift })
    }
}

/// Batch normalization by stored statistics: `(v - mean) * scale + shift`, three f32 operations, per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct NormCoefficients {
    pub mean: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

impl NormCoefficients {
    /// Returns mean, scale and shift.
    pub fn vectors(&self) -> [Vec<f32>; 3] {
        [self.mean.clone(), self.scale.clone(), self.shift.clone()]
    }

    /// Returns it, behind a bias, as one product and one sum.
    pub fn affine(&self, bias: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
        let shift = (0..self.scale.len()).map(|k| {
            let from = bias.map_or(0.0, |b| b[k]) - self.mean[k];
            from * self.scale[k] + self.shift[k]
        });
        (self.scale.clone(), shift.collect())
    }
}

/// What is fused behind a layer, in this order: normalization, sum with the residual, ReLU, quantization.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Then {
    pub norm: Option<NormCoefficients>,
    /// Whether the unit's last input is added.
    pub residual: bool,
    pub relu: bool,
    pub quantizer: Option<Quantizer>,
}

/// A convolution or linear layer with its numbers and what is fused behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoweredLayer {
    pub weight: WeightCodes,
    /// Per output channel, f32.
    pub bias: Option<Vec<f32>>,
    pub then: Then,
}

impl LoweredLayer {
    /// Returns the quantizers of this layer on codes of `x`.
    pub fn ranges(&self, x: &Quantizer) -> Ranges<f32> {
        Ranges::new(x.affine(), self.weight.affines())
    }

    /// Returns what follows the sums; `bias` says whether the bias is added there.
    pub fn steps(&self, bias: bool) -> Steps {
        Steps {
            bias: self.bias.clone().filter(|_| bias),
            norm: self.then.norm.as_ref().map(NormCoefficients::vectors),
            relu: self.then.relu,
            to: self.then.quantizer.as_ref().map(Quantizer::affine),
        }
    }
}

/// Where a node is deployed: the device, what it reads and gives, and its numbers.
pub struct Deployment<'a> {
    pub device: &'a Device,
    /// The node; of a fused layer its first one.
    pub node: &'a Node,
    /// Of a fused layer the residual comes last.
    pub inputs: Vec<&'a Value>,
    /// Of a fused layer what its last node gives.
    pub output: &'a Value,
    /// The layer, if the node is one.
    pub layer: Option<&'a LoweredLayer>,
    pub tensors: &'a IntegerTensors,
}

impl Deployment<'_> {
    /// Prepares the node to compute on values in f32.
    pub fn on_values(&self) -> Result<Box<dyn Step>> {
        Ok(Box::new(OnValues::new(self, self.layer.map(|l| l.steps(false)))?))
    }

    /// Prepares a convolution or linear layer: in integers if its input is codes, else on values.
    pub fn integer_layer(&self, params: Conv2dParams) -> Result<Box<dyn Step>> {
        match (self.inputs[0].codes, self.layer) {
            (Some(codes), Some(layer)) => Ok(Box::new(LayerStep::new(self, codes, layer, params)?)),
            _ => self.on_values(),
        }
    }
}
