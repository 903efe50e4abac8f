//! The nodes of a [`Graph`](crate::graph::Graph) that the importer makes: one function per kind.

use super::Outcome;
use super::window::Window;
use crate::graph::NodeKind;
use crate::graph::nodes::{
    Activate, Add, AvgPool, BatchNorm, ChannelAffine, Concat, Conv2d, Conv2dDepthwise, Conv2dGrouped, Div, Gate,
    GatherChannels, GlobalAvgPool, GlobalMaxPool, Linear, Lrn, MaxPool, Mul, PRelu, Reshape, Resize, ShortcutA, Sub,
};
pub use crate::ops::activation::Activation as Function;
use crate::ops::conv2d::Conv2dParams;
use crate::ops::lrn::LrnParams;
use crate::ops::pool::PoolParams;
use crate::ops::resize::{Coordinates, ResizeMode, ResizeParams, Rounding};

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

fn conv_params(w: &Window) -> Conv2dParams {
    Conv2dParams::default().strides(w.stride).pads(w.pad).dilations(w.dilation)
}

/// Convolution, weight `k r s c`.
pub fn conv(weight: String, bias: Option<String>, w: &Window) -> Outcome<NodeKind> {
    Ok(Conv2d { weight, bias, params: conv_params(w), quant: None }.into())
}

/// Convolution in `groups`, weight `k r s c/groups`.
pub fn grouped(weight: String, bias: Option<String>, groups: usize, w: &Window) -> Outcome<NodeKind> {
    Ok(Conv2dGrouped { weight, bias, groups, params: conv_params(w), quant: None }.into())
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

/// A function of each element. Errors if its numbers do not make one that has a gradient.
pub fn activation(function: Function) -> Outcome<NodeKind> {
    function.check()?;
    Ok(Activate { function }.into())
}

/// `x > 0 ? x : slope x`, slope `c` or 1.
pub fn prelu(slope: String) -> Outcome<NodeKind> {
    Ok(PRelu { slope }.into())
}

/// Sum of two values of one shape.
pub fn add() -> Outcome<NodeKind> {
    Ok(Add {}.into())
}

/// Difference of two values of one shape.
pub fn sub() -> Outcome<NodeKind> {
    Ok(Sub {}.into())
}

/// Product of two values of one shape.
pub fn mul() -> Outcome<NodeKind> {
    Ok(Mul {}.into())
}

/// Quotient of two values of one shape.
pub fn div() -> Outcome<NodeKind> {
    Ok(Div {}.into())
}

/// Product of a map `n h w c` and one number per image and channel, `n c`.
pub fn gate() -> Outcome<NodeKind> {
    Ok(Gate {}.into())
}

/// `x * scale + shift` per channel, `c` each.
pub fn channel_affine(scale: Option<String>, shift: Option<String>) -> Outcome<NodeKind> {
    Ok(ChannelAffine { scale, shift }.into())
}

/// Channel `index[j]` as channel `j`.
pub fn gather_channels(index: Vec<usize>) -> Outcome<NodeKind> {
    Ok(GatherChannels { index }.into())
}

/// Channels of all inputs side by side.
pub fn concat() -> Outcome<NodeKind> {
    Ok(Concat {}.into())
}

fn pool_params(w: &Window, count_pad: bool) -> Outcome<PoolParams> {
    if w.dilation != [1; 2] {
        return Err(format!(
            "dilations {} and {} of a pooling window are not supported, only 1",
            w.dilation[0], w.dilation[1]
        ));
    }
    Ok(PoolParams { kernel: w.kernel, stride: w.stride, pad: w.pad, ceil: w.ceil, count_pad })
}

/// Maximum over windows.
pub fn max_pool(w: &Window) -> Outcome<NodeKind> {
    Ok(MaxPool { params: pool_params(w, false)? }.into())
}

/// Average over windows; `count` says whether padding counts as zeros.
pub fn avg_pool(w: &Window, count: bool) -> Outcome<NodeKind> {
    Ok(AvgPool { params: pool_params(w, count)? }.into())
}

/// Average over height and width, `n c`.
pub fn global_avg() -> Outcome<NodeKind> {
    Ok(GlobalAvgPool {}.into())
}

/// Largest value over height and width, `n c`.
pub fn global_max() -> Outcome<NodeKind> {
    Ok(GlobalMaxPool {}.into())
}

/// Another height and width. Errors on coordinates or roundings that are not known.
pub fn resize(r: Resizing) -> Outcome<NodeKind> {
    let coordinates = match &r.coordinates[..] {
        "half_pixel" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        other => return Err(format!("coordinate_transformation_mode = {other} is not supported")),
    };
    let rounding = match &r.nearest[..] {
        "round_prefer_floor" => Rounding::RoundPreferFloor,
        "round_prefer_ceil" => Rounding::RoundPreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return Err(format!("nearest_mode = {other} is not supported")),
    };
    let mode = if r.linear { ResizeMode::Linear } else { ResizeMode::Nearest(rounding) };
    Ok(Resize { params: ResizeParams { size: r.size, mode, coordinates, scales: r.scale } }.into())
}

/// Local response normalization over `size` channels.
pub fn lrn(size: usize, alpha: f32, beta: f32, bias: f32) -> Outcome<NodeKind> {
    let params = LrnParams { size, alpha, beta, bias };
    params.check()?;
    Ok(Lrn { params }.into())
}

/// Every `stride`-th pixel; `(c_out - c) / 2` channels of zeros in front, the others behind.
pub fn shortcut_a(stride: usize, c_out: usize) -> Outcome<NodeKind> {
    Ok(ShortcutA { stride, c_out }.into())
}

/// Another shape of each sample.
pub fn reshape(shape: Vec<usize>) -> Outcome<NodeKind> {
    Ok(Reshape { shape }.into())
}

/// Parameters of a node that a per-channel product and sum behind it can be folded into.
pub enum Absorbs<'a> {
    /// A layer: its rows are scaled, its bias is scaled and shifted.
    Layer { weight: &'a str, bias: &'a mut Option<String> },
    /// A batch norm.
    Norm { gamma: &'a str, beta: &'a str },
    /// A product and a sum.
    Affine { scale: &'a mut Option<String>, shift: &'a mut Option<String> },
}

/// Returns the parameters of `kind` that take a per-channel product and sum, if it has some.
pub fn absorbs(kind: &mut NodeKind) -> Option<Absorbs<'_>> {
    match kind {
        NodeKind::Conv2d(Conv2d { weight, bias, .. })
        | NodeKind::Conv2dDepthwise(Conv2dDepthwise { weight, bias, .. })
        | NodeKind::Conv2dGrouped(Conv2dGrouped { weight, bias, .. })
        | NodeKind::Linear(Linear { weight, bias, .. }) => Some(Absorbs::Layer { weight, bias }),
        NodeKind::BatchNorm(BatchNorm { gamma: Some(gamma), beta: Some(beta), .. }) => {
            Some(Absorbs::Norm { gamma, beta })
        }
        NodeKind::ChannelAffine(ChannelAffine { scale, shift }) => Some(Absorbs::Affine { scale, shift }),
        _ => None,
    }
}

/// Returns whether the outputs of a node are never below 0, given the same of each input.
pub fn nonnegative(kind: &NodeKind, inputs: &[bool]) -> bool {
    kind.nonnegative(!inputs.is_empty() && inputs.iter().all(|i| *i))
}
