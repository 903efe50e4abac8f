//! ONNX float models as networks: what `docs/format.md` lists becomes a graph, everything else an error that names the node.
//!
//! ONNX is channels first, a [`Graph`] channels last. Convolutions differ in the order of their filters only, which
//! [`Network::load_checkpoint`] turns as it does for checkpoints; what reads a flattened map gets its weights turned here.

mod attributes;
mod build;
mod by_parts;
mod constant;
mod dispatch;
mod edges;
mod emit;
mod external;
mod faults;
mod fold;
mod functions;
mod host;
mod interface;
mod joining;
mod layers;
mod layout;
mod names;
mod operators;
mod order;
mod placing;
mod pooling;
mod reshaping;
mod resizing;
mod scaling;
mod selecting;
mod storing;
mod window;

use crate::device::Device;
use crate::graph::{Graph, Network};
use crate::tensor::io::Checkpoint;
use crate::tensor::onnx::{GraphProto, ModelProto, TensorProto, decode};
use crate::{Error, Result};
use build::Build;
use external::Folder;
use interface::{input, outputs};
use order::{Order, label};
use std::path::Path;
use storing::Limits;

/// A result, or a message that says how a file is wrong.
type Outcome<T> = std::result::Result<T, String>;

/// Operator sets that are understood.
const OPSETS: std::ops::RangeInclusive<i64> = 7..=24;
/// Bytes of a file, at most: those of a protocol buffer.
const MAX_BYTES: u64 = 1 << 31;
/// Sizes of one dimension, window, stride, padding or dilation, at most.
const MAX_SIZE: usize = 1 << 16;
/// Numbers of one sample's value between nodes, at most.
const MAX_VALUE: usize = 1 << 26;
const MAX_CLASSES: usize = 100_000;

/// Operations of networks that are quantized.
const QUANTIZED: [&str; 5] =
    ["QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"];

/// Numbers of weights that a file may ask for without holding them, at most: those of VGG-19 fit.
const MAX_FILLED: usize = 160 << 20;

/// Choices that a file leaves open.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The value that is the logits. Without it: the only output, or the only one of a row per image.
    pub output: Option<String>,
    /// `[c, h, w]` of an image, for files that leave them open; `c = 0`: as the file says.
    pub input_size: Option<[usize; 3]>,
    /// Numbers of weights that the file may ask for without holding them (`ConstantOfShape`), at most.
    pub filled: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { output: None, input_size: None, filled: MAX_FILLED }
    }
}

/// A network read from a file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// One input `h w c`, logits as output. Parameters have the names of the file's initializers.
    pub graph: Graph,
    /// Parameters and running statistics by name; filters `k c r s`.
    pub weights: Checkpoint,
}

impl Imported {
    /// [`Imported::load_with`] without options.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::load_with(path, &Options::default())
    }

    /// Reads a file, and the files beside it that hold its weights; the network is called as the file is. Errors name the file,
    /// and the node at fault.
    pub fn load_with(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let path = path.as_ref();
        let unreadable = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > MAX_BYTES {
            return Err(Error::file(path, format!("has {bytes} bytes; ONNX files have at most {MAX_BYTES}")));
        }
        let data = std::fs::read(path).map_err(unreadable)?;
        let folder = Folder::of(path).map_err(unreadable)?;
        let name = path.file_stem().map_or("network".into(), |s| s.to_string_lossy());
        read(&data, &name, options, Some(&folder)).map_err(|e| Error::file(path, e))
    }

    /// [`Imported::parse_with`] without options.
    pub fn parse(data: &[u8], name: &str) -> Outcome<Self> {
        Self::parse_with(data, name, &Options::default())
    }

    /// The network in the bytes of a file, under the name `name`, or what is wrong with them. What is allocated is bounded by
    /// a few times the file's size and `options.filled`. Weights in other files are refused.
    pub fn parse_with(data: &[u8], name: &str, options: &Options) -> Outcome<Self> {
        read(data, name, options, None)
    }

    /// The network with its weights on `device`; `path` is named in errors.
    pub fn network(self, device: &Device, path: &Path) -> Result<Network> {
        let mut network = Network::new(device, self.graph, 0)?;
        network.load_checkpoint(self.weights, path)?;
        Ok(network)
    }
}

fn read(data: &[u8], name: &str, options: &Options, folder: Option<&Folder>) -> Outcome<Imported> {
    let model = decode(data)?;
    let file = model.graph.as_ref().ok_or("holds no graph: it is no ONNX file")?;
    let opset = opset(&model)?;
    // Its arithmetic around the codes would be complained of first.
    if let Some(node) = file.node.iter().find(|n| QUANTIZED.contains(&&n.op_type[..])) {
        let (name, op) = (label(node), &node.op_type);
        return Err(format!("node '{name}' ({op}): the model is quantized already; give the float one"));
    }
    let input = input(file, options.input_size)?;
    let outputs = outputs(file, options.output.as_deref())?;
    let order = Order::new(file, input.name, &outputs)?;
    let beside = folder.map_or(0, |f| f.bytes(tensors(file)));
    let bytes = data.len().saturating_add(usize::try_from(beside).unwrap_or(usize::MAX));
    let limits =
        Limits { copied: bytes, filled: options.filled, evaluated: bytes.saturating_mul(4).saturating_add(1 << 20) };
    let mut build = Build::new(name, opset, file, folder, limits);
    build.input(input.name, input.sample, input.layout, input.batch);
    for &i in &order.values {
        build.node(&file.node[i], order.last.contains(&i));
    }
    let last = build.logits(&outputs)?;
    let (graph, weights) = build.finished(last)?;
    Ok(Imported { graph, weights })
}

/// All tensors of a file, those of `Constant` nodes too.
fn tensors(file: &GraphProto) -> impl Iterator<Item = &TensorProto> {
    let of_nodes = file.node.iter().flat_map(|n| &n.attribute).filter_map(|a| a.t.as_ref());
    file.initializer.iter().chain(of_nodes)
}

/// The version of ONNX's own operators.
fn opset(model: &ModelProto) -> Outcome<i64> {
    let own = model.opset_import.iter().find(|o| o.domain.is_empty() || o.domain == "ai.onnx");
    match own.map(|o| o.version) {
        Some(version) if OPSETS.contains(&version) => Ok(version),
        Some(version) => {
            let (first, last) = (OPSETS.start(), OPSETS.end());
            Err(format!(
                "uses operator set {version}; {first} to {last} are understood: export it with opset_version={last}"
            ))
        }
        None => Err("does not say which operator set it uses".into()),
    }
}
