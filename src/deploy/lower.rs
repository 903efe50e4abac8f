//! Lowering: a fake-quantized network as an integer one.

use super::network::{IntegerNetwork, Kind, Layer, Node, Norm, Quantizer, Then, Weight};
use crate::data::Normalization;
use crate::device::Device;
use crate::graph::passes::Chains;
use crate::graph::{InputKind, Network, NodeId, NodeKind};
use crate::ops::activation::Activation;
use crate::ops::batch_norm::Stored;
use crate::ops::conv2d_int::MAX_ZERO;
use crate::ops::fake_quant::fake_quant_codes;
use crate::quant::{Affine, Axis};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The integer form of a fake-quantized network, as its evaluation computes it ([`crate::graph::Forward::eval`]: stored
/// ranges, running statistics). A fused convolution and batch norm is taken apart.
///
/// Layers take up what follows them where nothing else reads it: batch norm, sum with an earlier value, ReLU, quantizer.
///
/// Errors, naming the node: a layer without quantizer, an operation that has no integer form, a range that is not finite,
/// empty, or far from 0 for its width.
pub fn lower(network: &Network, normalization: Normalization) -> Result<IntegerNetwork> {
    let graph = &network.graph;
    let fail = |what: String| Error::network(&graph.name, what);
    let [InputKind::Real(input)] = &graph.inputs[..] else {
        return Err(fail("does not take one image".into()));
    };
    let plan = Chains::of(graph);
    let mut nodes: Vec<Node> = Vec::new();
    // Where each graph node's value is.
    let mut at: Vec<usize> = vec![usize::MAX; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().enumerate() {
        // A node within a chain is computed where the chain ends.
        let Some(head) = plan.head_of_end(id) else { continue };
        let from = &graph.nodes[head];
        let mut inputs: Vec<usize> = from.inputs.iter().map(|&i| at[i]).collect();
        let (mut name, kind) = match &from.kind {
            NodeKind::Conv2d { .. }
            | NodeKind::ConvBn { .. }
            | NodeKind::Conv2dDepthwise { .. }
            | NodeKind::Linear { .. } => {
                let mut layer = layer(network, head)?;
                let mut last = head;
                for &next in plan.behind(head) {
                    absorb(network, next, &mut layer.then)?;
                    if graph.nodes[next].kind == NodeKind::Add {
                        let other = graph.nodes[next].inputs.iter().find(|&&i| i != last);
                        inputs.push(at[*other.expect("a sum of two nodes")]);
                    }
                    last = next;
                }
                let kind = match &from.kind {
                    NodeKind::Conv2d { params: p, .. } | NodeKind::ConvBn { params: p, .. } => {
                        Kind::Conv { layer, stride: p.stride, pad: p.pad, dilation: p.dilation }
                    }
                    NodeKind::Conv2dDepthwise { params: p, .. } => {
                        Kind::Depthwise { layer, stride: p.stride, pad: p.pad, dilation: p.dilation }
                    }
                    _ => Kind::Linear { layer },
                };
                (from.name.clone(), kind)
            }
            NodeKind::Input { .. } => (node.name.clone(), Kind::Input),
            NodeKind::BatchNorm { .. } => (node.name.clone(), Kind::Norm(norm(network, &node.kind)?)),
            NodeKind::FakeQuant { bits } => (node.name.clone(), Kind::Quantize(quantizer(network, &node.name, *bits)?)),
            NodeKind::Activation(Activation::Relu) => (node.name.clone(), Kind::Relu),
            NodeKind::Activation(Activation::RELU6) => (node.name.clone(), Kind::Relu6),
            NodeKind::Activation(Activation::LeakyRelu(slope)) => {
                (node.name.clone(), Kind::LeakyRelu { slope: *slope })
            }
            NodeKind::Add => (node.name.clone(), Kind::Add),
            NodeKind::Concat => (node.name.clone(), Kind::Concat),
            NodeKind::ShortcutA { stride, c_out } => {
                (node.name.clone(), Kind::ShortcutA { stride: *stride, c_out: *c_out })
            }
            NodeKind::GlobalAvgPool => (node.name.clone(), Kind::GlobalAvgPool),
            NodeKind::MaxPool { k, stride, pad } => {
                (node.name.clone(), Kind::MaxPool { k: *k, stride: *stride, pad: *pad })
            }
            NodeKind::AvgPool { k, stride, pad } => {
                (node.name.clone(), Kind::AvgPool { k: *k, stride: *stride, pad: *pad })
            }
            NodeKind::Reshape { shape } => (node.name.clone(), Kind::Reshape { shape: shape.clone() }),
            NodeKind::Activation(_) | NodeKind::UpsampleConv2d { .. } | NodeKind::Mul | NodeKind::Embedding { .. } => {
                return Err(fail(format!("node '{}' ({}) has no integer form", node.name, node.kind.op())));
            }
        };
        if nodes.iter().any(|n| n.name == name) {
            name = format!("{name}.{id}");
        }
        nodes.push(Node { name, kind, inputs });
        at[id] = nodes.len() - 1;
    }
    let out =
        IntegerNetwork { name: graph.name.clone(), classes: graph.classes, input: input.clone(), normalization, nodes };
    out.values()?;
    Ok(out)
}

fn host(t: &Tensor) -> Result<Tensor> {
    t.to_device(&Device::cpu())
}

fn layer(network: &Network, id: NodeId) -> Result<Layer> {
    let node = &network.graph.nodes[id];
    let (weight, bias, quant) = match &node.kind {
        NodeKind::Conv2d { weight, bias, quant, .. }
        | NodeKind::ConvBn { weight, bias, quant, .. }
        | NodeKind::Conv2dDepthwise { weight, bias, quant, .. }
        | NodeKind::Linear { weight, bias, quant, .. } => (weight, bias, quant),
        _ => unreachable!("called for layers"),
    };
    let fail = |what: String| Error::network(&network.graph.name, format!("node '{}': {what}", node.name));
    let Some(quant) = quant else {
        return Err(fail("has no quantizer; lower a quantized network".into()));
    };
    let w = host(&network.params.get(weight)?)?;
    let [lo, hi] = ["lo", "hi"].map(|end| host(&network.ranges.get(&format!("{weight}.{end}"))?));
    let (lo, hi) = (lo?, hi?);
    let codes = fake_quant_codes(&w, &lo, &hi, quant.bits, Axis::Outer)?.to_vec::<i8>()?;
    let (mut scale, mut zero) = (Vec::new(), Vec::new());
    for (k, (lo, hi)) in lo.host::<f32>().iter().zip(hi.host::<f32>()).enumerate() {
        let (s, z) = pair(*lo, *hi, quant.bits, MAX_ZERO[1]).map_err(|e| fail(format!("output channel {k}: {e}")))?;
        scale.push(s);
        zero.push(z);
    }
    let bias = bias.as_ref().map(|b| network.params.get(b)?.to_vec::<f32>()).transpose()?;
    let weight = Weight { bits: quant.bits, shape: w.shape().to_vec(), codes, scale, zero };
    let norm = match &node.kind {
        NodeKind::ConvBn { .. } => Some(norm(network, &node.kind)?),
        _ => None,
    };
    Ok(Layer { weight, bias, then: Then { norm, ..Then::default() } })
}

fn absorb(network: &Network, id: NodeId, then: &mut Then) -> Result<()> {
    let node = &network.graph.nodes[id];
    match &node.kind {
        NodeKind::BatchNorm { .. } => then.norm = Some(norm(network, &node.kind)?),
        NodeKind::Add => then.residual = true,
        NodeKind::Activation(_) => then.relu = true,
        NodeKind::FakeQuant { bits } => then.quantizer = Some(quantizer(network, &node.name, *bits)?),
        _ => unreachable!("no part of a chain"),
    }
    Ok(())
}

fn norm(network: &Network, kind: &NodeKind) -> Result<Norm> {
    let (NodeKind::BatchNorm { gamma, beta, mean, var, eps } | NodeKind::ConvBn { gamma, beta, mean, var, eps, .. }) =
        kind
    else {
        unreachable!("called for normalizations")
    };
    let param = |p: &Option<String>| p.as_ref().map(|p| host(&network.params.get(p)?)).transpose();
    let (gamma, beta) = (param(gamma)?, param(beta)?);
    let (mean, var) = (host(&network.buffers[mean])?, host(&network.buffers[var])?);
    let stored = Stored { gamma: gamma.as_ref(), beta: beta.as_ref(), mean: &mean, var: &var, eps: *eps };
    let [mean, scale, shift] = stored.coefficients::<f32>();
    Ok(Norm { mean, scale, shift })
}

fn quantizer(network: &Network, name: &str, bits: u8) -> Result<Quantizer> {
    let end = |end: &str| network.ranges.get(&format!("{name}.{end}"))?.item();
    let (lo, hi) = (end("lo")? as f32, end("hi")? as f32);
    let (scale, zero) = pair(lo, hi, bits, MAX_ZERO[0])
        .map_err(|e| Error::network(&network.graph.name, format!("quantizer '{name}': {e}")))?;
    Ok(Quantizer { bits, scale, zero })
}

/// Scale and zero point of a range.
fn pair(lo: f32, hi: f32, bits: u8, limit: i64) -> std::result::Result<(f32, i32), String> {
    let a = Affine::new(lo, hi, bits);
    if !(lo.is_finite() && hi.is_finite() && a.scale.is_finite() && a.scale > 0.0) {
        return Err(format!("its range [{lo}, {hi}] is not finite; calibrate again"));
    }
    if a.zero.abs() > limit as f32 {
        return Err(format!("its range [{lo}, {hi}] is too narrow for where it lies; calibrate again"));
    }
    Ok((a.scale, a.zero as i32))
}
