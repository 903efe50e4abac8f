//! GDFQ's conditional generator (Xu et al. 2020, released code): label embedding times noise, linear to a map of a quarter of
//! the image's height and width and 128 channels, two upsampling convolutions, tanh, affine-free batch norm. `BN(c, .8)`
//! there sets *eps* to 0.8.
//!
//! Always run with batch statistics. Differs from the original in the order of the linear layer's outputs (h w c here,
//! c h w there), which random initial values make irrelevant.

use super::resnet::batch_norm;
use crate::graph::nodes::{Add, Conv2d, Conv2dDepthwise, Embedding, Linear, Mul, Reshape, UpsampleConv2d};
use crate::graph::{Graph, Init, InputKind, NodeId};
use crate::ops::activation::Activation;
use crate::ops::conv2d::{Conv2dParams, Math};
use crate::{Error, Result};

/// Heights and widths of images are multiples of this.
pub const UNIT: usize = 4;

/// What the generator is told besides the noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Label,
    /// Also where in the image the teacher's attention shall be centred: input `[n, 2]`, row and column. ACQ (Li et al.,
    /// arXiv 2301.07266) names the condition; that it enters as `embedding(y) * z + linear(centre)` is RECONSTRUCTED. The
    /// centre is standardised to zero mean and unit variance and the linear layer has no bias: what is the same for all
    /// samples would give the generator a way around its noise.
    LabelCenter,
    /// The same with the centre in 0..1 and a bias; samples came out almost alike (docs/methods.md).
    LabelCenterRaw,
}

impl Condition {
    /// Whether a centre is among the inputs.
    pub fn has_center(self) -> bool {
        self != Self::Label
    }
}

/// The generator's trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeneratorArch {
    /// GDFQ's two convolutions.
    Gdfq,
    /// With a large-kernel attention block behind each of them, for long-range structure: LRQ (arXiv 2211.06816), abstract.
    /// The block is VAN's (Guo et al. 2022, its code): `x + conv1x1(lka(act(conv1x1(x))))`, `lka(u) = u * conv1x1(7x7
    /// depthwise, dilation 3 (5x5 depthwise (u)))`. RECONSTRUCTED: where it stands, leaky ReLU in place of GELU, no norm.
    LargeKernel,
}

/// Inputs: noise `[n, latent]`, labels `[n]`, with a centre among the conditions also `[n, 2]`. Output: images
/// `[n, h, w, c]` in normalised units, of `size` `[h, w, c]`. Errors if height or width is no multiple of [`UNIT`].
pub fn conditional(
    arch: GeneratorArch,
    [h, w, channels]: [usize; 3],
    classes: usize,
    latent: usize,
    condition: Condition,
) -> Result<Graph> {
    if h % UNIT != 0 || w % UNIT != 0 || h * w * channels == 0 {
        let detail = format!(
            "makes images whose height and width are multiples of {UNIT}, the network takes {h}x{w}; use a method that \
             optimises images from noise (--method genie, zeroq or dsg-ptq)"
        );
        return Err(Error::config("generator", detail));
    }
    let (h, w) = (h / UNIT, w / UNIT);
    let mut g = Graph::new("generator", classes);
    let z = g.input("noise", InputKind::Real(vec![latent]));
    let labels = g.input("labels", InputKind::Label { classes });
    let table = g.param("embedding.weight", &[classes, latent], Init::Normal { std: 1.0 });
    let e = g.push("embedding", Embedding { table }, &[labels]);
    let mut x = g.push("condition", Mul {}, &[e, z]);
    if condition.has_center() {
        let centers = g.input("centers", InputKind::Real(vec![2]));
        let bound = 1.0 / 2f32.sqrt();
        let weight = g.param("center.weight", &[latent, 2], Init::Uniform { bound });
        let raw = condition == Condition::LabelCenterRaw;
        let bias = raw.then(|| g.param("center.bias", &[latent], Init::Uniform { bound }));
        let c = g.push("center", Linear { weight, bias, quant: None }, &[centers]);
        x = g.push("condition.center", Add {}, &[x, c]);
    }
    let bound = 1.0 / (latent as f32).sqrt();
    let weight = g.param("linear.weight", &[h * w * 128, latent], Init::Uniform { bound });
    let bias = g.param("linear.bias", &[h * w * 128], Init::Uniform { bound });
    x = g.push("linear", Linear { weight, bias: Some(bias), quant: None }, &[x]);
    x = g.push("reshape", Reshape { shape: vec![h, w, 128] }, &[x]);
    x = batch_norm(&mut g, x, "bn0", 128, 1e-5, true);
    for (i, (c, k)) in [(128, 128), (128, 64)].into_iter().enumerate() {
        let (weight, bias) = conv(&mut g, &format!("conv{}", i + 1), c, k);
        let up = UpsampleConv2d { weight, bias: Some(bias), math: Math::F32 };
        x = g.push(format!("conv{}", i + 1), up, &[x]);
        x = batch_norm(&mut g, x, &format!("bn{}", i + 1), k, 0.8, true);
        x = g.push(format!("act{}", i + 1), Activation::LeakyRelu(0.2), &[x]);
        if arch == GeneratorArch::LargeKernel {
            x = large_kernel_attention(&mut g, x, &format!("lka{}", i + 1), k);
        }
    }
    let (weight, bias) = conv(&mut g, "conv3", 64, channels);
    let params = Conv2dParams::new(1, 1);
    x = g.push("conv3", Conv2d { weight, bias: Some(bias), params, quant: None }, &[x]);
    x = g.push("tanh", Activation::Tanh, &[x]);
    // Zero mean and unit variance per colour over the batch: images in normalised units.
    batch_norm(&mut g, x, "bn3", channels, 1e-5, false);
    Ok(g)
}

/// See [`GeneratorArch::LargeKernel`]; `c` channels in and out.
fn large_kernel_attention(g: &mut Graph, x: NodeId, name: &str, c: usize) -> NodeId {
    let pointwise = |g: &mut Graph, x: NodeId, part: &str| {
        let bound = 1.0 / (c as f32).sqrt();
        let weight = g.param(format!("{name}.{part}.weight"), &[c, 1, 1, c], Init::Uniform { bound });
        let bias = g.param(format!("{name}.{part}.bias"), &[c], Init::Uniform { bound });
        let kind = Conv2d { weight, bias: Some(bias), params: Conv2dParams::new(1, 0), quant: None };
        g.push(format!("{name}.{part}"), kind, &[x])
    };
    let depthwise = |g: &mut Graph, x: NodeId, part: &str, k: usize, dilation: usize| {
        let bound = 1.0 / k as f32;
        let weight = g.param(format!("{name}.{part}.weight"), &[c, k, k, 1], Init::Uniform { bound });
        let bias = g.param(format!("{name}.{part}.bias"), &[c], Init::Uniform { bound });
        let params = Conv2dParams::new(1, (k / 2) * dilation).dilation(dilation);
        g.push(format!("{name}.{part}"), Conv2dDepthwise { weight, bias: Some(bias), params, quant: None }, &[x])
    };
    let mut u = pointwise(g, x, "proj_1");
    u = g.push(format!("{name}.act"), Activation::LeakyRelu(0.2), &[u]);
    let mut a = depthwise(g, u, "conv0", 5, 1);
    a = depthwise(g, a, "conv_spatial", 7, 3);
    a = pointwise(g, a, "conv1");
    let gated = g.push(format!("{name}.gate"), Mul {}, &[u, a]);
    let out = pointwise(g, gated, "proj_2");
    g.push(format!("{name}.add"), Add {}, &[x, out])
}

/// PyTorch's default initial values: uniform within `1 / sqrt(fan_in)`.
fn conv(g: &mut Graph, name: &str, c: usize, k: usize) -> (String, String) {
    let bound = 1.0 / ((9 * c) as f32).sqrt();
    let weight = g.param(format!("{name}.weight"), &[k, 3, 3, c], Init::Uniform { bound });
    let bias = g.param(format!("{name}.bias"), &[k], Init::Uniform { bound });
    (weight, bias)
}
