//! Networks from ONNX files: what they compute, that they can be quantized and deployed, and what is refused.

#[allow(dead_code, reason = "other tests use the rest")]
mod networks;
mod onnx_models;

use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::deploy::{Engine, IntegerNetwork, OnnxForm, lower, onnx};
use ghostbit::device::Device;
use ghostbit::graph::nodes::{Add, Conv2d, GlobalAvgPool, Linear, MaxPool, ShortcutA};
use ghostbit::graph::passes::{QuantizeSpec, quantize};
use ghostbit::graph::{Forward, Graph, Init, InputKind, Network, NodeKind, RangeMode, Taps};
use ghostbit::models::onnx::Imported;
use ghostbit::models::resnet::batch_norm;
use ghostbit::ops::activation::Activation;
use ghostbit::ops::conv2d::Conv2dParams;
use ghostbit::ops::observe::EmaForm;
use ghostbit::ops::pool::PoolParams;
use ghostbit::tensor::{Shape, Tensor};
use networks::{calibrated, images};
use onnx_models::{Model, branches, computed, depthwise, flattened, float, int, ints, residual, tensor, text, value};
use std::path::Path;
use std::process::Command;

fn imported(model: &Model) -> Network {
    let found = Imported::parse(&model.bytes(), "net").unwrap_or_else(|e| panic!("{e}"));
    found.network(&Device::cpu(), Path::new("net.onnx")).unwrap()
}

/// The value of node `name` (the output if empty) for `x`.
fn run(network: &mut Network, x: &Tensor, name: &str) -> Tensor {
    let nodes = if name.is_empty() { vec![] } else { vec![network.graph.node(name).unwrap()] };
    let taps = Taps { nodes, ..Taps::default() };
    let mut tape = Tape::inference(&Device::cpu());
    let mut out = network.forward(&mut tape, &[Var::constant(x.clone())], Forward::eval(), &taps).unwrap();
    out.taps.pop().unwrap_or(out.output).value
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// [`residual`] as one would build it here.
fn residual_by_hand(channels: usize) -> Graph {
    let mut g = Graph::new("by hand", 10);
    let x = g.input("images", InputKind::Real(vec![8, 8, channels]));
    let conv_bn = |g: &mut Graph, x, name: &str, [k, c, r]: [usize; 3], params: Conv2dParams| {
        let weight = g.param(format!("{name}.weight"), &[k, r, r, c], Init::Zeros);
        let y = g.push(name, NodeKind::from(Conv2d { weight, bias: None, params, quant: None }), &[x]);
        batch_norm(g, y, &format!("{name}_bn"), k, 1e-4, true)
    };
    let p = Conv2dParams::new;
    let relu = || NodeKind::from(Activation::Relu);
    let x = conv_bn(&mut g, x, "stem", [5, channels, 3], p(1, 1));
    let x = g.push("relu1", relu(), &[x]);
    let x = g.push("pool", NodeKind::from(MaxPool { params: PoolParams::square(3, 2, 1) }), &[x]);
    let y = conv_bn(&mut g, x, "body", [7, 5, 3], p(2, 1));
    let skip = conv_bn(&mut g, x, "skip", [7, 5, 1], p(2, 0));
    let x = g.push("sum", NodeKind::from(Add {}), &[y, skip]);
    let x = g.push("relu2", relu(), &[x]);
    let x = conv_bn(&mut g, x, "last", [6, 7, 3], p(1, 1));
    let x = g.push("relu3", NodeKind::from(Activation::Clip { low: 0.0, high: 6.0 }), &[x]);
    let x = g.push("mean", NodeKind::from(GlobalAvgPool {}), &[x]);
    let weight = g.param("fc.weight", &[10, 6], Init::Zeros);
    let bias = Some(g.param("fc.bias", &[10], Init::Zeros));
    g.push("fc", NodeKind::from(Linear { weight, bias, quant: None }), &[x]);
    g
}

#[test]
fn logits_are_those_of_the_graph_built_by_hand() {
    for channels in [1, 3] {
        let model = residual(channels);
        let mut ours = imported(&model);
        let mut theirs = Network::new(&Device::cpu(), residual_by_hand(channels as usize), 0).unwrap();
        theirs.load_checkpoint(ours.to_checkpoint().unwrap(), Path::new("by hand")).unwrap();
        // Weights arrive as the file has them, filters in k c r s.
        let checkpoint = ours.to_checkpoint().unwrap();
        for t in model.graph.initializer.iter().filter(|t| t.dims.len() > 0) {
            let bytes: Vec<u8> = checkpoint.tensors[&t.name].values.iter().flat_map(|v| v.to_le_bytes()).collect();
            assert_eq!(bytes, t.raw_data, "{}", t.name);
        }
        let x = images(3, &ours.graph, 1);
        assert_eq!(bits(&run(&mut ours, &x, "")), bits(&run(&mut theirs, &x, "")));
    }
}

/// Sums of the file's weights (`c h w`) and the map's values, in f64.
fn classify(map: &Tensor, model: &mut Model) -> Vec<f64> {
    let &[n, h, w, c] = &map.shape()[..] else { panic!("a map") };
    let map = map.to_f64().unwrap();
    let floats = |t: &[u8]| -> Vec<f64> {
        t.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
    };
    let (weight, bias) =
        (floats(&model.initializer("fc.weight").raw_data), floats(&model.initializer("fc.bias").raw_data));
    let logit = |i: usize, k: usize| {
        let product = |j: usize| {
            let (ci, pixel) = (j / (h * w), j % (h * w));
            map[(i * h * w + pixel) * c + ci] * weight[k * c * h * w + j]
        };
        (0..c * h * w).map(product).sum::<f64>() + bias[k]
    };
    (0..n * bias.len()).map(|i| logit(i / bias.len(), i % bias.len())).collect()
}

fn close(found: &Tensor, want: &[f64]) {
    for (a, b) in found.to_f64().unwrap().iter().zip(want) {
        assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{a} and {b}");
    }
}

#[test]
fn a_flattened_map_keeps_its_meaning() {
    let mut model = flattened();
    let mut network = imported(&model);
    let x = images(3, &network.graph, 2);
    let want = classify(&run(&mut network, &x, "pool"), &mut model);
    close(&run(&mut network, &x, ""), &want);

    // The same as a matrix product with a bias, of a shape that is computed, with a batch norm of the row in between.
    model.graph.node.truncate(4);
    let zero = model.int64s("zero", &[0]);
    model.node("Shape", &["pool"], "shape", vec![]);
    model.node("Gather", &["shape", &zero], "batch", vec![]);
    let rest = model.int64s("rest", &[-1]);
    model.node("Concat", &["batch", &rest], "row_shape", vec![int("axis", 0)]);
    model.node("Reshape", &["pool", "row_shape"], "flat", vec![]);
    for (name, v) in [("one", 1.0), ("none", 0.0)] {
        model.graph.initializer.push(tensor(name, &[16], &[v; 16]));
    }
    model.node("BatchNormalization", &["flat", "one", "none", "none", "one"], "same", vec![float("epsilon", 1e-12)]);
    let weight = model.initializer("fc.weight");
    let turned: Vec<u8> = (0..160).flat_map(|i| weight.raw_data[4 * (i % 10 * 16 + i / 10)..][..4].to_vec()).collect();
    let turned = ghostbit::tensor::onnx::TensorProto { dims: vec![16, 10], raw_data: turned, ..weight.clone() };
    model.graph.initializer.push(ghostbit::tensor::onnx::TensorProto { name: "turned".into(), ..turned });
    model.node("MatMul", &["same", "turned"], "product", vec![]);
    model.node("Add", &["fc.bias", "product"], "y", vec![]);
    let mut network = imported(&model);
    close(&run(&mut network, &x, ""), &want);
}

#[test]
fn imported_networks_are_quantized_and_deployed() {
    for model in [residual(3), flattened(), branches(), depthwise()] {
        let graph = Imported::parse(&model.bytes(), "net").unwrap().graph;
        for spec in [QuantizeSpec::new(4, 4), QuantizeSpec::new(3, 8)] {
            let mut student = calibrated(&graph, spec.clone(), 4);
            let x = images(5, &graph, 3);
            let want = run(&mut student, &x, "");
            let integer = lower(&student, Normalization::CIFAR).unwrap();
            let file = integer.to_checkpoint().unwrap().serialize().unwrap();
            assert_eq!(IntegerNetwork::parse(&file).unwrap(), integer);
            let engine = Engine::new(integer).unwrap();
            assert_eq!(bits(&engine.logits(&x).unwrap()), bits(&want));
            assert!(bits(&want).iter().any(|v| *v != bits(&want)[0]), "logits are all alike");
            // A checkpoint of the student fits the file's graph.
            let mut again = Network::new(&Device::cpu(), quantize(&graph, spec).unwrap(), 9).unwrap();
            again.load_checkpoint(student.to_checkpoint().unwrap(), Path::new("student")).unwrap();
            assert_eq!(bits(&run(&mut again, &x, "")), bits(&want));
        }
    }
}

/// Every `stride`-th pixel and channels of zeros, in one Slice or in two.
#[test]
fn the_shortcut_of_cifar_resnets_is_found() {
    for two in [false, true] {
        let mut m = Model::new([3, 5, 7]);
        m.conv_bn("x", "first", [4, 3, 3], vec![ints("pads", &[1; 4])]);
        for (name, v) in [("0", 0), ("1", 2), ("2", 2), ("3", 3), ("9", i64::MAX)] {
            m.int64s(name, &[v]);
        }
        if two {
            m.node("Slice", &["first_bn", "0", "9", "2", "1"], "rows", vec![]);
            m.node("Slice", &["rows", "0", "9", "3", "1"], "every", vec![]);
        } else {
            for (name, v) in [("00", [0, 0]), ("99", [i64::MAX; 2]), ("23", [2, 3]), ("22", [2, 2])] {
                m.int64s(name, &v);
            }
            m.node("Slice", &["first_bn", "00", "99", "23", "22"], "every", vec![]);
        }
        m.int64s("pads", &[0, 1, 0, 0, 0, 2, 0, 0]);
        m.node("Pad", &["every", "pads"], "wide", vec![text("mode", "constant")]);
        m.int64s("axes", &[-1, -2]);
        m.opset = 18;
        m.node("ReduceMean", &["wide", "axes"], "mean", vec![int("keepdims", 0)]);
        m.gemm("mean", [10, 7]);
        m.node("Softmax", &["y"], "probabilities", vec![]);
        m.graph.output[0] = value("probabilities", &[]);
        let network = imported(&m);
        let kinds: Vec<&NodeKind> = network.graph.nodes.iter().map(|n| &n.kind).collect();
        assert_eq!(kinds[3], &NodeKind::from(ShortcutA { stride: 2, c_out: 7 }));
        assert_eq!(kinds[4], &NodeKind::from(GlobalAvgPool {}));
        assert_eq!((kinds.len(), network.graph.classes), (6, 10));
    }
    let network = imported(&computed());
    let kinds: Vec<&NodeKind> = network.graph.nodes.iter().map(|n| &n.kind).collect();
    assert_eq!(kinds[3], &NodeKind::from(ShortcutA { stride: 2, c_out: 7 }));
    assert_eq!((kinds.len(), kinds[4]), (6, &NodeKind::from(GlobalAvgPool {})));
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn write(path: &Path, values: &[f32]) {
    std::fs::write(path, values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
}

/// `float` quantized, with ranges from `x`.
fn student(float: &Network, x: &Tensor) -> Network {
    let graph = quantize(&float.graph, QuantizeSpec::new(4, 8)).unwrap();
    let mut student = Network::new(&Device::cpu(), graph, 0).unwrap();
    student.copy_from(float).unwrap();
    student.weight_ranges_min_max().unwrap();
    let how = Forward { ranges: RangeMode::TrackMinMax(EmaForm::Textbook), ..Forward::eval() };
    student.forward(&mut Tape::inference(&Device::cpu()), &[Var::constant(x.clone())], how, &Taps::default()).unwrap();
    student
}

/// Models that `onnx.helper` made: logits are ONNX Runtime's, and so are those of the quantized networks that go back.
#[test]
fn onnx_runtime_computes_the_same() {
    let Some(python) = std::env::var_os("GHOSTBIT_PYTHON") else {
        println!("skipped: GHOSTBIT_PYTHON names no Python with onnx and onnxruntime");
        return;
    };
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [made, back] = [folders[0].path(), folders[1].path()];
    let python = |script: &str, folder: &Path| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
        let status = Command::new(&python).arg(script).arg(folder).status().unwrap();
        assert!(status.success(), "faults, see above");
    };
    python("onnx_make.py", made);
    let mut files: Vec<_> = std::fs::read_dir(made).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "onnx"));
    assert!(files.len() >= 4);
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let mut network = Imported::load(path).unwrap().network(&Device::cpu(), path).unwrap();
        let InputKind::Real(sample) = &network.graph.inputs[0] else { panic!("an image") };
        let values = floats(&path.with_extension("images"));
        let n = values.len() / sample.iter().product::<usize>();
        let x = Tensor::from_slice(&Device::cpu(), Shape::new(&[&[n], &sample[..]].concat()), &values).unwrap();
        let (found, want) =
            (run(&mut network, &x, "").to_vec::<f32>().unwrap(), floats(&path.with_extension("logits")));
        assert_eq!(found.len(), want.len(), "{name}");
        // Each layer rounds a sum of terms of random signs, relative to their size: by about the root of their number, in units
        // of 2^-24. Layers add up.
        let longest = network.params.entries().map(|(_, s)| s.elements() / s[0]).max().unwrap() as f32;
        let layers = network.graph.nodes.len() as f32;
        let spread = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let limit = layers * longest.sqrt() * 2f32.powi(-24) * spread;
        let apart = found.iter().zip(&want).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        println!("{name:12} {n} images, logits to {spread:.3}, {apart:.1e} apart, limit {limit:.1e}");
        assert!(apart <= limit, "{name}: {apart} apart, limit {limit}");

        let student = student(&network, &x);
        let integer = lower(&student, Normalization::CIFAR).unwrap();
        std::fs::write(back.join(format!("{name}.onnx")), onnx(&integer, OnnxForm::Qdq).unwrap()).unwrap();
        write(&back.join(format!("{name}.images")), &values);
        let logits = Engine::new(integer).unwrap().logits(&x).unwrap().to_vec::<f32>().unwrap();
        write(&back.join(format!("{name}.logits")), &logits);
    }
    python("onnx_check.py", back);
}
