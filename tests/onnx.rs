//! ONNX files: what they hold, and (where `GHOSTBIT_PYTHON` names a Python with onnx, onnxruntime and numpy) that the
//! checker takes them and ONNX Runtime at its default settings computes what the engine does.

mod networks;

use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::deploy::{Engine, IntegerNetwork, OnnxForm, lower, onnx, settle};
use ghostbit::graph::passes::QuantizeSpec;
use ghostbit::graph::{Forward, Graph, Network, Taps};
use ghostbit::models::resnet::cifar_resnet;
use networks::{calibrated, images, two_layers, with_depthwise, with_downsampling};
use std::path::Path;
use std::process::Command;

const FORMS: [OnnxForm; 2] = [OnnxForm::Qdq, OnnxForm::Int8];

/// As a run leaves it.
fn settled(graph: &Graph, spec: QuantizeSpec) -> Network {
    let mut network = calibrated(graph, spec, 2);
    settle(&mut network).unwrap();
    network
}

fn lowered(graph: &Graph, spec: QuantizeSpec) -> IntegerNetwork {
    lower(&settled(graph, spec), Normalization::CIFAR).unwrap()
}

/// Writes the model, images channels first, and the engine's logits for `tests/onnx_check.py`.
fn write(folder: &Path, graph: &Graph, spec: QuantizeSpec, form: OnnxForm, n: usize) {
    let images_bits = spec.input_bits.map_or_else(String::new, |bits| format!("i{bits}"));
    let stem = format!("{}-w{}a{}{images_bits}-{form:?}", graph.name, spec.wbits, spec.abits);
    let network = lowered(graph, spec);
    std::fs::write(folder.join(format!("{stem}.onnx")), onnx(&network, form).unwrap()).unwrap();
    let x = images(n, graph, 3);
    let logits = Engine::new(network).unwrap().logits(&x).unwrap().to_vec::<f32>().unwrap();
    let bytes = |v: &[f32]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    // NHWC; the script turns it, as it does for images of any size.
    std::fs::write(folder.join(format!("{stem}.images")), bytes(&x.to_vec::<f32>().unwrap())).unwrap();
    std::fs::write(folder.join(format!("{stem}.logits")), bytes(&logits)).unwrap();
}

#[test]
fn onnx_runtime_computes_what_the_engine_does() {
    let Some(python) = std::env::var_os("GHOSTBIT_PYTHON") else {
        println!("skipped: GHOSTBIT_PYTHON names no Python with onnx and onnxruntime");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let resnet = cifar_resnet(3, 10);
    let layer_bits =
        [("layer1.0.conv2", 8), ("layer2.0.relu1", 7), ("layer3.2.conv1", 2)].map(|(n, b)| (n.to_string(), b));
    let mixed = QuantizeSpec {
        first_bits: Some(8),
        last_bits: Some(6),
        layer_bits: layer_bits.into(),
        input_bits: Some(8),
        ..QuantizeSpec::new(3, 5)
    };
    for form in FORMS {
        for (w, a) in [(4, 4), (8, 8), (4, 8)] {
            write(folder.path(), &resnet, QuantizeSpec::new(w, a), form, 200);
            let images = QuantizeSpec { input_bits: Some(8), ..QuantizeSpec::new(w, a) };
            write(folder.path(), &resnet, images, form, 200);
        }
        write(folder.path(), &resnet, mixed.clone(), form, 200);
        for bits in 2..=8 {
            write(folder.path(), &with_downsampling(), QuantizeSpec::new(bits, bits), form, 50);
            write(folder.path(), &two_layers(), QuantizeSpec::new(bits, 10 - bits), form, 50);
            let images = QuantizeSpec { input_bits: Some(8), ..QuantizeSpec::new(bits, bits) };
            write(folder.path(), &with_depthwise(), images, form, 50);
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx_check.py");
    let status = Command::new(python).arg(script).arg(folder.path()).status().unwrap();
    assert!(status.success(), "onnx_check.py found faults, see above");
}

/// Everything that is stored, in a form that does not depend on Python: sizes and types.
#[test]
fn four_bit_weights_take_half_a_byte() {
    let network = |w: u8| lowered(&cifar_resnet(3, 10), QuantizeSpec::new(w, 4));
    let size = |w: u8, form| onnx(&network(w), form).unwrap().len();
    let weights = network(4).weight_bytes().0 / 4;
    let saved = size(5, OnnxForm::Qdq) - size(4, OnnxForm::Qdq);
    // Zero points become smaller too, and fewer layers are written step by step.
    assert!((weights / 2..weights / 2 + weights / 16).contains(&saved), "{saved} of {weights}");
    assert!(size(4, OnnxForm::Int8).abs_diff(size(3, OnnxForm::Int8)) < weights / 16);
}

/// The largest distance of logits, as a part of their spread.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    let mean = a.iter().sum::<f32>() / a.len() as f32;
    let spread = (a.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / a.len() as f32).sqrt();
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / spread
}

/// Channels that integer biases do not serve are gone after one call (another finds none); logits hardly move, and the engine
/// still computes the student's to the bit.
#[test]
fn settled_networks_have_integer_biases() {
    let logits = |network: &mut Network, graph: &Graph| {
        let x = Var::constant(images(20, graph, 5));
        let mut tape = Tape::inference(&network.device());
        network
            .forward(&mut tape, &[x], Forward::eval(), &Taps::default())
            .unwrap()
            .output
            .value
            .to_vec::<f32>()
            .unwrap()
    };
    for (graph, w, a, some) in [
        (cifar_resnet(3, 10), 8, 8, true),
        (cifar_resnet(3, 10), 4, 8, true),
        (cifar_resnet(3, 10), 4, 4, false),
        (with_downsampling(), 8, 8, false),
        (with_downsampling(), 6, 7, false),
    ] {
        let spec = QuantizeSpec { input_bits: Some(8), ..QuantizeSpec::new(w, a) };
        let mut network = calibrated(&graph, spec, 2);
        let before = logits(&mut network, &graph);
        let moved = settle(&mut network).unwrap();
        println!("{} w{w}a{a}: {moved} channels moved", graph.name);
        assert!(moved > 0 || !some, "{} w{w}a{a}", graph.name);
        assert_eq!(settle(&mut network).unwrap(), 0, "{} w{w}a{a}", graph.name);
        let after = logits(&mut network, &graph);
        assert!(apart(&before, &after) < 0.1, "{} w{w}a{a}: logits moved by {}", graph.name, apart(&before, &after));
        let engine = Engine::new(lower(&network, Normalization::CIFAR).unwrap()).unwrap();
        let integer = engine.logits(&images(20, &graph, 5)).unwrap().to_vec::<f32>().unwrap();
        assert!(integer.iter().zip(&after).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn files_do_not_depend_on_the_run() {
    let network = lowered(&with_downsampling(), QuantizeSpec::new(4, 4));
    for form in FORMS {
        assert!(onnx(&network, form).unwrap() == onnx(&network, form).unwrap());
    }
}
