//! A network as data: nodes in topological order, named parameters and buffers. Models build one, passes rewrite one, one
//! executor runs it on the tape. An integer network is the same graph with integer numbers ([`deployed`]). Nothing else in the
//! project knows what a ResNet is.

mod blocks;
pub mod deployed;
mod exec;
mod forward;
mod fused;
mod head;
mod import;
mod network;
pub mod nodes;
pub mod passes;
mod quantized;
mod run;
mod shapes;
mod statistics;
mod store;

pub use blocks::Block;
pub use forward::{BnStatistics, Drop, Forward, Mode, Outputs, RangeMode, STREAMS, Swing, Taps};
pub use head::{Head, HeadForm};
pub use network::{Network, QuantizerInfo};
pub use nodes::{Node, NodeKind, WeightQuant};
pub use run::Run;
pub use store::ParamStore;

use crate::tensor::Shape;
use crate::{Error, Result};
use nodes::{Input, Linear, Outcome};
use passes::Fused;
use std::sync::OnceLock;

/// Index of a node in its graph.
pub type NodeId = usize;

/// What a node computes. Names refer to parameters and buffers of the graph.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// The `index`-th input of the network.
    Input {
        index: usize,
    },
    /// `n h w c` -> `n p q k`; weight `k r s c`.
    Conv2d {
        weight: String,
        bias: Option<String>,
        params: Conv2dParams,
        quant: Option<WeightQuant>,
    },
    /// A convolution and its batch norm as one: Tune mode under running statistics.
    ConvBn {
        weight: String,
        bias: Option<String>,
        params: Conv2dParams,
        quant: Option<WeightQuant>,
        gamma: Option<String>,
        beta: Option<String>,
        mean: String,
        var: String,
        eps: f32,
    },
    /// One filter per channel; weight `c r s 1`.
    Conv2dDepthwise {
        weight: String,
        bias: Option<String>,
        params: Conv2dParams,
        quant: Option<WeightQuant>,
    },
    /// Nearest x2, then a 3x3 convolution with padding 1, as one node.
    UpsampleConv2d {
        weight: String,
        bias: Option<String>,
        math: Math,
    },
    /// Channel-last batch normalisation; without `gamma`/`beta` it is affine-free. `mean`/`var` are buffers.
    BatchNorm {
        gamma: Option<String>,
        beta: Option<String>,
        mean: String,
        var: String,
        eps: f32,
    },
    Activation(Activation),
    Add,
    Mul,
    /// Channels of the inputs side by side.
    Concat,
    /// Parameter-free residual shortcut of CIFAR ResNets: subsample and pad channels with zeros.
    ShortcutA {
        stride: usize,
        c_out: usize,
    },
    GlobalAvgPool,
    MaxPool {
        k: usize,
        stride: usize,
        pad: usize,
    },
    AvgPool {
        k: usize,
        stride: usize,
        pad: usize,
    },
    /// `n c` -> `n k`; weight `k c`.
    Linear {
        weight: String,
        bias: Option<String>,
        quant: Option<WeightQuant>,
    },
    Embedding {
        table: String,
    },
    /// Per-sample shape; the batch dimension stays.
    Reshape {
        shape: Vec<usize>,
    },
    /// Activation quantizer, per tensor.
    FakeQuant {
        bits: u8,
    },
}

/// Fake quantization of a weight, per output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightQuant {
    pub bits: u8,
}

impl NodeKind {
    /// Whether the outputs are some of the inputs: of codes they are codes of the same quantizer.
    pub fn moves_codes(&self) -> bool {
        matches!(self, Self::MaxPool { .. } | Self::Reshape { .. })
    }
    /// The op's name, as in tables.
    pub fn op(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Conv2d { .. } => "conv2d",
            Self::ConvBn { .. } => "conv_bn",
            Self::Conv2dDepthwise { .. } => "conv2d_depthwise",
            Self::UpsampleConv2d { .. } => "upsample_conv2d",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Activation(kind) => kind.name(),
            Self::Add => "add",
            Self::Mul => "mul",
            Self::Concat => "concat",
            Self::ShortcutA { .. } => "shortcut",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::MaxPool { .. } => "max_pool",
            Self::AvgPool { .. } => "avg_pool",
            Self::Linear { .. } => "linear",
            Self::Embedding { .. } => "embedding",
            Self::Reshape { .. } => "reshape",
            Self::FakeQuant { .. } => "fake_quant",
        }
    }

    /// Names of the parameters and buffers that it uses.
    pub fn tensors(&self) -> Vec<&String> {
        match self {
            Self::Conv2d { weight, bias, .. }
            | Self::Conv2dDepthwise { weight, bias, .. }
            | Self::UpsampleConv2d { weight, bias, .. }
            | Self::Linear { weight, bias, .. } => [weight].into_iter().chain(bias).collect(),
            Self::ConvBn { weight, bias, gamma, beta, mean, var, .. } => {
                [weight, mean, var].into_iter().chain([bias, gamma, beta].into_iter().flatten()).collect()
            }
            Self::BatchNorm { gamma, beta, mean, var, .. } => {
                [mean, var].into_iter().chain(gamma).chain(beta).collect()
            }
            Self::Embedding { table } => vec![table],
            _ => Vec::new(),
        }
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub kind: NodeKind,
    pub inputs: Vec<NodeId>,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Uniform in `[-bound, bound)`.
    Uniform {
        bound: f32,
    },
    Normal {
        std: f32,
    },
}

/// A trainable tensor.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    pub name: String,
    pub shape: Shape,
    pub init: Init,
}

/// A tensor that is state, not trained (running statistics).
#[derive(Clone, Debug)]
pub struct BufferSpec {
    pub name: String,
    pub shape: Shape,
    pub value: f32,
}

/// What an input of the network is.
#[derive(Clone, Debug, PartialEq)]
pub enum InputKind {
    /// f32 with this per-sample shape.
    Real(Vec<usize>),
    /// One I32 label per sample, in `0..classes`.
    Label { classes: usize },
}

/// A network: structure only. Values live in [`Network`].
#[derive(Debug)]
pub struct Graph {
    pub name: String,
    pub inputs: Vec<InputKind>,
    pub nodes: Vec<Node>,
    pub params: Vec<ParamSpec>,
    pub buffers: Vec<BufferSpec>,
    /// The last node is the output.
    pub classes: usize,
    fused: OnceLock<Fused>,
}

/// A copy finds its fused layers anew, since its nodes may be changed.
impl Clone for Graph {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            inputs: self.inputs.clone(),
            nodes: self.nodes.clone(),
            params: self.params.clone(),
            buffers: self.buffers.clone(),
            classes: self.classes,
            fused: OnceLock::new(),
        }
    }
}

impl Graph {
    pub fn new(name: impl Into<String>, classes: usize) -> Self {
        Self {
            name: name.into(),
            inputs: Vec::new(),
            nodes: Vec::new(),
            params: Vec::new(),
            buffers: Vec::new(),
            classes,
            fused: OnceLock::new(),
        }
    }

    /// Returns a graph of the same name, inputs, parameters and buffers without nodes, for a pass to fill.
    pub(crate) fn without_nodes(&self) -> Self {
        Self { nodes: Vec::new(), fused: OnceLock::new(), ..self.clone() }
    }

    /// Returns the fused layers of the finished graph. They are found once.
    pub fn fused(&self) -> &Fused {
        self.fused.get_or_init(|| Fused::of(self))
    }

    /// The smallest network that can be quantized, to check settings without a real one.
    pub(crate) fn probe() -> Self {
        let mut g = Self::new("probe", 2);
        let x = g.input("x", InputKind::Real(vec![2]));
        let weight = g.param("weight", &[2, 2], Init::Zeros);
        g.push("linear", Linear { weight, bias: None, quant: None }, &[x]);
        g
    }

    /// Appends a node; its inputs must exist already, which keeps the order topological.
    pub fn push(&mut self, name: impl Into<String>, kind: impl Into<NodeKind>, inputs: &[NodeId]) -> NodeId {
        assert!(inputs.iter().all(|&i| i < self.nodes.len()), "a node's inputs come before it");
        self.fused.take();
        self.nodes.push(Node { name: name.into(), kind: kind.into(), inputs: inputs.to_vec() });
        self.nodes.len() - 1
    }

    /// Appends an input node.
    pub fn input(&mut self, name: impl Into<String>, kind: InputKind) -> NodeId {
        self.inputs.push(kind);
        let index = self.inputs.len() - 1;
        self.push(name, Input { index }, &[])
    }

    /// Buffers `(mean, var)` of every batch norm, fused ones included, in order.
    pub fn running_statistics(&self) -> Vec<(&String, &String)> {
        self.nodes.iter().filter_map(|n| n.kind.batch_norm()).map(|norm| (&norm.mean, &norm.var)).collect()
    }

    /// Declares a parameter and returns its name.
    pub fn param(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> String {
        let name = name.into();
        self.params.push(ParamSpec { name: name.clone(), shape: shape.into(), init });
        name
    }

    /// Declares a buffer and returns its name.
    pub fn buffer(&mut self, name: impl Into<String>, shape: &[usize], value: f32) -> String {
        let name = name.into();
        self.buffers.push(BufferSpec { name: name.clone(), shape: shape.into(), value });
        name
    }

    /// Node of that name, or an error naming the graph and the closest node.
    pub fn node(&self, name: &str) -> Result<NodeId> {
        self.nodes
            .iter()
            .position(|n| n.name == name)
            .ok_or_else(|| Error::network(&self.name, format!("no node '{name}'; see `ghostbit inspect`")))
    }

    /// Returns the shape of a parameter or buffer.
    pub fn tensor(&self, name: &str) -> Outcome<Shape> {
        let param = self.params.iter().rev().find(|p| p.name == name).map(|p| p.shape);
        let found = param.or_else(|| self.buffers.iter().rev().find(|b| b.name == name).map(|b| b.shape));
        found.ok_or_else(|| format!("unknown parameter '{name}'"))
    }

    /// Returns whether a convolution or linear layer reads node `id`, directly or behind nodes that only move codes.
    pub fn feeds_layer(&self, id: NodeId) -> bool {
        self.nodes.iter().enumerate().skip(id + 1).any(|(reader, n)| {
            let layer = n.kind.layer().is_some();
            n.inputs.first() == Some(&id) && (layer || n.kind.moves_codes() && self.feeds_layer(reader))
        })
    }

    /// Returns whether a quantized layer reads node `id`, directly or behind nodes that only move codes. Then the codes of a
    /// quantizer there are of use.
    pub fn computes_with_codes(&self, id: NodeId) -> bool {
        self.nodes.iter().enumerate().skip(id + 1).any(|(reader, n)| {
            let quantized = n.kind.weight_bits().is_some();
            n.inputs.first() == Some(&id) && (quantized || n.kind.moves_codes() && self.computes_with_codes(reader))
        })
    }
}
