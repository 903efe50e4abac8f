//! ONNX float models as networks: what `docs/format.md` lists becomes a graph, everything else an error that names the node.
//!
//! ONNX is channels first, a [`Graph`] channels last. Convolutions differ in the order of their filters only, which
//! [`Network::load_checkpoint`] turns as it does for checkpoints; what reads a flattened map gets its weights turned here.

mod attributes;
mod build;
mod constant;
mod layers;
mod names;
mod order;
mod pooling;
mod reshaping;
mod sizes;

use crate::device::Device;
use crate::graph::{Graph, Network, Node, NodeKind};
use crate::tensor::io::Checkpoint;
use crate::tensor::onnx::{DataType, GraphProto, ModelProto, ValueInfoProto, decode};
use crate::{Error, Result};
use build::Build;
use order::Order;
use std::path::Path;

/// What is wrong with a file.
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

/// What a file without batch norms is told.
const FOLDED: &str = "holds no BatchNormalization of maps: it was folded into the convolutions, or the network has \
                      none. Data-free methods need its running statistics, from which they make their images; export the model \
                      with BatchNormalization unfolded (PyTorch: torch.onnx.export(model, x, file, dynamo=False, \
                      training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False))";

/// A network read from a file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// One input `h w c`, logits as output. Parameters have the names of the file's initializers.
    pub graph: Graph,
    /// Parameters and running statistics by name; filters `k c r s`.
    pub weights: Checkpoint,
}

impl Imported {
    /// Reads a file; the network is called as the file is. Errors name the file, and the node at fault.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let unreadable = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > MAX_BYTES {
            return Err(Error::file(path, format!("has {bytes} bytes; ONNX files have at most {MAX_BYTES}")));
        }
        let data = std::fs::read(path).map_err(unreadable)?;
        let name = path.file_stem().map_or("network".into(), |s| s.to_string_lossy());
        Self::parse(&data, &name).map_err(|e| Error::file(path, e))
    }

    /// The network in the bytes of a file, under the name `name`, or what is wrong with them. What is allocated is bounded by
    /// a few times the file's size.
    pub fn parse(data: &[u8], name: &str) -> Outcome<Self> {
        let model = decode(data)?;
        let file = model.graph.as_ref().ok_or("holds no graph: it is no ONNX file")?;
        let opset = opset(&model)?;
        // Its arithmetic around the codes would be complained of first.
        if let Some(node) = file.node.iter().find(|n| QUANTIZED.contains(&&n.op_type[..])) {
            let (name, op) = (&node.name, &node.op_type);
            return Err(format!("node '{name}' ({op}): the model is quantized already; give the float one"));
        }
        let (input, batch, sample) = input(file)?;
        let output = output(file)?;
        let order = Order::new(file, input, output)?;
        let mut build = Build::new(name, opset, batch, data.len(), file);
        build.input(input, sample);
        order.values.iter().try_for_each(|&i| build.node(&file.node[i]))?;
        let (graph, weights) = build.finish(order.output)?;
        let shapes = graph.shapes(1).map_err(|e| e.to_string())?;
        let of_maps = |n: &Node| matches!(n.kind, NodeKind::BatchNorm(_)) && shapes[n.inputs[0]].len() == 4;
        if !graph.nodes.iter().any(of_maps) {
            return Err(FOLDED.into());
        }
        Ok(Self { graph, weights })
    }

    /// The network with its weights on `device`; `path` is named in errors.
    pub fn network(self, device: &Device, path: &Path) -> Result<Network> {
        let mut network = Network::new(device, self.graph, 0)?;
        network.load_checkpoint(self.weights, path)?;
        Ok(network)
    }
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

/// Name of the one input, its batch size if that is fixed, and `h w c`.
fn input(file: &GraphProto) -> Outcome<(&str, Option<i64>, [usize; 3])> {
    let all: Vec<&ValueInfoProto> = file.inputs().collect();
    let [input] = all[..] else {
        let names: Vec<&str> = all.iter().take(8).map(|i| &i.name[..]).collect();
        return Err(format!("takes {} inputs ({}); one of images is expected", all.len(), names.join(", ")));
    };
    let name = &input.name;
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let Some(tensor) = tensor else { return Err(format!("input '{name}' is no tensor")) };
    if tensor.elem_type != DataType::Float as i32 {
        return Err(format!("input '{name}' is of type {}; f32 (1) is expected", tensor.elem_type));
    }
    let dims: Vec<Option<i64>> =
        tensor.shape.iter().flat_map(|s| &s.dim).map(|d| d.dim_value.filter(|v| *v > 0)).collect();
    let size = |d: Option<i64>| d.and_then(|d| usize::try_from(d).ok()).filter(|d| (1..=MAX_SIZE).contains(d));
    match dims[..] {
        [batch, c, h, w] => match (size(c), size(h), size(w)) {
            (Some(c), Some(h), Some(w)) if c * h * w <= MAX_VALUE => Ok((name, batch, [h, w, c])),
            _ => Err(format!(
                "input '{name}': channels, height and width must be fixed, each 1 to {MAX_SIZE}, and {MAX_VALUE} numbers at most; export \
                 the model with an example image of the size that it takes"
            )),
        },
        _ => {
            Err(format!("input '{name}' has {} dimensions; images have 4 (batch, channels, height, width)", dims.len()))
        }
    }
}

fn output(file: &GraphProto) -> Outcome<&str> {
    match &file.output[..] {
        [output] => Ok(&output.name),
        all => {
            let names: Vec<&str> = all.iter().take(8).map(|o| &o.name[..]).collect();
            Err(format!("has {} outputs ({}); the logits alone are expected", all.len(), names.join(", ")))
        }
    }
}
