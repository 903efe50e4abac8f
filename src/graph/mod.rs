//! A network as data: nodes in topological order, named parameters and buffers. Models build one, passes rewrite one,
//! one executor runs it on the tape. Nothing else in the project knows what a ResNet is.

mod blocks;
mod exec;
mod forward;
mod fused;
mod head;
mod import;
mod network;
pub mod passes;
mod quantized;
mod shapes;
mod statistics;
mod store;

pub use blocks::Block;
pub use forward::{BnStatistics, Drop, Forward, Mode, Outputs, RangeMode, STREAMS, Swing, Taps};
pub use head::Head;
pub use network::Network;
pub use store::ParamStore;

use crate::ops::activation::Activation;
use crate::ops::conv2d::{Conv2dParams, Math};
use crate::tensor::Shape;
use crate::{Error, Result};

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
#[derive(Clone, Debug)]
pub struct Graph {
    pub name: String,
    pub inputs: Vec<InputKind>,
    pub nodes: Vec<Node>,
    pub params: Vec<ParamSpec>,
    pub buffers: Vec<BufferSpec>,
    /// The last node is the output.
    pub classes: usize,
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
        }
    }

    /// The smallest network that can be quantized, to check settings without a real one.
    pub(crate) fn probe() -> Self {
        let mut g = Self::new("probe", 2);
        let x = g.input("x", InputKind::Real(vec![2]));
        let weight = g.param("weight", &[2, 2], Init::Zeros);
        g.push("linear", NodeKind::Linear { weight, bias: None, quant: None }, &[x]);
        g
    }

    /// Appends a node; its inputs must exist already, which keeps the order topological.
    pub fn push(&mut self, name: impl Into<String>, kind: NodeKind, inputs: &[NodeId]) -> NodeId {
        assert!(inputs.iter().all(|&i| i < self.nodes.len()), "a node's inputs come before it");
        self.nodes.push(Node { name: name.into(), kind, inputs: inputs.to_vec() });
        self.nodes.len() - 1
    }

    /// Appends an input node.
    pub fn input(&mut self, name: impl Into<String>, kind: InputKind) -> NodeId {
        self.inputs.push(kind);
        let index = self.inputs.len() - 1;
        self.push(name, NodeKind::Input { index }, &[])
    }

    /// Buffers `(mean, var)` of every batch norm, fused ones included, in order.
    pub fn running_statistics(&self) -> Vec<(&String, &String)> {
        let norms = self.nodes.iter().filter_map(|n| match &n.kind {
            NodeKind::BatchNorm { mean, var, .. } | NodeKind::ConvBn { mean, var, .. } => Some((mean, var)),
            _ => None,
        });
        norms.collect()
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

    /// Whether a quantized layer reads node `id`, directly or behind what only moves codes: then the codes of a quantizer there
    /// are of use.
    pub fn computes_with_codes(&self, id: NodeId) -> bool {
        self.nodes.iter().enumerate().any(|(reader, n)| {
            let quantized = matches!(
                n.kind,
                NodeKind::Conv2d { quant: Some(_), .. }
                    | NodeKind::Conv2dDepthwise { quant: Some(_), .. }
                    | NodeKind::ConvBn { quant: Some(_), .. }
                    | NodeKind::Linear { quant: Some(_), .. }
            );
            n.inputs.first() == Some(&id) && (quantized || n.kind.moves_codes() && self.computes_with_codes(reader))
        })
    }
}
