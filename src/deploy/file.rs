//! Integer networks as safetensors files; `docs/format.md` describes them.

use super::network::IntegerNetwork;
use crate::data::Normalization;
use crate::graph::deployed::IntegerTensors;
use crate::graph::nodes::{Node, NodeKind};
use crate::quant::{Quantizer, WeightCodes, pack_int4, unpack_int4};
use crate::tensor::io::{Checkpoint, HostTensor, RawTensor, RawType};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type Outcome<T> = std::result::Result<T, String>;

/// Metadata key of the JSON that describes the network.
pub const KEY: &str = "ghostbit.integer";
/// Version of the format that this program writes, and the only one it reads.
const VERSION: u32 = 2;

/// The version alone, which is read first.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The metadata's JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    name: String,
    classes: usize,
    /// Per-sample shape.
    input: Vec<usize>,
    normalization: Normalization,
    /// Weights that are codes, by name.
    weights: BTreeMap<String, WeightHeader>,
    nodes: Vec<Node>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightHeader {
    bits: u8,
    shape: Vec<usize>,
}

impl IntegerNetwork {
    /// Replaces `path` by this network, whole or not at all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.to_checkpoint().map_err(|e| Error::file(path, e))?.save(path)
    }

    /// Reads what [`Self::save`] wrote. Errors name the file, and the node or tensor at fault. Memory is bounded by a few times
    /// the file's size.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let data = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        Self::parse(&data).map_err(|e| Error::file(path, e))
    }

    /// Reads the network in the bytes of a file and checks it. Errors say what is wrong.
    pub fn parse(data: &[u8]) -> Outcome<Self> {
        Self::from_checkpoint(&Checkpoint::parse(data)?)
    }

    /// Returns tensors and header. Errors if two tensors would have one name.
    pub fn to_checkpoint(&self) -> Outcome<Checkpoint> {
        let mut writer = Writer(Checkpoint::default());
        let mut weights = BTreeMap::new();
        for (name, w) in &self.tensors.weights {
            writer.weight(name, w)?;
            weights.insert(name.clone(), WeightHeader { bits: w.bits, shape: w.shape.clone() });
        }
        for (name, t) in &self.tensors.vectors {
            writer.floats(name.clone(), t.clone())?;
        }
        for (name, q) in &self.tensors.quantizers {
            writer.floats(format!("{name}.scale"), HostTensor { shape: vec![1], values: vec![q.scale] })?;
            writer.raw(format!("{name}.zero"), RawTensor::i32(&[q.zero]))?;
        }
        let header = Header {
            version: VERSION,
            name: self.graph.name.clone(),
            classes: self.graph.classes,
            input: self.input().to_vec(),
            normalization: self.normalization,
            weights,
            nodes: self.graph.nodes.clone(),
        };
        let text = serde_json::to_string(&header).map_err(|e| e.to_string())?;
        writer.0.metadata.insert(KEY.into(), text);
        Ok(writer.0)
    }

    /// Reads the network of a parsed file.
    pub fn from_checkpoint(file: &Checkpoint) -> Outcome<Self> {
        let Some(text) = file.metadata.get(KEY) else {
            return Err(format!("no metadata {KEY}: not an integer network; `ghostbit export` makes one"));
        };
        let found: Versioned = serde_json::from_str(text).map_err(|e| format!("metadata {KEY}: {e}"))?;
        if found.version != VERSION {
            let remedy = "write it again: `ghostbit export --model quantized.safetensors`";
            return Err(format!("format version {}; this program reads {VERSION}; {remedy}", found.version));
        }
        let header: Header = serde_json::from_str(text).map_err(|e| format!("metadata {KEY}: {e}"))?;
        let mut reader = Reader { file, used: BTreeSet::new() };
        let mut tensors = IntegerTensors::default();
        for (name, w) in header.weights {
            let weight = reader.weight(&name, w)?;
            tensors.weights.insert(name, weight);
        }
        for node in &header.nodes {
            let wrong = |e: String| format!("node '{}': {e}", node.name);
            for name in node.kind.tensors() {
                if !tensors.weights.contains_key(name) {
                    let t = reader.floats(name).map_err(wrong)?;
                    tensors.vectors.insert(name.clone(), t);
                }
            }
            if let NodeKind::FakeQuant(q) = &node.kind {
                let quantizer = reader.quantizer(&node.name, q.bits).map_err(wrong)?;
                tensors.quantizers.insert(node.name.clone(), quantizer);
            }
        }
        if let Some(name) = file.tensors.keys().chain(file.bytes.keys()).find(|n| !reader.used.contains(*n)) {
            return Err(format!("tensor {name} belongs to no node"));
        }
        Self::new(&header.name, header.classes, &header.input, header.nodes, tensors, header.normalization)
            .map_err(|e| e.to_string())
    }
}

struct Writer(Checkpoint);

impl Writer {
    fn floats(&mut self, name: String, tensor: HostTensor) -> Outcome<()> {
        self.free(&name)?;
        self.0.tensors.insert(name, tensor);
        Ok(())
    }

    fn raw(&mut self, name: String, tensor: RawTensor) -> Outcome<()> {
        self.free(&name)?;
        self.0.bytes.insert(name, tensor);
        Ok(())
    }

    fn free(&self, name: &str) -> Outcome<()> {
        match self.0.tensors.contains_key(name) || self.0.bytes.contains_key(name) {
            true => Err(format!("tensor name {name} is used twice; rename a node")),
            false => Ok(()),
        }
    }

    fn weight(&mut self, name: &str, w: &WeightCodes) -> Outcome<()> {
        let codes = if w.bits <= 4 {
            RawTensor::u8(&pack_int4(&w.codes).map_err(|e| e.to_string())?)
        } else {
            let bytes = w.codes.iter().map(|q| *q as u8).collect();
            RawTensor { dtype: RawType::I8, shape: w.shape.clone(), bytes }
        };
        self.raw(name.into(), codes)?;
        self.floats(format!("{name}.scale"), HostTensor { shape: vec![w.scale.len()], values: w.scale.clone() })?;
        self.raw(format!("{name}.zero"), RawTensor::i32(&w.zero))
    }
}

struct Reader<'a> {
    file: &'a Checkpoint,
    used: BTreeSet<String>,
}

impl Reader<'_> {
    fn floats(&mut self, name: &str) -> Outcome<HostTensor> {
        let t = self.file.tensors.get(name).ok_or_else(|| format!("float tensor {name} is missing"))?;
        self.used.insert(name.into());
        Ok(t.clone())
    }

    fn vector(&mut self, name: &str) -> Outcome<Vec<f32>> {
        let t = self.floats(name)?;
        if t.shape.len() != 1 {
            return Err(format!("tensor {name} has shape {:?}, expected one dimension", t.shape));
        }
        Ok(t.values)
    }

    fn raw(&mut self, name: &str, dtype: RawType, shape: &[usize]) -> Outcome<&RawTensor> {
        let t = self.file.bytes.get(name).ok_or_else(|| format!("integer tensor {name} is missing"))?;
        if t.dtype != dtype || t.shape != shape {
            return Err(format!("tensor {name} is {:?} {:?}, expected {dtype:?} {shape:?}", t.dtype, t.shape));
        }
        self.used.insert(name.into());
        Ok(t)
    }

    fn integers(&mut self, name: &str, n: usize) -> Outcome<Vec<i32>> {
        Ok(self.raw(name, RawType::I32, &[n])?.to_i32().unwrap_or_default())
    }

    fn quantizer(&mut self, node: &str, bits: u8) -> Outcome<Quantizer> {
        let scale = self.vector(&format!("{node}.scale"))?;
        let zero = self.integers(&format!("{node}.zero"), 1)?;
        match (&scale[..], &zero[..]) {
            ([scale], [zero]) => Ok(Quantizer { bits, scale: *scale, zero: *zero }),
            _ => Err(format!("{} output scales, expected 1", scale.len())),
        }
    }

    fn weight(&mut self, name: &str, h: WeightHeader) -> Outcome<WeightCodes> {
        let elements = h.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        let elements = elements.ok_or_else(|| format!("weights of shape {:?} are too many", h.shape))?;
        let codes = if h.bits <= 4 {
            let bytes = &self.raw(name, RawType::U8, &[elements.div_ceil(2)])?.bytes;
            unpack_int4(bytes, elements).map_err(|e| e.to_string())?
        } else {
            self.raw(name, RawType::I8, &h.shape)?.bytes.iter().map(|b| *b as i8).collect()
        };
        let k = h.shape.first().copied().unwrap_or(0);
        let (scale, zero) = (self.vector(&format!("{name}.scale"))?, self.integers(&format!("{name}.zero"), k)?);
        Ok(WeightCodes { bits: h.bits, codes, scale, zero, shape: h.shape })
    }
}
