//! Prepared nodes.

use super::{Deployment, LoweredLayer};
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::graph::nodes::NodeKind;
use crate::graph::run::Run;
use crate::ops::conv2d::{Conv2dParams, Geometry};
use crate::ops::integer_layer::{Branch, Finish, IntegerLayer, Steps};
use crate::ops::{conv2d_depthwise_int, conv2d_grouped, conv2d_grouped_int};
use crate::quant::Quantizer;
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// A node of an integer network that is prepared for a device.
pub trait Step: Send + Sync {
    /// Computes the output of inputs `x`, batch first.
    fn run(&self, x: &[&Branch]) -> Result<Branch>;
}

/// `n` samples of shape `sample`.
fn batch(n: usize, sample: &[usize]) -> Shape {
    Shape::new(&[&[n], sample].concat())
}

/// `n h w c` of a value; a vector is one pixel.
fn pixels(s: &[usize]) -> Result<[usize; 4]> {
    match *s {
        [n, c] => Ok([n, 1, 1, c]),
        [n, h, w, c] => Ok([n, h, w, c]),
        _ => Err(Error::op("integer layer", format!("a value of shape {s:?} is no map and no row"))),
    }
}

fn reshaped(x: &Branch, shape: Shape) -> Result<Branch> {
    Ok(match x {
        Branch::Real(t) => Branch::Real(t.reshape(shape)?),
        Branch::Codes(t, a) => Branch::Codes(t.reshape(shape)?, *a),
    })
}

/// Gives samples another shape, codes or values.
pub struct ReshapeStep {
    pub sample: Vec<usize>,
}

impl Step for ReshapeStep {
    fn run(&self, x: &[&Branch]) -> Result<Branch> {
        reshaped(x[0], batch(x[0].tensor().shape()[0], &self.sample))
    }
}

/// Carries values through steps one by one, and adds a second input if there is one.
pub struct FinishStep(Finish);

impl FinishStep {
    /// Prepares `steps` for the node's channels.
    pub fn boxed(at: &Deployment, steps: Steps) -> Result<Box<dyn Step>> {
        let channels = at.output.shape.last().copied().unwrap_or(1);
        Ok(Box::new(Self(Finish::new(at.device, channels, steps)?)))
    }
}

impl Step for FinishStep {
    fn run(&self, x: &[&Branch]) -> Result<Branch> {
        self.0.run(x[0], x.get(1).copied())
    }
}

/// Computes a node on values in f32, codes being taken for their values.
pub struct OnValues {
    kind: NodeKind,
    constants: BTreeMap<String, Tensor>,
    /// Takes the codes of each input for their values; `None` for inputs that are values.
    inputs: Vec<Option<Finish>>,
    /// What follows, and whether the last input is a residual that is added there.
    finish: Option<(Finish, bool)>,
    device: Device,
}

impl OnValues {
    /// Prepares the node of `at`; `then` follows it.
    pub fn new(at: &Deployment, then: Option<Steps>) -> Result<Self> {
        let channels = |shape: &[usize]| shape.last().copied().unwrap_or(1);
        let residual = at.layer.is_some_and(|l| l.then.residual);
        let read = at.inputs.len() - usize::from(residual);
        let values = |v: &&super::Value| {
            v.codes.map(|_| Finish::new(at.device, channels(&v.shape), Steps::default())).transpose()
        };
        let inputs = at.inputs[..read].iter().map(values).collect::<Result<_>>()?;
        let mut constants = BTreeMap::new();
        for name in at.node.kind.tensors() {
            let (shape, values) = match at.tensors.weights.get(name) {
                Some(w) => (&w.shape, w.values()),
                None => at.tensors.vector(name).map(|t| (&t.shape, t.values.clone()))?,
            };
            let t = Tensor::from_slice(&Device::cpu(), Shape::new(shape), &values)?;
            constants.insert(name.clone(), t.to_device(at.device)?);
        }
        let finish = then.map(|steps| Finish::new(at.device, channels(&at.output.shape), steps)).transpose()?;
        let finish = finish.map(|f| (f, residual));
        Ok(Self { kind: at.node.kind.clone(), constants, inputs, finish, device: at.device.clone() })
    }

    /// Prepares a node that gives some of its inputs: codes come back as codes of the same quantizer.
    pub fn returning_codes(at: &Deployment) -> Result<Box<dyn Step>> {
        let to = at.inputs[0].codes.map(|q| Steps { to: Some(q.affine()), ..Steps::default() });
        Ok(Box::new(Self::new(at, to)?))
    }
}

impl Step for OnValues {
    fn run(&self, x: &[&Branch]) -> Result<Branch> {
        let mut vars = Vec::with_capacity(self.inputs.len());
        for (x, values) in x.iter().zip(&self.inputs) {
            let real = match values {
                Some(finish) => finish.run(x, None)?.tensor().clone(),
                None => x.tensor().clone(),
            };
            vars.push(Var::constant(real));
        }
        let mut tape = Tape::inference(&self.device);
        let y = self.kind.rules().run(&mut Run::of_constants(&self.constants, &mut tape), &vars)?.value;
        match &self.finish {
            Some((finish, residual)) => {
                let residual = x.last().copied().filter(|_| *residual);
                finish.run(&Branch::Real(y), residual)
            }
            None => Ok(Branch::Real(y)),
        }
    }
}

/// A convolution or linear layer on codes, in integers, with what is fused behind it.
pub struct LayerStep {
    layer: IntegerLayer,
    sample: Vec<usize>,
}

impl LayerStep {
    /// Prepares `layer` on codes of `x`.
    pub fn new(at: &Deployment, x: Quantizer, layer: &LoweredLayer, params: Conv2dParams) -> Result<Self> {
        let w = &layer.weight;
        let image = Shape::from(pixels(&batch(1, &at.inputs[0].shape))?);
        let g = Geometry::new("integer layer", image, Shape::from(pixels(&w.shape)?), params)?;
        let (ranges, steps) = (layer.ranges(&x), layer.steps(true));
        let layer = IntegerLayer::new(at.device, &w.codes, w.bits, ranges, g, steps)?;
        Ok(Self { layer, sample: at.output.shape.clone() })
    }
}

impl Step for LayerStep {
    fn run(&self, x: &[&Branch]) -> Result<Branch> {
        let image = |b: &Branch| reshaped(b, pixels(&b.tensor().shape())?.into());
        let residual = x.get(1).map(|r| image(r)).transpose()?;
        let y = self.layer.run(image(x[0])?.tensor(), residual.as_ref())?;
        reshaped(&y, batch(x[0].tensor().shape()[0], &self.sample))
    }
}

/// Sums of a filter on codes, given a bias.
type Sums = dyn Fn(&Tensor, Option<&Tensor>) -> Result<Tensor> + Send + Sync;

/// A depthwise or grouped convolution on codes: sums in integers, then what is fused behind it.
pub struct FilterStep {
    sums: Box<Sums>,
    bias: Option<Tensor>,
    finish: Finish,
}

impl FilterStep {
    /// Prepares the depthwise layer of `at` on codes of `x`.
    pub fn depthwise(at: &Deployment, x: Quantizer, params: Conv2dParams) -> Result<Box<dyn Step>> {
        let (layer, shape) = Self::layer(at)?;
        let filter = conv2d_depthwise_int::Filter::new(at.device, &layer.weight.codes, &layer.ranges(&x))?;
        Self::boxed(at, layer, move |x, bias| filter.fprop(x, shape, bias, params))
    }

    /// Prepares the grouped layer of `at` on codes of `x`.
    pub fn grouped(at: &Deployment, x: Quantizer, groups: usize, params: Conv2dParams) -> Result<Box<dyn Step>> {
        let (layer, shape) = Self::layer(at)?;
        let image = batch(1, &at.inputs[0].shape);
        let g = conv2d_grouped::Groups::new("integer layer", image, shape.into(), groups, params)?;
        let filter = conv2d_grouped_int::Filter::new(at.device, &layer.weight.codes, &layer.ranges(&x), g)?;
        Self::boxed(at, layer, move |x, bias| filter.fprop(x, bias))
    }

    fn layer<'a>(at: &Deployment<'a>) -> Result<(&'a LoweredLayer, [usize; 4])> {
        let layer = at.layer.ok_or_else(|| Error::op("integer network", "a convolution without weights"))?;
        let shape = <[usize; 4]>::try_from(&layer.weight.shape[..])
            .map_err(|_| Error::op("integer network", format!("a filter of shape {:?}", layer.weight.shape)))?;
        Ok((layer, shape))
    }

    fn boxed(
        at: &Deployment,
        layer: &LoweredLayer,
        sums: impl Fn(&Tensor, Option<&Tensor>) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Box<dyn Step>> {
        let bias = layer.bias.as_ref().map(|b| Tensor::from_slice(&Device::cpu(), [b.len()], b)?.to_device(at.device));
        let finish = Finish::new(at.device, layer.weight.shape[0], layer.steps(false))?;
        Ok(Box::new(Self { sums: Box::new(sums), bias: bias.transpose()?, finish }))
    }
}

impl Step for FilterStep {
    fn run(&self, x: &[&Branch]) -> Result<Branch> {
        let sums = (self.sums)(x[0].tensor(), self.bias.as_ref())?;
        self.finish.run(&Branch::Real(sums), x.get(1).copied())
    }
}

/// Moves codes as they are.
type Moves = dyn Fn(&Tensor) -> Result<Tensor> + Send + Sync;

/// Gives some of its inputs: codes are moved as they are, values by the node's own rule.
pub struct CodesStep {
    moves: Box<Moves>,
    values: OnValues,
}

impl CodesStep {
    /// Prepares the node of `at`, whose codes `moves` moves.
    pub fn boxed(
        at: &Deployment,
        moves: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
    ) -> Result<Box<dyn Step>> {
        Ok(Box::new(Self { moves: Box::new(moves), values: OnValues::new(at, None)? }))
    }
}

impl Step for CodesStep {
    fn run(&self, x: &[&Branch]) -> Result<Branch> {
        match x[0] {
            Branch::Codes(t, a) => Ok(Branch::Codes((self.moves)(t)?, *a)),
            Branch::Real(_) => self.values.run(x),
        }
    }
}
