//! Integer inference on the CPU.

use super::network::{IntegerNetwork, Kind, Layer, Quantizer, Value};
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::ops::activation::{Activation, activation};
use crate::ops::conv2d::{Conv2dParams, Geometry, conv2d};
use crate::ops::conv2d_int::epilogue::{Epilogue, Residual};
use crate::ops::conv2d_int::{Plan, sums};
use crate::ops::vectorize::vectorize;
use crate::ops::{linear, pool, shortcut};
use crate::quant::RoundEven;
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};
use rayon::prelude::*;

/// Images that go through all layers together, so that what lies between two layers stays in the cache.
const IMAGES: usize = 4;

/// An integer network, prepared for this CPU.
pub struct Engine {
    network: IntegerNetwork,
    values: Vec<Value>,
    /// Prepared layers, by node.
    layers: Vec<Option<Prepared>>,
    /// The last node that reads each node.
    last_use: Vec<usize>,
    device: Device,
}

struct Prepared {
    sums: Sums,
    g: Geometry,
    epilogue: Epilogue,
}

/// How a layer's sums are computed.
enum Sums {
    /// Integers, blocked; the epilogue runs row by row.
    Blocked(Plan),
    /// Integers of 64 bits: dilated filters, and ranges far from 0.
    Wide(Quantizer),
    /// f32, with these values of the weight; the bias begins the sums.
    Float(Tensor, Option<Tensor>),
}

/// A batch of a node's output.
#[derive(Clone)]
enum Batch {
    Real(Tensor),
    Codes(Tensor, Quantizer),
}

impl Engine {
    /// Errors on a network that is not consistent, as [`IntegerNetwork::values`].
    pub fn new(network: IntegerNetwork) -> Result<Self> {
        let values = network.values()?;
        let device = Device::cpu();
        let mut layers = Vec::with_capacity(values.len());
        let mut last_use = vec![usize::MAX; values.len()];
        for (id, node) in network.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&i| last_use[i] = id);
            layers.push(match &node.kind {
                Kind::Conv { layer, stride, pad, dilation } => {
                    let params =
                        Conv2dParams { stride: *stride, pad: *pad, dilation: *dilation, ..Conv2dParams::default() };
                    Some(Prepared::new(&device, layer, &values[node.inputs[0]], params)?)
                }
                Kind::Linear { layer } => {
                    Some(Prepared::new(&device, layer, &values[node.inputs[0]], Conv2dParams::default())?)
                }
                _ => None,
            });
        }
        if let Some(last) = last_use.last_mut() {
            *last = usize::MAX;
        }
        Ok(Self { network, values, layers, last_use, device })
    }

    pub fn network(&self) -> &IntegerNetwork {
        &self.network
    }

    /// Logits `[n classes]` of inputs `x[n ..]`, f32 on the CPU. A sample's logits do not depend on the others.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let sample: usize = self.network.input.iter().product();
        let n = x.len() / sample;
        if x.shape().len() != self.network.input.len() + 1 || x.shape()[1..] != self.network.input[..] || n == 0 {
            let detail = format!("inputs {} do not fit samples of {:?}", x.shape(), self.network.input);
            return Err(Error::network(&self.network.name, detail));
        }
        if x.gpu().is_some() || x.dtype() != DType::F32 {
            return Err(Error::network(&self.network.name, format!("inputs {x:?}; expected F32 on the CPU")));
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
        let mut batches: Vec<Option<Batch>> = vec![None; self.values.len()];
        for (id, node) in self.network.nodes.iter().enumerate() {
            let arg = |i: usize| batches[node.inputs[i]].clone().expect("inputs are alive until their last use");
            let shape = Shape::new(&[&[n], &self.values[id].shape[..]].concat());
            let mut tape = Tape::inference(&self.device);
            let y = match &node.kind {
                Kind::Input => Batch::Real(x.clone()),
                Kind::Conv { layer, .. } | Kind::Linear { layer } => {
                    let residual = layer.then.residual.then(|| arg(1));
                    self.layers[id].as_ref().expect("layers are prepared").run(layer, arg(0), residual, shape)?
                }
                Kind::Quantize(q) => Batch::Codes(codes(&arg(0).real(&self.device)?, q)?, *q),
                Kind::Norm(norm) => {
                    let epilogue = Epilogue::new(None, Some([&norm.mean, &norm.scale, &norm.shift]), false, 1);
                    Batch::Real(each_row(arg(0).real(&self.device)?, norm.mean.len(), |row| {
                        epilogue.apply(row, Residual::None);
                    })?)
                }
                Kind::Relu => {
                    let epilogue = Epilogue::new(None, None, true, 1);
                    Batch::Real(each_row(arg(0).real(&self.device)?, 1 << 12, |row| {
                        epilogue.apply(row, Residual::None);
                    })?)
                }
                Kind::Relu6 => {
                    let x = Var::constant(arg(0).real(&self.device)?);
                    Batch::Real(activation(&mut tape, &x, Activation::Relu6)?.value)
                }
                Kind::Add => {
                    let (a, b) = (arg(0).real(&self.device)?, arg(1).real(&self.device)?);
                    let mut y = a.duplicate()?;
                    y.host_mut::<f32>().iter_mut().zip(b.host::<f32>()).for_each(|(a, b)| *a += *b);
                    Batch::Real(y)
                }
                Kind::ShortcutA { stride, c_out } => {
                    let x = Var::constant(arg(0).real(&self.device)?);
                    Batch::Real(shortcut::shortcut_a(&mut tape, &x, *stride, *c_out)?.value)
                }
                Kind::GlobalAvgPool => {
                    let x = Var::constant(arg(0).real(&self.device)?);
                    Batch::Real(pool::global_avg_pool(&mut tape, &x)?.value)
                }
                Kind::MaxPool { k, stride, pad } => {
                    let x = Var::constant(arg(0).real(&self.device)?);
                    Batch::Real(pool::max_pool(&mut tape, &x, *k, *stride, *pad)?.value)
                }
                Kind::AvgPool { k, stride, pad } => {
                    let x = Var::constant(arg(0).real(&self.device)?);
                    Batch::Real(pool::avg_pool(&mut tape, &x, *k, *stride, *pad)?.value)
                }
                Kind::Reshape { .. } => Batch::Real(arg(0).real(&self.device)?.reshape(shape)?),
            };
            for &i in &node.inputs {
                if self.last_use[i] == id {
                    batches[i] = None;
                }
            }
            batches[id] = Some(y);
        }
        match batches.pop().flatten() {
            Some(Batch::Real(y)) => Ok(y),
            _ => unreachable!("the output was checked to be f32"),
        }
    }
}

impl Batch {
    /// The values, f32.
    fn real(self, device: &Device) -> Result<Tensor> {
        match self {
            Self::Real(t) => Ok(t),
            Self::Codes(t, q) => {
                let a = q.affine();
                let mut y = Tensor::empty(device, t.shape(), DType::F32)?;
                let (y_host, codes) = (y.host_mut::<f32>(), t.host::<i8>());
                vectorize(
                    #[inline(always)]
                    || y_host.iter_mut().zip(codes).for_each(|(y, q)| *y = a.value(f32::from(*q))),
                );
                Ok(y)
            }
        }
    }
}

fn codes(x: &Tensor, q: &Quantizer) -> Result<Tensor> {
    let a = q.affine();
    let mut codes = Tensor::empty(&x.device(), x.shape(), DType::I8)?;
    let (to, x) = (codes.host_mut::<i8>(), x.host::<f32>());
    vectorize(
        #[inline(always)]
        || to.iter_mut().zip(x).for_each(|(q, x)| *q = a.code(*x).to_code()),
    );
    Ok(codes)
}

/// A copy of `x` with `f` applied to every `row` of it.
fn each_row(x: Tensor, row: usize, f: impl Fn(&mut [f32]) + Sync + Send) -> Result<Tensor> {
    let mut y = x.duplicate()?;
    y.host_mut::<f32>().par_chunks_mut(row).for_each(f);
    Ok(y)
}

impl Prepared {
    /// A layer on inputs of kind `x`; a linear one as a convolution of one pixel.
    fn new(device: &Device, layer: &Layer, x: &Value, p: Conv2dParams) -> Result<Self> {
        let pixel = |s: &[usize]| match *s {
            [c] => [1, 1, c],
            [h, w, c] => [h, w, c],
            _ => unreachable!("checked"),
        };
        let [h, w, c] = pixel(&x.shape);
        let [r, s, _] = pixel(&layer.weight.shape[1..]);
        let k = layer.weight.shape[0];
        let g = Geometry::new("layer", [1, h, w, c].into(), [k, r, s, c].into(), p)?;
        let then = &layer.then;
        let norm = then.norm.as_ref().map(|n| [&n.mean[..], &n.scale[..], &n.shift[..]]);
        let epilogue = |bias: bool| Epilogue::new(layer.bias.as_deref().filter(|_| bias), norm, then.relu, g.q);
        let Some(codes) = &x.codes else {
            let values = Tensor::from_slice(device, Shape::new(&layer.weight.shape), &layer.weight.values())?;
            let bias = layer.bias.as_ref().map(|b| Tensor::from_slice(device, [k], b)).transpose()?;
            return Ok(Self { sums: Sums::Float(values, bias), g, epilogue: epilogue(false) });
        };
        let sums = match Plan::new(&layer.weight.codes, &layer.ranges(codes), &g) {
            Some(plan) => Sums::Blocked(plan),
            None => Sums::Wide(*codes),
        };
        Ok(Self { sums, g, epilogue: epilogue(true) })
    }

    fn run(&self, layer: &Layer, x: Batch, residual: Option<Batch>, shape: Shape) -> Result<Batch> {
        let g = Geometry { n: shape[0], ..self.g };
        let row = g.q * g.k;
        let (real, coded) = match &residual {
            None => (None, None),
            Some(Batch::Real(t)) => (Some(t.host::<f32>()), None),
            Some(Batch::Codes(t, q)) => (None, Some((t.host::<i8>(), q.affine()))),
        };
        // The residual of output row `i` of the batch.
        let residual = |i: usize| match (real, coded) {
            (Some(v), _) => Residual::Real(&v[i * row..][..row]),
            (_, Some((v, a))) => Residual::Codes(&v[i * row..][..row], a),
            _ => Residual::None,
        };
        let device = match &x {
            Batch::Real(t) | Batch::Codes(t, _) => t.device(),
        };
        let epilogue = &self.epilogue;
        if let (Sums::Blocked(plan), Batch::Codes(x, _)) = (&self.sums, &x) {
            return match layer.then.quantizer {
                Some(q) => {
                    let (mut y, a) = (Tensor::empty(&device, shape, DType::I8)?, q.affine());
                    plan.run(x.host(), y.host_mut::<i8>(), |n, p, v, y| {
                        epilogue.quantize(v, residual(n * g.p + p), &a, y);
                    });
                    Ok(Batch::Codes(y, q))
                }
                None => {
                    let mut y = Tensor::empty(&device, shape, DType::F32)?;
                    plan.run(x.host(), y.host_mut::<f32>(), |n, p, v, y| {
                        epilogue.apply(v, residual(n * g.p + p));
                        y.copy_from_slice(v);
                    });
                    Ok(Batch::Real(y))
                }
            };
        }
        let mut y = match (&self.sums, x) {
            (Sums::Float(w, bias), x) => {
                let mut tape = Tape::inference(&device);
                let x = Var::constant(x.real(&device)?);
                let (w, bias) = (Var::constant(w.clone()), bias.clone().map(Var::constant));
                if w.shape().len() == 2 {
                    linear::linear(&mut tape, &x, &w, bias.as_ref())?.value
                } else {
                    let p = Conv2dParams { stride: g.stride, pad: g.pad, dilation: g.dilation, ..Default::default() };
                    conv2d(&mut tape, &x, &w, bias.as_ref(), p)?.value
                }
            }
            (Sums::Wide(q), Batch::Codes(x, _)) => {
                let mut y = Tensor::empty(&device, shape, DType::F32)?;
                sums(x.host(), &layer.weight.codes, &layer.ranges(q), y.host_mut(), &g);
                y
            }
            _ => unreachable!("a layer of codes is given codes"),
        };
        y.host_mut::<f32>().par_chunks_exact_mut(row).enumerate().for_each(|(i, v)| epilogue.apply(v, residual(i)));
        match layer.then.quantizer {
            Some(q) => Ok(Batch::Codes(codes(&y, &q)?, q)),
            None => Ok(Batch::Real(y)),
        }
    }
}
