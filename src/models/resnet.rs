//! CIFAR ResNets (He et al. 2016, section 4.2) with option-A shortcuts; parameter names as in the common PyTorch port:
//! `conv1.weight`, `bn1.*`, `layerL.B.{conv1,bn1,conv2,bn2}.*`, `linear.*`.

use crate::graph::nodes::{Add, BatchNorm, Conv2d, GlobalAvgPool, Linear, ShortcutA};
use crate::graph::{Graph, Init, InputKind, NodeId, NodeKind};
use crate::ops::activation::Activation;
use crate::ops::conv2d::Conv2dParams;

/// ResNet of depth `6 * blocks + 2` on 32x32 RGB.
pub fn cifar_resnet(blocks: usize, classes: usize) -> Graph {
    let mut g = Graph::new(format!("cifar-resnet{}", 6 * blocks + 2), classes);
    let mut x = g.input("images", InputKind::Real(vec![32, 32, 3]));
    x = conv_bn(&mut g, x, "conv1", "bn1", 3, 16, 1);
    x = g.push("relu", NodeKind::from(Activation::Relu), &[x]);
    let mut c = 16;
    for (layer, (k, stride)) in [(16, 1), (32, 2), (64, 2)].into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            x = basic_block(&mut g, x, &format!("layer{}.{block}", layer + 1), c, k, stride);
            c = k;
        }
    }
    x = g.push("pool", GlobalAvgPool {}, &[x]);
    let weight = g.param("linear.weight", &[classes, c], Init::Normal { std: (2.0 / c as f32).sqrt() });
    let bias = g.param("linear.bias", &[classes], Init::Zeros);
    g.push("linear", Linear { weight, bias: Some(bias), quant: None }, &[x]);
    g
}

fn basic_block(g: &mut Graph, x: NodeId, name: &str, c: usize, k: usize, stride: usize) -> NodeId {
    let relu = NodeKind::from(Activation::Relu);
    let mut y = conv_bn(g, x, &format!("{name}.conv1"), &format!("{name}.bn1"), c, k, stride);
    y = g.push(format!("{name}.relu1"), relu.clone(), &[y]);
    y = conv_bn(g, y, &format!("{name}.conv2"), &format!("{name}.bn2"), k, k, 1);
    let skip = if stride == 1 && c == k {
        x
    } else {
        g.push(format!("{name}.shortcut"), ShortcutA { stride, c_out: k }, &[x])
    };
    let sum = g.push(format!("{name}.add"), Add {}, &[y, skip]);
    g.push(format!("{name}.relu2"), relu, &[sum])
}

/// 3x3 convolution without bias and its batch norm; He-normal initial weights.
fn conv_bn(g: &mut Graph, x: NodeId, conv: &str, bn: &str, c: usize, k: usize, stride: usize) -> NodeId {
    let std = (2.0 / (9 * c) as f32).sqrt();
    let weight = g.param(format!("{conv}.weight"), &[k, 3, 3, c], Init::Normal { std });
    let params = Conv2dParams::new(stride, 1);
    let y = g.push(conv, Conv2d { weight, bias: None, params, quant: None }, &[x]);
    batch_norm(g, y, bn, k, 1e-5, true)
}

/// A batch-norm node over `c` channels with parameters and buffers named after it.
pub fn batch_norm(g: &mut Graph, x: NodeId, name: &str, c: usize, eps: f32, affine: bool) -> NodeId {
    let gamma = affine.then(|| g.param(format!("{name}.weight"), &[c], Init::Ones));
    let beta = affine.then(|| g.param(format!("{name}.bias"), &[c], Init::Zeros));
    let mean = g.buffer(format!("{name}.running_mean"), &[c], 0.0);
    let var = g.buffer(format!("{name}.running_var"), &[c], 1.0);
    g.push(name, BatchNorm { gamma, beta, mean, var, eps }, &[x])
}
