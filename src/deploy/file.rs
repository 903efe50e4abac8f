//! The integer network as a safetensors file: `docs/format.md`.

use super::network::{IntegerNetwork, Kind, Layer, Node, Norm, Quantizer, Then, Weight};
use crate::data::Normalization;
use crate::quant::{pack_int4, unpack_int4};
use crate::tensor::io::{Checkpoint, HostTensor, RawTensor, RawType};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// Metadata key of the graph.
pub const KEY: &str = "ghostbit.integer";
/// Of the format that this program writes, and the only one it reads.
const VERSION: u32 = 1;

/// The metadata's JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    name: String,
    classes: usize,
    /// Per-sample shape.
    input: Vec<usize>,
    normalization: Normalization,
    nodes: Vec<NodeHeader>,
}

#[derive(Serialize, Deserialize)]
struct NodeHeader {
    name: String,
    inputs: Vec<usize>,
    #[serde(flatten)]
    op: Op,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Op {
    Input,
    Conv { layer: LayerHeader, stride: usize, pad: usize, dilation: usize },
    Depthwise { layer: LayerHeader, stride: usize, pad: usize, dilation: usize },
    Linear { layer: LayerHeader },
    Quantize { bits: u8 },
    Norm,
    Relu,
    Relu6,
    LeakyRelu { slope: f32 },
    Add,
    Concat,
    ShortcutA { stride: usize, c_out: usize },
    GlobalAvgPool,
    MaxPool { k: usize, stride: usize, pad: usize },
    AvgPool { k: usize, stride: usize, pad: usize },
    Reshape { shape: Vec<usize> },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerHeader {
    bits: u8,
    shape: Vec<usize>,
    bias: bool,
    norm: bool,
    residual: bool,
    relu: bool,
    /// Bits of the output's codes; f32 without.
    out_bits: Option<u8>,
}

impl IntegerNetwork {
    /// Replaces `path` by this network, whole or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.to_checkpoint().map_err(|e| Error::file(path, e))?.save(path)
    }

    /// Reads what [`Self::save`] wrote. Errors name the file, and the node or tensor at fault; a file never makes more
    /// be allocated than a few times its size.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let data = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        Self::parse(&data).map_err(|e| Error::file(path, e))
    }

    /// The network in the bytes of a file, checked, or what is wrong with them.
    pub fn parse(data: &[u8]) -> std::result::Result<Self, String> {
        Self::from_checkpoint(&Checkpoint::parse(data)?)
    }

    /// Tensors and header. Fails if two tensors would have one name.
    pub fn to_checkpoint(&self) -> std::result::Result<Checkpoint, String> {
        let mut writer = Writer(Checkpoint::default());
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            nodes.push(NodeHeader {
                name: node.name.clone(),
                inputs: node.inputs.clone(),
                op: writer.node(&node.name, &node.kind)?,
            });
        }
        let header = Header {
            version: VERSION,
            name: self.name.clone(),
            classes: self.classes,
            input: self.input.clone(),
            normalization: self.normalization,
            nodes,
        };
        let text = serde_json::to_string(&header).map_err(|e| e.to_string())?;
        writer.0.metadata.insert(KEY.into(), text);
        Ok(writer.0)
    }

    /// The network of a parsed file.
    pub fn from_checkpoint(file: &Checkpoint) -> std::result::Result<Self, String> {
        let Some(text) = file.metadata.get(KEY) else {
            return Err(format!("no metadata {KEY}: not an integer network; `ghostbit export` makes one"));
        };
        let header: Header = serde_json::from_str(text).map_err(|e| format!("metadata {KEY}: {e}"))?;
        if header.version != VERSION {
            return Err(format!("format version {}; this program reads {VERSION}", header.version));
        }
        let mut reader = Reader { file, used: BTreeSet::new() };
        let mut nodes = Vec::with_capacity(header.nodes.len());
        for node in header.nodes {
            let kind = reader.node(&node.name, node.op).map_err(|e| format!("node '{}': {e}", node.name))?;
            nodes.push(Node { name: node.name, kind, inputs: node.inputs });
        }
        if let Some(name) = file.tensors.keys().chain(file.bytes.keys()).find(|n| !reader.used.contains(*n)) {
            return Err(format!("tensor {name} belongs to no node"));
        }
        let network = Self {
            name: header.name,
            classes: header.classes,
            input: header.input,
            normalization: header.normalization,
            nodes,
        };
        network.values().map_err(|e| e.to_string())?;
        Ok(network)
    }
}

struct Writer(Checkpoint);

impl Writer {
    fn floats(&mut self, name: String, v: &[f32]) -> std::result::Result<(), String> {
        let tensor = HostTensor { shape: vec![v.len()], values: v.to_vec() };
        match self.0.tensors.insert(name.clone(), tensor) {
            Some(_) => Err(format!("tensor name {name} is used twice; rename a node")),
            None => Ok(()),
        }
    }
    fn raw(&mut self, name: String, tensor: RawTensor) -> std::result::Result<(), String> {
        match self.0.bytes.insert(name.clone(), tensor) {
            Some(_) => Err(format!("tensor name {name} is used twice; rename a node")),
            None => Ok(()),
        }
    }
    fn quantizer(&mut self, node: &str, q: &Quantizer) -> std::result::Result<u8, String> {
        self.floats(format!("{node}.out.scale"), &[q.scale])?;
        self.raw(format!("{node}.out.zero"), RawTensor::i32(&[q.zero]))?;
        Ok(q.bits)
    }
    fn norm(&mut self, node: &str, norm: &Norm) -> std::result::Result<(), String> {
        self.floats(format!("{node}.norm.mean"), &norm.mean)?;
        self.floats(format!("{node}.norm.scale"), &norm.scale)?;
        self.floats(format!("{node}.norm.shift"), &norm.shift)
    }

    fn layer(&mut self, node: &str, layer: &Layer) -> std::result::Result<LayerHeader, String> {
        let w = &layer.weight;
        let codes = if w.bits <= 4 {
            RawTensor::u8(&pack_int4(&w.codes).map_err(|e| e.to_string())?)
        } else {
            let bytes = w.codes.iter().map(|q| *q as u8).collect();
            RawTensor { dtype: RawType::I8, shape: w.shape.clone(), bytes }
        };
        self.raw(format!("{node}.weight"), codes)?;
        self.floats(format!("{node}.weight.scale"), &w.scale)?;
        self.raw(format!("{node}.weight.zero"), RawTensor::i32(&w.zero))?;
        if let Some(bias) = &layer.bias {
            self.floats(format!("{node}.bias"), bias)?;
        }
        if let Some(norm) = &layer.then.norm {
            self.norm(node, norm)?;
        }
        let out_bits = layer.then.quantizer.map(|q| self.quantizer(node, &q)).transpose()?;
        Ok(LayerHeader {
            bits: w.bits,
            shape: w.shape.clone(),
            bias: layer.bias.is_some(),
            norm: layer.then.norm.is_some(),
            residual: layer.then.residual,
            relu: layer.then.relu,
            out_bits,
        })
    }

    fn node(&mut self, name: &str, kind: &Kind) -> std::result::Result<Op, String> {
        Ok(match kind {
            Kind::Input => Op::Input,
            Kind::Conv { layer, stride, pad, dilation } => {
                Op::Conv { layer: self.layer(name, layer)?, stride: *stride, pad: *pad, dilation: *dilation }
            }
            Kind::Depthwise { layer, stride, pad, dilation } => {
                Op::Depthwise { layer: self.layer(name, layer)?, stride: *stride, pad: *pad, dilation: *dilation }
            }
            Kind::Linear { layer } => Op::Linear { layer: self.layer(name, layer)? },
            Kind::Quantize(q) => Op::Quantize { bits: self.quantizer(name, q)? },
            Kind::Norm(norm) => {
                self.norm(name, norm)?;
                Op::Norm
            }
            Kind::Relu => Op::Relu,
            Kind::Relu6 => Op::Relu6,
            Kind::LeakyRelu { slope } => Op::LeakyRelu { slope: *slope },
            Kind::Add => Op::Add,
            Kind::Concat => Op::Concat,
            Kind::ShortcutA { stride, c_out } => Op::ShortcutA { stride: *stride, c_out: *c_out },
            Kind::GlobalAvgPool => Op::GlobalAvgPool,
            Kind::MaxPool { k, stride, pad } => Op::MaxPool { k: *k, stride: *stride, pad: *pad },
            Kind::AvgPool { k, stride, pad } => Op::AvgPool { k: *k, stride: *stride, pad: *pad },
            Kind::Reshape { shape } => Op::Reshape { shape: shape.clone() },
        })
    }
}

struct Reader<'a> {
    file: &'a Checkpoint,
    used: BTreeSet<String>,
}

impl Reader<'_> {
    fn floats(&mut self, name: String) -> std::result::Result<Vec<f32>, String> {
        let t = self.file.tensors.get(&name).ok_or_else(|| format!("float tensor {name} is missing"))?;
        if t.shape.len() != 1 {
            return Err(format!("tensor {name} has shape {:?}, expected one dimension", t.shape));
        }
        self.used.insert(name);
        Ok(t.values.clone())
    }
    fn raw(&mut self, name: String, dtype: RawType, shape: &[usize]) -> std::result::Result<&RawTensor, String> {
        let t = self.file.bytes.get(&name).ok_or_else(|| format!("integer tensor {name} is missing"))?;
        if t.dtype != dtype || t.shape != shape {
            return Err(format!("tensor {name} is {:?} {:?}, expected {dtype:?} {shape:?}", t.dtype, t.shape));
        }
        self.used.insert(name);
        Ok(t)
    }
    fn integers(&mut self, name: String, n: usize) -> std::result::Result<Vec<i32>, String> {
        Ok(self.raw(name, RawType::I32, &[n])?.to_i32().unwrap_or_default())
    }
    fn quantizer(&mut self, node: &str, bits: u8) -> std::result::Result<Quantizer, String> {
        let scale = self.floats(format!("{node}.out.scale"))?;
        let zero = self.integers(format!("{node}.out.zero"), 1)?;
        match (&scale[..], &zero[..]) {
            ([scale], [zero]) => Ok(Quantizer { bits, scale: *scale, zero: *zero }),
            _ => Err(format!("{} output scales, expected 1", scale.len())),
        }
    }
    fn norm(&mut self, node: &str) -> std::result::Result<Norm, String> {
        Ok(Norm {
            mean: self.floats(format!("{node}.norm.mean"))?,
            scale: self.floats(format!("{node}.norm.scale"))?,
            shift: self.floats(format!("{node}.norm.shift"))?,
        })
    }

    fn layer(&mut self, node: &str, h: LayerHeader) -> std::result::Result<Layer, String> {
        let elements = h.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        let elements = elements.ok_or_else(|| format!("weights of shape {:?} are too many", h.shape))?;
        let name = format!("{node}.weight");
        let codes = if h.bits <= 4 {
            let bytes = &self.raw(name, RawType::U8, &[elements.div_ceil(2)])?.bytes;
            unpack_int4(bytes, elements).map_err(|e| e.to_string())?
        } else {
            self.raw(name, RawType::I8, &h.shape)?.bytes.iter().map(|b| *b as i8).collect()
        };
        let k = h.shape.first().copied().unwrap_or(0);
        let weight = Weight {
            bits: h.bits,
            codes,
            scale: self.floats(format!("{node}.weight.scale"))?,
            zero: self.integers(format!("{node}.weight.zero"), k)?,
            shape: h.shape,
        };
        let bias = h.bias.then(|| self.floats(format!("{node}.bias"))).transpose()?;
        let norm = h.norm.then(|| self.norm(node)).transpose()?;
        let quantizer = h.out_bits.map(|bits| self.quantizer(node, bits)).transpose()?;
        Ok(Layer { weight, bias, then: Then { norm, residual: h.residual, relu: h.relu, quantizer } })
    }

    fn node(&mut self, name: &str, op: Op) -> std::result::Result<Kind, String> {
        Ok(match op {
            Op::Input => Kind::Input,
            Op::Conv { layer, stride, pad, dilation } => {
                Kind::Conv { layer: self.layer(name, layer)?, stride, pad, dilation }
            }
            Op::Depthwise { layer, stride, pad, dilation } => {
                Kind::Depthwise { layer: self.layer(name, layer)?, stride, pad, dilation }
            }
            Op::Linear { layer } => Kind::Linear { layer: self.layer(name, layer)? },
            Op::Quantize { bits } => Kind::Quantize(self.quantizer(name, bits)?),
            Op::Norm => Kind::Norm(self.norm(name)?),
            Op::Relu => Kind::Relu,
            Op::Relu6 => Kind::Relu6,
            Op::LeakyRelu { slope } => Kind::LeakyRelu { slope },
            Op::Add => Kind::Add,
            Op::Concat => Kind::Concat,
            Op::ShortcutA { stride, c_out } => Kind::ShortcutA { stride, c_out },
            Op::GlobalAvgPool => Kind::GlobalAvgPool,
            Op::MaxPool { k, stride, pad } => Kind::MaxPool { k, stride, pad },
            Op::AvgPool { k, stride, pad } => Kind::AvgPool { k, stride, pad },
            Op::Reshape { shape } => Kind::Reshape { shape },
        })
    }
}
