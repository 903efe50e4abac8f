//! Lowering: a fake-quantized network as an integer one.

use super::network::IntegerNetwork;
use crate::data::Normalization;
use crate::device::Device;
use crate::graph::deployed::IntegerTensors;
use crate::graph::nodes::NodeKind;
use crate::graph::passes::{untune_bn, with_math};
use crate::graph::{InputKind, Network};
use crate::ops::conv2d::Math;
use crate::ops::fake_quant::fake_quant_codes;
use crate::quant::{Axis, Quantizer, WeightCodes};
use crate::tensor::Tensor;
use crate::tensor::io::HostTensor;
use crate::{Error, Result};

/// Returns the integer form of a fake-quantized network, as its evaluation computes it ([`crate::graph::Forward::eval`]: stored
/// ranges, running statistics). The graph stays, fused batch norms are taken apart, and weights become codes.
///
/// Errors, naming the node: a layer without quantizer, a range that is not finite, empty, or far from 0 for its width.
pub fn lower(network: &Network, normalization: Normalization) -> Result<IntegerNetwork> {
    // The integer form knows one precision.
    let graph = with_math(&untune_bn(&network.graph), Math::F32);
    let [InputKind::Real(input)] = &graph.inputs[..] else {
        return Err(Error::network(&graph.name, "does not take one image"));
    };
    let mut tensors = IntegerTensors::default();
    for node in &graph.nodes {
        let fail = |what: String| Error::network(&graph.name, format!("node '{}': {what}", node.name));
        if let Some(layer) = node.kind.layer() {
            let Some(quant) = layer.quant else {
                return Err(fail("has no quantizer; lower a quantized network".into()));
            };
            let w = codes(network, layer.weight, quant.bits)?.map_err(fail)?;
            if let Some(other) = tensors.weights.insert(layer.weight.clone(), w) {
                if other.bits != quant.bits {
                    let what = format!("shares its weight with a layer of {} bits; give both one width", other.bits);
                    return Err(fail(what));
                }
            }
        }
        if let NodeKind::FakeQuant(q) = &node.kind {
            let end = |end: &str| network.ranges.get(&format!("{}.{end}", node.name))?.item();
            let (lo, hi) = (end("lo")? as f32, end("hi")? as f32);
            let quantizer = Quantizer::of_range(lo, hi, q.bits)
                .map_err(|e| Error::network(&graph.name, format!("quantizer '{}': {e}", node.name)))?;
            tensors.quantizers.insert(node.name.clone(), quantizer);
        }
        for name in node.kind.tensors() {
            if !tensors.weights.contains_key(name) {
                let t = network.buffers.get(name).cloned().map_or_else(|| network.params.get(name), Ok)?;
                let t = HostTensor { shape: t.shape().to_vec(), values: t.to_vec::<f32>()? };
                tensors.vectors.insert(name.clone(), t);
            }
        }
    }
    IntegerNetwork::new(&graph.name, graph.classes, input, graph.nodes.clone(), tensors, normalization)
}

fn host(t: &Tensor) -> Result<Tensor> {
    t.to_device(&Device::cpu())
}

/// Codes of a weight; the inner error says what is wrong with its ranges.
fn codes(network: &Network, name: &str, bits: u8) -> Result<std::result::Result<WeightCodes, String>> {
    let w = host(&network.params.get(name)?)?;
    let [lo, hi] = ["lo", "hi"].map(|end| host(&network.ranges.get(&format!("{name}.{end}"))?));
    let (lo, hi) = (lo?, hi?);
    let codes = fake_quant_codes(&w, &lo, &hi, bits, Axis::Outer)?.to_vec::<i8>()?;
    Ok(WeightCodes::of_ranges(codes, w.shape().to_vec(), bits, lo.host(), hi.host()))
}
