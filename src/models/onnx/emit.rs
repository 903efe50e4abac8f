//! The nodes of a [`Graph`](crate::graph::Graph) that the importer makes: one function per kind.

use super::Outcome;
use super::window::Window;
use crate::graph::NodeKind;
use crate::ops::activation::Activation;
use crate::ops::conv2d::Conv2dParams;

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

/// One number for both axes and all sides, as far as the node kinds have it.
fn square(w: &Window, pooling: bool) -> Outcome<(usize, usize, usize)> {
    if w.stride[0] != w.stride[1] || w.dilation[0] != w.dilation[1] || w.pad != [w.pad[0]; 4] || w.ceil {
        return not_yet("a window with different strides or paddings, or one that reaches over the edge,");
    }
    if pooling && (w.kernel[0] != w.kernel[1] || 2 * w.pad[0] > w.kernel[0]) {
        return not_yet("pooling in a window that is not square, or padded by more than half of it,");
    }
    Ok((w.stride[0], w.pad[0], w.dilation[0]))
}

fn conv_params(w: &Window) -> Outcome<Conv2dParams> {
    let (stride, pad, dilation) = square(w, false)?;
    Ok(Conv2dParams { dilation, ..Conv2dParams::new(stride, pad) })
}

/// Convolution, weight `k r s c`.
pub fn conv(weight: String, bias: Option<String>, w: &Window) -> Outcome<NodeKind> {
    Ok(NodeKind::Conv2d { weight, bias, params: conv_params(w)?, quant: None })
}

/// Convolution in `groups`, weight `k r s c/groups`.
pub fn grouped(weight: String, bias: Option<String>, groups: usize, w: &Window) -> Outcome<NodeKind> {
    let _ = (weight, bias, w);
    not_yet(&format!("a convolution in {groups} groups"))
}

/// One filter per channel, weight `c r s 1`.
pub fn depthwise(weight: String, bias: Option<String>, w: &Window) -> Outcome<NodeKind> {
    Ok(NodeKind::Conv2dDepthwise { weight, bias, params: conv_params(w)?, quant: None })
}

/// Normalization of maps or rows with running statistics `mean` and `var`.
pub fn batch_norm(gamma: String, beta: String, mean: String, var: String, eps: f32) -> Outcome<NodeKind> {
    Ok(NodeKind::BatchNorm { gamma: Some(gamma), beta: Some(beta), mean, var, eps })
}

/// Matrix product of rows, weight `k c`.
pub fn linear(weight: String, bias: Option<String>) -> Outcome<NodeKind> {
    Ok(NodeKind::Linear { weight, bias, quant: None })
}

pub fn activation(f: Function) -> Outcome<NodeKind> {
    Ok(NodeKind::Activation(match f {
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
    }))
}

/// `x > 0 ? x : slope x`, slope `c`.
pub fn prelu(slope: String) -> Outcome<NodeKind> {
    let _ = slope;
    not_yet("PRelu")
}

/// Sum of two values of one shape.
pub fn add() -> Outcome<NodeKind> {
    Ok(NodeKind::Add)
}
pub fn sub() -> Outcome<NodeKind> {
    not_yet("a difference of two activations")
}
/// Product of two values of one shape.
pub fn mul() -> Outcome<NodeKind> {
    not_yet("a product of two activations")
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
    Ok(NodeKind::Concat)
}

pub fn max_pool(w: &Window) -> Outcome<NodeKind> {
    let (stride, pad, _) = square(w, true)?;
    Ok(NodeKind::MaxPool { k: w.kernel[0], stride, pad })
}

/// `count`: whether padding counts as zeros.
pub fn avg_pool(w: &Window, count: bool) -> Outcome<NodeKind> {
    let (stride, pad, _) = square(w, true)?;
    if pad > 0 && !count {
        return not_yet("an average that does not count its padding");
    }
    Ok(NodeKind::AvgPool { k: w.kernel[0], stride, pad })
}

/// Average over height and width, `n c`.
pub fn global_avg() -> Outcome<NodeKind> {
    Ok(NodeKind::GlobalAvgPool)
}
/// Largest value over height and width, `n c`.
pub fn global_max() -> Outcome<NodeKind> {
    not_yet("GlobalMaxPool")
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
    Ok(NodeKind::ShortcutA { stride, c_out })
}

/// Another shape of each sample.
pub fn reshape(shape: Vec<usize>) -> Outcome<NodeKind> {
    Ok(NodeKind::Reshape { shape })
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
        NodeKind::Conv2d { weight, bias, .. }
        | NodeKind::Conv2dDepthwise { weight, bias, .. }
        | NodeKind::Linear { weight, bias, .. } => Some(Absorbs::Layer { weight, bias }),
        NodeKind::BatchNorm { gamma: Some(gamma), beta: Some(beta), .. } => Some(Absorbs::Norm { gamma, beta }),
        _ => None,
    }
}

/// Whether the outputs of a node are never below 0, given of each input whether it is so.
pub fn nonnegative(kind: &NodeKind, inputs: &[bool]) -> bool {
    let all = !inputs.is_empty() && inputs.iter().all(|i| *i);
    match kind {
        NodeKind::Activation(f) => matches!(f, Activation::Relu | Activation::Relu6) || all,
        NodeKind::Add
        | NodeKind::Mul
        | NodeKind::Concat
        | NodeKind::ShortcutA { .. }
        | NodeKind::GlobalAvgPool
        | NodeKind::MaxPool { .. }
        | NodeKind::AvgPool { .. }
        | NodeKind::Reshape { .. } => all,
        _ => false,
    }
}
