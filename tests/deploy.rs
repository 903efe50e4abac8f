//! Deployment: integer logits equal the fake-quantized network's bit for bit.

mod networks;

use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::deploy::{Engine, lower};
use ghostbit::device::Device;
use ghostbit::graph::passes::{QuantizeSpec, tune_bn};
use ghostbit::graph::{Forward, Network, NodeKind, Taps, WeightQuant};
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::tensor::Tensor;
use networks::{calibrated, images, two_layers, with_depthwise, with_downsampling};

fn fake_quantized(network: &mut Network, x: &Tensor) -> Vec<u32> {
    let mut tape = Tape::inference(&Device::cpu());
    let y = network.forward(&mut tape, &[Var::constant(x.clone())], Forward::eval(), &Taps::default()).unwrap();
    bits(&y.output.value)
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Logits of both for one image and for many.
fn compare(what: &str, network: &mut Network, x: &Tensor) {
    let engine = Engine::new(lower(network, Normalization::CIFAR).unwrap()).unwrap();
    let want = fake_quantized(network, x);
    assert!(want.iter().any(|v| *v != want[0]), "{what}: logits are all alike");
    assert_eq!(bits(&engine.logits(x).unwrap()), want, "{what}: {} images", x.shape()[0]);
    let shape = [&[1], &x.shape()[1..]].concat();
    let first = x.view(0, &shape[..]).unwrap();
    assert_eq!(bits(&engine.logits(&first).unwrap()), fake_quantized(network, &first), "{what}: one image");
    assert_eq!(
        want[..engine.network().graph.classes],
        bits(&engine.logits(&first).unwrap()),
        "{what}: alone or among others"
    );
}

#[test]
fn all_widths_of_small_networks() {
    for w in 2..=8 {
        for a in 2..=8 {
            for graph in [with_downsampling(), with_depthwise(), two_layers()] {
                let what = format!("{} W{w}A{a}", graph.name);
                let x = images(5, &graph, 7);
                compare(&what, &mut calibrated(&graph, QuantizeSpec::new(w, a), 1), &x);
            }
        }
    }
}

/// On the kernels: the fake-quantized network on the same device, bit for bit; filters of few bits are packed there.
#[test]
fn kernels_compute_the_fake_quantized_network() {
    let Ok(gpu) = Device::emulator() else { return };
    for (graph, widths) in [
        (with_downsampling(), &[(2, 2), (3, 5), (4, 4), (5, 3), (8, 8)][..]),
        (with_depthwise(), &[(2, 4), (4, 4), (8, 8)]),
        (two_layers(), &[(4, 4), (8, 8)]),
        (cifar_resnet(1, 10), &[(4, 4), (4, 8)]),
    ] {
        for &(w, a) in widths {
            let spec = QuantizeSpec { input_bits: (w == a).then_some(8), ..QuantizeSpec::new(w, a) };
            let student = calibrated(&graph, spec, 1);
            let network = lower(&student, Normalization::CIFAR).unwrap();
            let mut there = Network::new(&gpu, (*student.graph).clone(), 0).unwrap();
            there.load_checkpoint(student.to_checkpoint().unwrap(), "student".as_ref()).unwrap();
            let x = images(2, &graph, 7).to_device(&gpu).unwrap();
            let engine = Engine::on(&gpu, network).unwrap();
            let mut tape = Tape::inference(&gpu);
            let want =
                there.forward(&mut tape, &[Var::constant(x.clone())], Forward::eval(), &Taps::default()).unwrap();
            assert_eq!(bits(&engine.logits(&x).unwrap()), bits(&want.output.value), "{} W{w}A{a}", graph.name);
        }
    }
}

#[test]
fn codes_pass_max_pooling() {
    let network = lower(&calibrated(&with_downsampling(), QuantizeSpec::new(4, 4), 1), Normalization::CIFAR).unwrap();
    let at = |name: &str| network.graph.nodes.iter().position(|n| n.name == name).unwrap();
    let (values, max, after) = (network.values().unwrap(), at("max"), at("after"));
    let nodes = &network.graph.nodes;
    assert_eq!(nodes[after].inputs, [max]);
    assert_eq!(values[max].codes, values[nodes[max].inputs[0]].codes);
    assert!(values[max].codes.is_some());
}

#[test]
fn resnet20() {
    let graph = cifar_resnet(3, 10);
    let x = images(19, &graph, 3);
    let layer_bits =
        [("layer1.0.conv2", 8), ("layer2.0.relu1", 7), ("layer3.2.conv1", 2)].map(|(n, b)| (n.to_string(), b));
    let mixed = QuantizeSpec {
        first_bits: Some(8),
        last_bits: Some(6),
        layer_bits: layer_bits.into(),
        ..QuantizeSpec::new(3, 5)
    };
    for spec in [QuantizeSpec::new(4, 4), QuantizeSpec::new(8, 8), QuantizeSpec::new(2, 2), mixed] {
        compare(&format!("{spec:?}"), &mut calibrated(&graph, spec, 2), &x);
    }
}

/// Widths may differ from layer to layer, and batch norms may be fused into their convolutions.
#[test]
fn mixed_widths_and_tune_mode() {
    let mut graph = cifar_resnet(1, 10);
    let x = images(3, &graph, 4);
    let mut network = calibrated(&graph, QuantizeSpec::new(4, 4), 3);
    graph = (*network.graph).clone();
    for (i, node) in graph.nodes.iter_mut().enumerate() {
        if let NodeKind::Conv2d(conv) = &mut node.kind {
            conv.quant = Some(WeightQuant { bits: 2 + (i % 7) as u8 });
        }
    }
    network.graph = graph.clone().into();
    compare("mixed", &mut network, &x);
    let apart = lower(&network, Normalization::CIFAR).unwrap();
    network.graph = tune_bn(&graph).into();
    compare("tune mode", &mut network, &x);
    assert_eq!(lower(&network, Normalization::CIFAR).unwrap(), apart);
}

/// A residual network is computed in one unit per layer, with everything behind it fused.
#[test]
fn what_follows_a_layer_is_fused() {
    let network = calibrated(&cifar_resnet(3, 10), QuantizeSpec::new(4, 4), 5);
    let integer = lower(&network, Normalization::CIFAR).unwrap();
    let (units, values) = (integer.units().unwrap(), integer.values().unwrap());
    let ops: Vec<&str> = units.iter().map(|u| integer.graph.nodes[u.head].kind.name()).collect();
    let count = |op: &str| ops.iter().filter(|o| **o == op).count();
    assert_eq!([count("conv2d"), count("shortcut"), count("linear")], [19, 2, 1]);
    assert_eq!(ops.len(), 1 + 19 + 2 + 1 + 1, "{ops:?}");
    let reads_codes = |i: &usize| values[units[*i].end].codes.is_some();
    let integer_inputs = units.iter().filter(|u| u.layer.is_some() && reads_codes(&u.inputs[0]));
    assert_eq!(integer_inputs.count(), 18);
    let (float, packed) = integer.weight_bytes();
    assert!(packed * 7 < float, "{packed} of {float} bytes");
}

#[test]
fn what_cannot_be_deployed_is_an_error() {
    let device = Device::cpu();
    let float = Network::new(&device, cifar_resnet(1, 10), 0).unwrap();
    let message = |n: &Network| lower(n, Normalization::CIFAR).unwrap_err().to_string();
    assert!(message(&float).contains("no quantizer"), "{}", message(&float));
    let mut far = calibrated(&cifar_resnet(1, 10), QuantizeSpec::new(4, 4), 1);
    let at = |v: f32| Tensor::from_slice(&device, [1], &[v]).unwrap();
    far.set_range("relu.quant", &at(1e6), &at(1e6)).unwrap();
    assert!(message(&far).contains("relu.quant") && message(&far).contains("narrow"), "{}", message(&far));
    far.set_range("relu.quant", &at(f32::NAN), &at(1.0)).unwrap();
    assert!(message(&far).contains("not finite"), "{}", message(&far));
    let engine =
        Engine::new(lower(&calibrated(&two_layers(), QuantizeSpec::new(4, 4), 1), Normalization::HALF).unwrap());
    let e = engine.unwrap().logits(&at(1.0)).unwrap_err().to_string();
    assert!(e.contains("do not fit"), "{e}");
}
