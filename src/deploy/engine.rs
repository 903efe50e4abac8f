//! Integer inference, on the CPU or a GPU.

use super::network::{IntegerNetwork, Kind, Layer, Norm, Quantizer, Value};
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::ops::activation::{Activation, activation};
use crate::ops::conv2d::{Conv2dParams, Geometry, conv2d};
use crate::ops::conv2d_depthwise::conv2d_depthwise;
use crate::ops::conv2d_depthwise_int::Filter;
use crate::ops::integer_layer::{Branch, Finish, IntegerLayer, Steps};
use crate::ops::pool::{self, PoolParams};
use crate::ops::{concat, linear, shortcut};
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};
use rayon::prelude::*;

/// Images that go through all layers together on a CPU, so that what lies between two layers stays in the cache.
const IMAGES: usize = 4;

/// An integer network, prepared for a device.
pub struct Engine {
    network: IntegerNetwork,
    values: Vec<Value>,
    /// What was prepared, by node.
    prepared: Vec<Prepared>,
    /// The last node that reads each node.
    last_use: Vec<usize>,
    device: Device,
}

/// What a node needs besides its inputs.
enum Prepared {
    Nothing,
    /// Of codes, in integers.
    Layer(IntegerLayer),
    /// Of f32, with these values of the weight; the bias begins the sums.
    Float {
        weight: Tensor,
        bias: Option<Tensor>,
        params: Conv2dParams,
        finish: Finish,
    },
    /// Of codes, sums in integers; the bias is added to their values.
    Depthwise {
        filter: Filter,
        bias: Option<Tensor>,
        params: Conv2dParams,
        finish: Finish,
    },
    /// Value by value.
    Finish(Finish),
}

impl Engine {
    /// On the CPU. Errors on a network that is not consistent, as [`IntegerNetwork::values`].
    pub fn new(network: IntegerNetwork) -> Result<Self> {
        Self::on(&Device::cpu(), network)
    }

    /// On `device`; a GPU computes the first f32 layer in f32, without tensor cores. Errors as [`Self::new`], and the device's.
    pub fn on(device: &Device, network: IntegerNetwork) -> Result<Self> {
        let values = network.values()?;
        let mut prepared = Vec::with_capacity(values.len());
        let mut last_use = vec![usize::MAX; values.len()];
        for (id, node) in network.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&i| last_use[i] = id);
            let x = node.inputs.first().map(|&i| &values[i]);
            let channels = values[id].shape.last().copied().unwrap_or(1);
            let finish = |steps: Steps| Ok::<_, Error>(Prepared::Finish(Finish::new(device, channels, steps)?));
            prepared.push(match (&node.kind, x) {
                (Kind::Conv { layer, stride, pad, dilation }, Some(x)) => {
                    let params =
                        Conv2dParams { stride: *stride, pad: *pad, dilation: *dilation, ..Conv2dParams::default() };
                    Prepared::layer(device, layer, x, params)?
                }
                (Kind::Depthwise { layer, stride, pad, dilation }, Some(x)) => {
                    let params =
                        Conv2dParams { stride: *stride, pad: *pad, dilation: *dilation, ..Conv2dParams::default() };
                    Prepared::depthwise(device, layer, x, params)?
                }
                (Kind::Linear { layer }, Some(x)) => Prepared::layer(device, layer, x, Conv2dParams::default())?,
                (Kind::Quantize(q), _) => finish(Steps { to: Some(q.affine()), ..Steps::default() })?,
                (Kind::Norm(n), _) => finish(Steps { norm: Some(vectors(n)), ..Steps::default() })?,
                (Kind::Relu, _) => finish(Steps { relu: true, ..Steps::default() })?,
                (Kind::Add, _) => finish(Steps::default())?,
                // The largest value's code: values of codes give their codes back.
                (Kind::MaxPool { .. }, Some(Value { codes: Some(q), .. })) => {
                    finish(Steps { to: Some(q.affine()), ..Steps::default() })?
                }
                _ => Prepared::Nothing,
            });
        }
        if let Some(last) = last_use.last_mut() {
            *last = usize::MAX;
        }
        Ok(Self { network, values, prepared, last_use, device: device.clone() })
    }

    pub fn network(&self) -> &IntegerNetwork {
        &self.network
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Logits `[n classes]` of inputs `x[n ..]`, both f32 on the engine's device. A sample's logits do not depend on the others.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let sample: usize = self.network.input.iter().product();
        let n = x.len() / sample;
        if x.shape().len() != self.network.input.len() + 1 || x.shape()[1..] != self.network.input[..] || n == 0 {
            let detail = format!("inputs {} do not fit samples of {:?}", x.shape(), self.network.input);
            return Err(Error::network(&self.network.name, detail));
        }
        if x.device() != self.device || x.dtype() != DType::F32 {
            let detail = format!("inputs {x:?}; expected F32 on {}", self.device.name());
            return Err(Error::network(&self.network.name, detail));
        }
        if !self.device.is_cpu() {
            return self.run(x.clone());
        }
        let classes = self.network.classes;
        let mut out = Tensor::empty(&self.device, [n, classes], DType::F32)?;
        // Small batches leave the threads to the layers.
        let images = if n < IMAGES * rayon::current_num_threads() { n } else { IMAGES };
        let parts: Vec<_> = out.host_mut::<f32>().chunks_mut(images * classes).enumerate().collect();
        parts.into_par_iter().try_for_each(|(i, out)| {
            let count = out.len() / classes;
            let shape = Shape::new(&[&[count], &self.network.input[..]].concat());
            out.copy_from_slice(self.run(x.view(i * images * sample, shape)?)?.host::<f32>());
            Ok(())
        })?;
        Ok(out)
    }

    fn run(&self, x: Tensor) -> Result<Tensor> {
        let n = x.shape()[0];
        let mut batches: Vec<Option<Branch>> = vec![None; self.values.len()];
        for (id, node) in self.network.nodes.iter().enumerate() {
            let arg = |i: usize| batches[node.inputs[i]].as_ref().expect("inputs are alive until their last use");
            let shape = Shape::new(&[&[n], &self.values[id].shape[..]].concat());
            let mut tape = Tape::inference(&self.device);
            // Where no codes are wanted.
            let real = |b: &Branch| match b {
                Branch::Real(t) => Ok(t.clone()),
                Branch::Codes(t, _) => {
                    let c = t.shape().last().copied().unwrap_or(1);
                    Ok::<_, Error>(Finish::new(&self.device, c, Steps::default())?.run(b, None)?.tensor().clone())
                }
            };
            let y = match (&node.kind, &self.prepared[id]) {
                (Kind::Input, _) => Branch::Real(x.clone()),
                (Kind::Conv { layer, .. } | Kind::Depthwise { layer, .. } | Kind::Linear { layer }, prepared) => {
                    let residual = if layer.then.residual { Some(arg(1)) } else { None };
                    match prepared {
                        Prepared::Layer(prepared) => in_integers(prepared, arg(0).tensor(), residual, shape)?,
                        Prepared::Depthwise { filter, bias, params, finish } => {
                            let &[c, r, s, one] = &layer.weight.shape[..] else { unreachable!("checked") };
                            let sums = filter.fprop(arg(0).tensor(), [c, r, s, one], bias.as_ref(), *params)?;
                            finish.run(&Branch::Real(sums), residual)?
                        }
                        Prepared::Float { weight, bias, params, finish } => {
                            let x = Var::constant(real(arg(0))?);
                            let (w, bias) = (Var::constant(weight.clone()), bias.clone().map(Var::constant));
                            let bias = bias.as_ref();
                            let sums = match node.kind {
                                Kind::Linear { .. } => linear::linear(&mut tape, &x, &w, bias)?,
                                Kind::Depthwise { .. } => conv2d_depthwise(&mut tape, &x, &w, bias, *params)?,
                                _ => conv2d(&mut tape, &x, &w, bias, *params)?,
                            };
                            finish.run(&Branch::Real(sums.value), residual)?
                        }
                        _ => unreachable!("layers are prepared"),
                    }
                }
                (Kind::Quantize(_) | Kind::Norm(_) | Kind::Relu, Prepared::Finish(f)) => f.run(arg(0), None)?,
                (Kind::Add, Prepared::Finish(f)) => f.run(arg(0), Some(arg(1)))?,
                (Kind::Reshape { .. }, _) => match arg(0) {
                    Branch::Real(t) => Branch::Real(t.reshape(shape)?),
                    Branch::Codes(t, a) => Branch::Codes(t.reshape(shape)?, *a),
                },
                (kind, prepared) => {
                    let of = Var::constant(real(arg(0))?);
                    let y = Branch::Real(match kind {
                        Kind::ShortcutA { stride, c_out } => {
                            shortcut::shortcut_a(&mut tape, &of, *stride, *c_out)?.value
                        }
                        Kind::Concat => {
                            let rest = (1..node.inputs.len()).map(|i| Ok(Var::constant(real(arg(i))?)));
                            let all = std::iter::once(Ok(of)).chain(rest).collect::<Result<Vec<_>>>()?;
                            concat::concat(&mut tape, &all.iter().collect::<Vec<_>>())?.value
                        }
                        Kind::Relu6 => activation(&mut tape, &of, Activation::RELU6)?.value,
                        Kind::LeakyRelu { slope } => activation(&mut tape, &of, Activation::LeakyRelu(*slope))?.value,
                        Kind::GlobalAvgPool => pool::global_avg_pool(&mut tape, &of)?.value,
                        Kind::MaxPool { k, stride, pad } => {
                            pool::max_pool(&mut tape, &of, PoolParams::square(*k, *stride, *pad))?.value
                        }
                        Kind::AvgPool { k, stride, pad } => {
                            pool::avg_pool(&mut tape, &of, PoolParams::square(*k, *stride, *pad))?.value
                        }
                        _ => unreachable!("all other nodes were prepared"),
                    });
                    match prepared {
                        Prepared::Finish(f) => f.run(&y, None)?,
                        _ => y,
                    }
                }
            };
            for &i in &node.inputs {
                if self.last_use[i] == id {
                    batches[i] = None;
                }
            }
            batches[id] = Some(y);
        }
        match batches.pop().flatten() {
            Some(Branch::Real(y)) => Ok(y),
            _ => unreachable!("the output was checked to be f32"),
        }
    }
}

/// `n h w c` of a value; a vector is one pixel.
fn pixels(s: &[usize]) -> [usize; 4] {
    match *s {
        [n, c] => [n, 1, 1, c],
        [n, h, w, c] => [n, h, w, c],
        _ => unreachable!("checked"),
    }
}

fn in_integers(layer: &IntegerLayer, x: &Tensor, residual: Option<&Branch>, shape: Shape) -> Result<Branch> {
    let image = |t: &Tensor| t.reshape(pixels(&t.shape()));
    let residual = residual.map(|r| {
        Ok::<_, Error>(match r {
            Branch::Real(t) => Branch::Real(image(t)?),
            Branch::Codes(t, a) => Branch::Codes(image(t)?, *a),
        })
    });
    Ok(match layer.run(&image(x)?, residual.transpose()?.as_ref())? {
        Branch::Real(t) => Branch::Real(t.reshape(shape)?),
        Branch::Codes(t, a) => Branch::Codes(t.reshape(shape)?, a),
    })
}

fn vectors(n: &Norm) -> [Vec<f32>; 3] {
    [n.mean.clone(), n.scale.clone(), n.shift.clone()]
}

impl Prepared {
    /// A layer on inputs of kind `x`.
    fn layer(device: &Device, layer: &Layer, x: &Value, params: Conv2dParams) -> Result<Self> {
        let w = &layer.weight;
        let Some(codes) = &x.codes else { return Self::float(device, layer, params) };
        let x = Shape::from(pixels(&[&[1], &x.shape[..]].concat()));
        let g = Geometry::new("layer", x, Shape::from(pixels(&w.shape)), params)?;
        Ok(Self::Layer(IntegerLayer::new(device, &w.codes, w.bits, layer.ranges(codes), g, Self::steps(layer, true))?))
    }

    /// A depthwise layer on inputs of kind `x`.
    fn depthwise(device: &Device, layer: &Layer, x: &Value, params: Conv2dParams) -> Result<Self> {
        let Some(codes) = &x.codes else { return Self::float(device, layer, params) };
        let w = &layer.weight;
        let filter = Filter::new(device, &w.codes, &layer.ranges(codes))?;
        let bias = layer.bias.as_ref().map(|b| Tensor::from_slice(&Device::cpu(), [b.len()], b)?.to_device(device));
        let finish = Finish::new(device, w.shape[0], Self::steps(layer, false))?;
        Ok(Self::Depthwise { filter, bias: bias.transpose()?, params, finish })
    }

    /// A layer on values.
    fn float(device: &Device, layer: &Layer, params: Conv2dParams) -> Result<Self> {
        let (cpu, w) = (Device::cpu(), &layer.weight);
        let weight = Tensor::from_slice(&cpu, Shape::new(&w.shape), &w.values())?.to_device(device)?;
        let bias = layer.bias.as_ref().map(|b| Tensor::from_slice(&cpu, [b.len()], b)?.to_device(device));
        let finish = Finish::new(device, w.shape[0], Self::steps(layer, false))?;
        Ok(Self::Float { weight, bias: bias.transpose()?, params, finish })
    }

    fn steps(layer: &Layer, bias: bool) -> Steps {
        let then = &layer.then;
        Steps {
            bias: layer.bias.clone().filter(|_| bias),
            norm: then.norm.as_ref().map(vectors),
            relu: then.relu,
            to: then.quantizer.as_ref().map(Quantizer::affine),
        }
    }
}
