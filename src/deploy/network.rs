//! The integer network as data.
//!
//! A value between nodes is either f32 or codes of one [`Quantizer`]; which of the two follows from the node that makes it
//! ([`IntegerNetwork::values`]). A code stands for `(code + zero) / scale`, computed in f32: sum, then quotient.

use crate::data::Normalization;
use crate::ops::conv2d_int::Ranges;
use crate::quant::Affine;

/// A network with integer weights, structure and values. Nodes are in topological order; the last one is the output.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerNetwork {
    pub name: String,
    pub classes: usize,
    /// Per-sample shape of the input, `h w c`, f32.
    pub input: Vec<usize>,
    /// How pixels become inputs.
    pub normalization: Normalization,
    pub nodes: Vec<Node>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique. A layer has its name in the float network (`layer1.0.conv1`).
    pub name: String,
    pub kind: Kind,
    /// Nodes before this one. A layer with a residual has it as its second input.
    pub inputs: Vec<usize>,
}

/// What a node computes. Shapes are NHWC and `n c`.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// The network's input, f32.
    Input,
    /// Convolution `n h w c` -> `n p q k`, weight `k r s c`, and what is fused behind it. Of codes: integer sums. Of f32: the
    /// values of the weight, f32 sums that begin with the bias.
    Conv {
        layer: Layer,
        stride: usize,
        pad: usize,
        dilation: usize,
    },
    /// One filter per channel, weight `c r s 1`, likewise.
    Depthwise {
        layer: Layer,
        stride: usize,
        pad: usize,
        dilation: usize,
    },
    /// `n c` -> `n k`, weight `k c`, likewise.
    Linear {
        layer: Layer,
    },
    /// f32 to codes.
    Quantize(Quantizer),
    /// `(v - mean) * scale + shift` per channel; codes are taken for their values, here and below, but for max pooling and
    /// changes of shape, which give codes of codes.
    Norm(Norm),
    Relu,
    /// ReLU cut off at 6.
    Relu6,
    /// What is negative times `slope`, which is above 0.
    LeakyRelu {
        slope: f32,
    },
    /// Sum of two inputs.
    Add,
    /// Channels of all inputs side by side.
    Concat,
    /// Every `stride`-th pixel, and zero channels, `(c_out - c) / 2` of them first.
    ShortcutA {
        stride: usize,
        c_out: usize,
    },
    /// `n h w c` -> `n c`.
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
    /// Per-sample shape.
    Reshape {
        shape: Vec<usize>,
    },
}

impl Kind {
    /// The op's name, as in files.
    pub fn op(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Conv { .. } => "conv",
            Self::Depthwise { .. } => "depthwise",
            Self::Linear { .. } => "linear",
            Self::Quantize(_) => "quantize",
            Self::Norm(_) => "norm",
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
            Self::LeakyRelu { .. } => "leaky_relu",
            Self::Add => "add",
            Self::Concat => "concat",
            Self::ShortcutA { .. } => "shortcut_a",
            Self::GlobalAvgPool => "global_avg_pool",
            Self::MaxPool { .. } => "max_pool",
            Self::AvgPool { .. } => "avg_pool",
            Self::Reshape { .. } => "reshape",
        }
    }
    /// The layer of a convolution or linear node.
    pub fn layer(&self) -> Option<&Layer> {
        match self {
            Self::Conv { layer, .. } | Self::Depthwise { layer, .. } | Self::Linear { layer } => Some(layer),
            _ => None,
        }
    }
}

/// Weights of a convolution or linear layer, and what follows it within the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub weight: Weight,
    /// Per output channel, f32.
    pub bias: Option<Vec<f32>>,
    pub then: Then,
}

/// What is fused behind a layer, in this order: normalization, sum with the residual, ReLU, quantization.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Then {
    pub norm: Option<Norm>,
    /// Whether the node's second input is added.
    pub residual: bool,
    pub relu: bool,
    pub quantizer: Option<Quantizer>,
}

/// Batch normalization by stored statistics: `(v - mean) * scale + shift`, three f32 operations, per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    pub mean: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

/// The quantizer of an activation: `code = clamp(round(scale v - zero))` to `bits` bits, halves to even; product, difference
/// and rounding in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    pub bits: u8,
    /// Steps per unit.
    pub scale: f32,
    pub zero: i32,
}

impl Quantizer {
    pub fn affine(&self) -> Affine<f32> {
        affine(self.scale, self.zero, self.bits)
    }
}

/// A quantized weight: codes of `bits` bits as two's complement, one quantizer per output channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    pub bits: u8,
    /// `k r s c` or `k c`.
    pub shape: Vec<usize>,
    /// In row-major order of `shape`.
    pub codes: Vec<i8>,
    /// Steps per unit, `[k]`.
    pub scale: Vec<f32>,
    /// `[k]`.
    pub zero: Vec<i32>,
}

impl Weight {
    pub fn affines(&self) -> Vec<Affine<f32>> {
        self.scale.iter().zip(&self.zero).map(|(s, z)| affine(*s, *z, self.bits)).collect()
    }
    /// The values of the codes, as fake quantization gives them.
    pub fn values(&self) -> Vec<f32> {
        let row = self.codes.len() / self.scale.len().max(1);
        let rows = self.codes.chunks(row.max(1)).zip(self.affines());
        rows.flat_map(|(codes, a)| codes.iter().map(move |q| a.value(f32::from(*q)))).collect()
    }
    /// Bytes of the codes in a file: two to a byte up to 4 bits.
    pub fn packed_bytes(&self) -> usize {
        if self.bits <= 4 { self.codes.len().div_ceil(2) } else { self.codes.len() }
    }
}

fn affine(scale: f32, zero: i32, bits: u8) -> Affine<f32> {
    let half = f32::from(1u16 << (bits - 1));
    Affine { scale, zero: zero as f32, low: -half, high: half - 1.0 }
}

/// What a node's output is: its per-sample shape, and the quantizer if it is codes.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub shape: Vec<usize>,
    pub codes: Option<Quantizer>,
}

impl IntegerNetwork {
    /// Bytes of all weights in f32, and as packed codes with their scales and zero points.
    pub fn weight_bytes(&self) -> (usize, usize) {
        let weights = self.nodes.iter().filter_map(|n| n.kind.layer()).map(|l| &l.weight);
        weights.fold((0, 0), |(float, packed), w| {
            (float + 4 * w.codes.len(), packed + w.packed_bytes() + 8 * w.scale.len())
        })
    }
}

impl Layer {
    /// The quantizers of this layer on codes of `x`.
    pub(super) fn ranges(&self, x: &Quantizer) -> Ranges<f32> {
        Ranges::new(x.affine(), self.weight.affines())
    }
}
