//! The quantize pass: where quantizers go, how wide they are, and what it refuses.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::graph::nodes::FakeQuant;
use ghostbit::graph::passes::{QuantizeSpec, quantize};
use ghostbit::graph::{Network, NodeKind};
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::ops::activation::Activation;
use ghostbit::ops::fake_quant::{Axis, FakeQuantSpec, Ste, fake_quant};
use std::collections::{BTreeMap, HashSet};

#[test]
fn quantize_puts_one_quantizer_after_each_relu_and_keeps_names() {
    let float = cifar_resnet(3, 10);
    let q = quantize(&float, QuantizeSpec { first_bits: Some(8), ..QuantizeSpec::new(4, 5) }).unwrap();
    let mut quantizers = 0;
    for (id, node) in q.nodes.iter().enumerate() {
        if let NodeKind::FakeQuant(FakeQuant { bits }) = node.kind {
            let [input] = node.inputs[..] else { panic!("{} has {:?}", node.name, node.inputs) };
            assert_eq!(q.nodes[input].kind, NodeKind::from(Activation::Relu), "{}", node.name);
            assert_eq!(bits, 5);
            quantizers += 1;
        } else if node.kind == NodeKind::from(Activation::Relu) {
            let readers: Vec<_> = q.nodes.iter().filter(|n| n.inputs.contains(&id)).collect();
            assert_eq!(readers.len(), 1, "the float output of {} is used", node.name);
            assert!(matches!(readers[0].kind, NodeKind::FakeQuant(_)), "{}", node.name);
        }
    }
    // One ReLU after the stem and two in each of nine blocks.
    assert_eq!(quantizers, 19);
    let names = |g: &ghostbit::graph::Graph| -> Vec<String> {
        g.nodes.iter().filter(|n| !matches!(n.kind, NodeKind::FakeQuant(_))).map(|n| n.name.clone()).collect()
    };
    assert_eq!(names(&q), names(&float));
    let values = |g: &ghostbit::graph::Graph| -> Vec<(String, Vec<usize>)> {
        let params = g.params.iter().map(|p| (p.name.clone(), p.shape.to_vec()));
        params.chain(g.buffers.iter().map(|b| (b.name.clone(), b.shape.to_vec()))).collect()
    };
    assert_eq!(values(&q), values(&float));
    let weights: Vec<(String, u8)> =
        q.quantizers().into_iter().filter(|w| w.weight).map(|w| (w.name, w.bits)).collect();
    assert_eq!(weights.len(), 20, "19 convolutions and the linear layer");
    assert_eq!(weights[0], ("conv1.weight".to_string(), 8));
    assert!(weights[1..].iter().all(|w| w.1 == 4));
}

#[test]
fn fake_quantized_weights_have_few_values_per_channel() {
    let cpu = Device::cpu();
    for (bits, search) in [(2, false), (4, true), (3, true), (4, false)] {
        let mut net =
            Network::new(&cpu, quantize(&cifar_resnet(1, 10), QuantizeSpec::new(bits, 4)).unwrap(), 3).unwrap();
        if search { net.weight_ranges_search() } else { net.weight_ranges_min_max() }.unwrap();
        for q in net.graph.quantizers().into_iter().filter(|q| q.weight) {
            let end = |end: &str| Var::constant(net.ranges.get(&format!("{}.{end}", q.name)).unwrap());
            let spec = FakeQuantSpec { bits: q.bits, axis: Axis::Outer, ste: Ste::Identity };
            let x = Var::constant(net.params.get(&q.name).unwrap());
            let y = fake_quant(&mut Tape::inference(&cpu), &x, &end("lo"), &end("hi"), spec).unwrap();
            let y = y.value.to_vec::<f32>().unwrap();
            for (k, channel) in y.chunks(y.len() / q.channels).enumerate() {
                let values: HashSet<u32> = channel.iter().map(|v| (v + 0.0).to_bits()).collect();
                assert!(values.len() <= 1 << bits, "{} channel {k}: {} values", q.name, values.len());
                assert!(channel.iter().any(|v| *v != channel[0]), "{} channel {k} is constant", q.name);
            }
        }
    }
}

/// Named widths count more than those of ends and of all; every other node keeps its own.
#[test]
fn single_layers_and_outputs_have_their_own_widths() {
    let named = [("conv1", 6), ("layer2.0.conv2", 8), ("layer1.0.relu1", 7)];
    let named: BTreeMap<String, u8> = named.map(|(name, bits)| (name.to_string(), bits)).into();
    let spec = QuantizeSpec { first_bits: Some(8), layer_bits: named.clone(), ..QuantizeSpec::new(4, 5) };
    let q = quantize(&cifar_resnet(1, 10), spec).unwrap();
    let mut seen = 0;
    for w in q.quantizers() {
        let node = w.name.trim_end_matches(".weight").trim_end_matches(".quant");
        let usual = if w.weight { 4 } else { 5 };
        assert_eq!(w.bits, named.get(node).copied().unwrap_or(usual), "{}", w.name);
        seen += usize::from(named.contains_key(node));
    }
    assert_eq!(seen, 3);
}

#[test]
fn widths_that_nothing_has_are_refused() {
    let refused = |name: &str, bits: u8| {
        let layer_bits = [(name.to_string(), bits)].into();
        let spec = QuantizeSpec { layer_bits, ..QuantizeSpec::new(4, 4) };
        quantize(&cifar_resnet(1, 10), spec).unwrap_err().to_string()
    };
    let unknown = refused("layer1.0.conv3", 4);
    assert!(unknown.contains("layer1.0.conv3") && unknown.contains("the nearest is 'layer1.0.conv"), "{unknown}");
    assert!(refused("layer1.0.bn1", 4).contains("no layer or ReLU"), "a batch norm has no width");
    let wide = refused("layer1.0.conv1", 9);
    assert!(wide.contains("layer1.0.conv1") && wide.contains("2 to 8"), "{wide}");
}
