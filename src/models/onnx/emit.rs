//! The nodes of a [`Graph`](crate::graph::Graph) that the importer makes: one function per kind.

use super::Outcome;
use super::window::Window;
use crate::graph::NodeKind;
use crate::graph::nodes::{
    Add, AvgPool, BatchNorm, Concat, Conv2d, Conv2dDepthwise, GlobalAvgPool, GlobalMaxPool, Linear, MaxPool, Mul,
    Reshape, ShortcutA,
};
use crate::ops::activation::Activation;
use crate::ops::conv2d::Conv2dParams;
use crate::ops::pool::PoolParams;

/// A function of each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    Relu,
    LeakyRelu(f32),
    Tanh,
    Clip { low: f32, high: f32 },
    Sigmoid,
    HardSigmoid { alpha: f32, beta: f32 },
    Silu,
    HardSwish,
    Elu(f32),
    Gelu { tanh: bool },
    Mish,
    Softplus,
}

/// Resizing of height and width, as ONNX's `Resize` describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resizing {
    /// Height and width of the output.
    pub size: [usize; 2],
    /// Output pixels per input pixel, which coordinates are computed with.
    pub scale: [f32; 2],
    /// Bilinear instead of nearest.
    pub linear: bool,
    /// `half_pixel`, `asymmetric` ..
    pub coordinates: String,
    /// `round_prefer_floor`, `floor` ..
    pub nearest: String,
}

fn not_yet<T>(what: &str) -> Outcome<T> {
    Err(format!("{what} is not supported yet"))
}

fn conv_params(w: &Window) -> Conv2dParams {
    Conv2dParams::default().strides(w.stride).pads(w.pad).dilations(w.dilation)
}

fn pool_params(w: &Window, count_pad: bool) -> PoolParams {
    PoolParams { kernel: w.kernel, stride: w.stride, pad: w.pad, ceil: w.ceil, count_pad }
}

/// Convolution, weight `k r s c`.
pub fn conv(weight: String, bias: Option<String>, w: &Window) -> Outcome<NodeKind> {
    Ok(Conv2d { weight, bias, params: conv_params(w), quant: None }.into())
}

/// Convolution in `groups`, weight `k r s c/groups`.
pub fn grouped(weight: String, bias: Option<String>, groups: usize, w: &Window) -> Outcome<NodeKind> {
    let _ = (weight, bias, w);
    not_yet(&format!("a convolution in {groups} groups"))
}

/// One filter per channel, weight `c r s 1`.
pub fn depthwise(weight: String, bias: Option<String>, w: &Window) -> Outcome<NodeKind> {
    Ok(Conv2dDepthwise { weight, bias, params: conv_params(w), quant: None }.into())
}

/// Normalization of maps or rows with running statistics `mean` and `var`.
pub fn batch_norm(gamma: String, beta: String, mean: String, var: String, eps: f32) -> Outcome<NodeKind> {
    Ok(BatchNorm { gamma: Some(gamma), beta: Some(beta), mean, var, eps }.into())
}

/// Matrix product of rows, weight `k c`.
pub fn linear(weight: String, bias: Option<String>) -> Outcome<NodeKind> {
    Ok(Linear { weight, bias, quant: None }.into())
}

pub fn activation(f: Function) -> Outcome<NodeKind> {
    let function = match f {
        Function::Relu => Activation::Relu,
        Function::LeakyRelu(slope) => Activation::LeakyRelu(slope),
        Function::Tanh => Activation::Tanh,
        Function::Clip { low: 0.0, high: 6.0 } => Activation::Relu6,
        Function::Clip { low, high } => return not_yet(&format!("a clip to {low} .. {high}")),
        Function::Sigmoid => return not_yet("Sigmoid"),
        Function::HardSigmoid { .. } => return not_yet("HardSigmoid"),
        Function::Silu => return not_yet("SiLU"),
        Function::HardSwish => return not_yet("HardSwish"),
        Function::Elu(_) => return not_yet("Elu"),
        Function::Gelu { .. } => return not_yet("Gelu"),
        Function::Mish => return not_yet("Mish"),
        Function::Softplus => return not_yet("Softplus"),
    };
    Ok(function.into())
}

/// `x > 0 ? x : slope x`, slope `c`.
pub fn prelu(slope: String) -> Outcome<NodeKind> {
    let _ = slope;
    not_yet("PRelu")
}

/// Sum of two values of one shape.
pub fn add() -> Outcome<NodeKind> {
    Ok(Add {}.into())
}
pub fn sub() -> Outcome<NodeKind> {
    not_yet("a difference of two activations")
}
/// Product of two values of one shape.
pub fn mul() -> Outcome<NodeKind> {
    Ok(Mul {}.into())
}
pub fn div() -> Outcome<NodeKind> {
    not_yet("a quotient of two activations")
}

/// Product of a map `n h w c` and one number per image and channel, `n c`.
pub fn gate() -> Outcome<NodeKind> {
    not_yet("a map times one number per channel (squeeze and excitation)")
}

/// `x * scale + shift` per channel, `c` each.
pub fn channel_affine(scale: Option<String>, shift: Option<String>) -> Outcome<NodeKind> {
    let _ = (scale, shift);
    not_yet("a constant per channel that no layer can take in")
}

/// Channel `index[j]` as channel `j`.
pub fn gather_channels(index: Vec<usize>) -> Outcome<NodeKind> {
    not_yet(&format!("a choice of {} channels", index.len()))
}

/// Channels of all inputs side by side.
pub fn concat() -> Outcome<NodeKind> {
    Ok(Concat {}.into())
}

/// Padding counts as the lowest number.
pub fn max_pool(w: &Window) -> Outcome<NodeKind> {
    Ok(MaxPool { params: pool_params(w, true) }.into())
}

/// `count`: whether padding counts as zeros.
pub fn avg_pool(w: &Window, count: bool) -> Outcome<NodeKind> {
    // Without padding both are the same; the plain form is the one that all devices have.
    Ok(AvgPool { params: pool_params(w, count || w.pad == [0; 4]) }.into())
}

/// Average over height and width, `n c`.
pub fn global_avg() -> Outcome<NodeKind> {
    Ok(GlobalAvgPool {}.into())
}
/// Largest value over height and width, `n c`.
pub fn global_max() -> Outcome<NodeKind> {
    Ok(GlobalMaxPool {}.into())
}

pub fn resize(r: Resizing) -> Outcome<NodeKind> {
    not_yet(&format!("resizing to {:?}", r.size))
}

/// Local response normalization over `size` channels.
pub fn lrn(size: usize, alpha: f32, beta: f32, bias: f32) -> Outcome<NodeKind> {
    let _ = (size, alpha, beta, bias);
    not_yet("LRN")
}

/// Every `stride`-th pixel; `(c_out - c) / 2` channels of zeros in front, the others behind.
pub fn shortcut_a(stride: usize, c_out: usize) -> Outcome<NodeKind> {
    Ok(ShortcutA { stride, c_out }.into())
}

/// Another shape of each sample.
pub fn reshape(shape: Vec<usize>) -> Outcome<NodeKind> {
    Ok(Reshape { shape }.into())
}

/// Parameters of a node that a per-channel product and sum behind it can be taken into.
pub enum Absorbs<'a> {
    /// A layer: its rows are scaled, its bias is scaled and shifted.
    Layer { weight: &'a str, bias: &'a mut Option<String> },
    /// A batch norm.
    Norm { gamma: &'a str, beta: &'a str },
    /// A product and a sum.
    Affine { scale: &'a mut Option<String>, shift: &'a mut Option<String> },
}

pub fn absorbs(kind: &mut NodeKind) -> Option<Absorbs<'_>> {
    match kind {
        NodeKind::Conv2d(Conv2d { weight, bias, .. })
        | NodeKind::Conv2dDepthwise(Conv2dDepthwise { weight, bias, .. })
        | NodeKind::Linear(Linear { weight, bias, .. }) => Some(Absorbs::Layer { weight, bias }),
        NodeKind::BatchNorm(BatchNorm { gamma: Some(gamma), beta: Some(beta), .. }) => {
            Some(Absorbs::Norm { gamma, beta })
        }
        _ => None,
    }
}

/// Whether the outputs of a node are never below 0, given of each input whether it is so.
pub fn nonnegative(kind: &NodeKind, inputs: &[bool]) -> bool {
    let all = !inputs.is_empty() && inputs.iter().all(|i| *i);
    match kind {
        NodeKind::Activate(a) => matches!(a.function, Activation::Relu | Activation::Relu6) || all,
        NodeKind::Add(_)
        | NodeKind::Mul(_)
        | NodeKind::Concat(_)
        | NodeKind::ShortcutA(_)
        | NodeKind::GlobalAvgPool(_)
        | NodeKind::GlobalMaxPool(_)
        | NodeKind::MaxPool(_)
        | NodeKind::AvgPool(_)
        | NodeKind::Reshape(_) => all,
        _ => false,
    }
}
