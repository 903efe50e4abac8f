//! Node kinds: one file each, with everything that the program knows of the kind. A new kind is its op, its file here, one line
//! in [`nodes`], and a row of the importer.

mod extent;

pub use extent::{MAX_SIZE, MAX_VALUE, Outcome};

use super::deployed::{Deployment, OnnxNode, Step};
use super::run::Run;
use super::{Graph, NodeId};
use crate::Result;
use crate::autograd::Var;
use crate::ops::activation::Activation;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

macro_rules! nodes {
    ($($module:ident: $Kind:ident),* $(,)?) => {
        $(mod $module;)*
        $(pub use $module::$Kind;)*

        /// What a node computes. In files `op` names the kind, in snake case, beside the kind's own fields.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op", rename_all = "snake_case")]
        pub enum NodeKind {
            $($Kind($Kind)),*
        }

        impl NodeKind {
            /// Returns the kind's rules.
            pub fn rules(&self) -> &dyn Kind {
                match self { $(Self::$Kind(kind) => kind),* }
            }

            fn rules_mut(&mut self) -> &mut dyn Kind {
                match self { $(Self::$Kind(kind) => kind),* }
            }
        }

        $(impl From<$Kind> for NodeKind {
            fn from(kind: $Kind) -> Self {
                Self::$Kind(kind)
            }
        })*
    };
}

nodes! {
    activation: Activate,
    add: Add,
    avg_pool: AvgPool,
    batch_norm: BatchNorm,
    channel_affine: ChannelAffine,
    concat: Concat,
    conv2d: Conv2d,
    conv2d_depthwise: Conv2dDepthwise,
    conv2d_grouped: Conv2dGrouped,
    conv_bn: ConvBn,
    div: Div,
    embedding: Embedding,
    fake_quant: FakeQuant,
    gate: Gate,
    gather_channels: GatherChannels,
    global_avg_pool: GlobalAvgPool,
    global_max_pool: GlobalMaxPool,
    input: Input,
    linear: Linear,
    lrn: Lrn,
    max_pool: MaxPool,
    mul: Mul,
    prelu: PRelu,
    reshape: Reshape,
    resize: Resize,
    shortcut_a: ShortcutA,
    sub: Sub,
    upsample_conv2d: UpsampleConv2d,
}

impl From<Activation> for NodeKind {
    fn from(function: Activation) -> Self {
        Activate { function }.into()
    }
}

/// Fake quantization of a weight, per output channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightQuant {
    /// 2 to 8.
    pub bits: u8,
}

/// Weights of a layer, by name.
#[derive(Clone, Copy, Debug)]
pub struct LayerWeights<'a> {
    /// Output channels come first.
    pub weight: &'a String,
    pub bias: Option<&'a String>,
    pub quant: Option<WeightQuant>,
}

/// How many values a node reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    Exactly(usize),
    AtLeast(usize),
}

impl Arity {
    /// Errors unless `found` inputs are right.
    pub fn check(self, found: usize) -> Outcome<()> {
        match self {
            Self::Exactly(n) if found != n => Err(format!("{found} inputs, expected {n}")),
            Self::AtLeast(n) if found < n => Err(format!("{found} inputs, expected at least {n}")),
            _ => Ok(()),
        }
    }
}

/// The rules of a node kind.
pub trait Kind {
    /// Returns the op's name, as tables and messages show it.
    fn name(&self) -> &'static str;

    /// Returns how many values it reads.
    fn arity(&self) -> Arity {
        Arity::Exactly(1)
    }

    /// Returns the names of the parameters and buffers that it uses.
    fn tensors(&self) -> Vec<&String> {
        self.layer().map_or_else(Vec::new, |l| [l.weight].into_iter().chain(l.bias).collect())
    }

    /// Returns the weights of a convolution or linear layer, which the quantize pass quantizes.
    fn layer(&self) -> Option<LayerWeights<'_>> {
        None
    }

    /// Sets the quantizer of the layer's weight.
    fn set_quant(&mut self, _quant: Option<WeightQuant>) {}

    /// Returns whether each output is one of the inputs. Codes that go in come out as codes of the same quantizer.
    fn moves_codes(&self) -> bool {
        false
    }

    /// Returns whether it acts element by element or channel by channel, so that a block of layers ends behind it.
    fn pointwise(&self) -> bool {
        false
    }

    /// Returns whether no output is below 0, given whether that holds for all inputs.
    fn nonnegative(&self, _inputs: bool) -> bool {
        false
    }

    /// Returns the output's shape, batch first, of inputs `x`; `n` is the batch. Errors say what does not fit. Sizes are
    /// not trusted: they may come from a file.
    fn shape(&self, graph: &Graph, n: usize, x: &[Shape]) -> Outcome<Shape>;

    /// Returns the multiply-adds of one sample, whose output has the shape `y`.
    fn macs(&self, _graph: &Graph, _y: Shape) -> f64 {
        0.0
    }

    /// Computes the output on the tape. `run` has the parameters and says how the network runs.
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var>;

    /// Prepares the node of an integer network for inference. Kinds without a form on codes compute on the codes' values in
    /// f32, which is the default.
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        at.on_values()
    }

    /// Writes the node as ONNX operators on f32 values, NCHW, and returns the output's name. Layers are written by the exporter,
    /// which also knows what is fused behind them.
    fn onnx(&self, _node: &mut OnnxNode) -> Outcome<String> {
        Err(format!("{} has no ONNX form", self.name()))
    }
}

impl NodeKind {
    /// See [`Kind::name`].
    pub fn name(&self) -> &'static str {
        self.rules().name()
    }
    /// See [`Kind::tensors`].
    pub fn tensors(&self) -> Vec<&String> {
        self.rules().tensors()
    }
    /// See [`Kind::layer`].
    pub fn layer(&self) -> Option<LayerWeights<'_>> {
        self.rules().layer()
    }
    /// See [`Kind::moves_codes`].
    pub fn moves_codes(&self) -> bool {
        self.rules().moves_codes()
    }
    /// See [`Kind::pointwise`].
    pub fn pointwise(&self) -> bool {
        self.rules().pointwise()
    }
    /// See [`Kind::nonnegative`].
    pub fn nonnegative(&self, inputs: bool) -> bool {
        self.rules().nonnegative(inputs)
    }
    /// See [`Kind::set_quant`].
    pub fn set_quant(&mut self, quant: Option<WeightQuant>) {
        self.rules_mut().set_quant(quant);
    }
    /// Returns the width of the layer's quantized weight, if it is one.
    pub fn weight_bits(&self) -> Option<u8> {
        self.layer()?.quant.map(|q| q.bits)
    }
    /// Returns the function of an activation node.
    pub fn activation(&self) -> Option<Activation> {
        match self {
            Self::Activate(a) => Some(a.function),
            _ => None,
        }
    }
    /// Returns the batch norm, also one that is fused into its convolution.
    pub fn batch_norm(&self) -> Option<&BatchNorm> {
        match self {
            Self::BatchNorm(norm) | Self::ConvBn(ConvBn { norm, .. }) => Some(norm),
            _ => None,
        }
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub inputs: Vec<NodeId>,
    #[serde(flatten)]
    pub kind: NodeKind,
}
