//! ONNX files that are damaged, hostile, or not what can be imported: an error that says what is wrong, never a panic.

#[allow(dead_code, reason = "other tests use the rest")]
mod onnx_models;

use ghostbit::device::Device;
use ghostbit::models::onnx::{Imported, Options};
use onnx_models::{Model, branches, computed, depthwise, flattened, float, int, ints, residual, text, value};
use proptest::collection::vec;
use proptest::prelude::*;
use std::path::Path;

/// Expects an error with all of `words`.
fn refuses(bytes: &[u8], words: &[&str]) {
    match Imported::parse(bytes, "net") {
        Ok(_) => panic!("taken; expected {words:?}"),
        Err(e) => words.iter().for_each(|w| assert!(e.contains(w), "no '{w}' in: {e}")),
    }
}

/// [`residual`] changed by `edit`.
fn spoiled(edit: impl FnOnce(&mut Model)) -> Vec<u8> {
    let mut model = residual(3);
    edit(&mut model);
    model.bytes()
}

/// The attributes of node `output`.
fn set(model: &mut Model, output: &str, attribute: ghostbit::tensor::onnx::AttributeProto) {
    let node = model.graph.node.iter_mut().find(|n| n.output[0] == output).unwrap();
    node.attribute.retain(|a| a.name != attribute.name);
    node.attribute.push(attribute);
}

fn rewire(model: &mut Model, output: &str, input: usize, from: &str) {
    let node = model.graph.node.iter_mut().find(|n| n.output[0] == output).unwrap();
    node.input[input] = from.into();
}

type Edit = fn(&mut Model);

#[test]
fn structure() {
    let cases: [(Edit, &[&str]); 16] = [
        (|m| m.opset = 6, &["operator set 6", "7 to 24"]),
        (|m| m.opset = 1 << 40, &["operator set", "7 to 24"]),
        (|m| rewire(m, "body", 0, "last_relu"), &["body", "cycle"]),
        (|m| rewire(m, "stem", 0, "stem"), &["stem", "cycle"]),
        (|m| rewire(m, "sum", 1, "nowhere"), &["/sum", "'nowhere'", "nothing defines"]),
        (|m| m.graph.node[3].output[0] = "x".into(), &["'x'", "twice"]),
        (|m| m.graph.node[3].output[0] = "stem".into(), &["'stem'", "twice"]),
        (|m| m.graph.initializer[1].name = "stem.weight".into(), &["'stem.weight'", "twice"]),
        (|m| m.graph.node[2].op_type = "Einsum".into(), &["/stem_relu", "Einsum", "supported are Add"]),
        (|m| m.graph.node[2].domain = "com.example".into(), &["/stem_relu", "com.example"]),
        (|m| m.graph.node[2].op_type = "QuantizeLinear".into(), &["quantized already", "float"]),
        (|m| m.graph.input.push(value("z", &[1])), &["2 inputs", "x, z"]),
        (|m| m.graph.input.clear(), &["0 inputs"]),
        (
            |m| m.graph.output.push(value("flat", &[])),
            &["2 outputs", "'y' [batch, 10]", "'flat' [batch, 6]", "--output"],
        ),
        (|m| m.graph.output[0].name = "stem_relu".into(), &["stem_relu", "logits"]),
        (|m| m.graph.output[0].name = "x".into(), &["'x'", "no node"]),
    ];
    for (edit, words) in cases {
        refuses(&spoiled(edit), words);
    }
    refuses(&[], &["no graph"]);
    refuses(b"not a protocol buffer", &["damaged"]);
}

#[test]
fn inputs() {
    for dims in
        [&[0, 3, 8][..], &[0, 3, 0, 8], &[0, 3, 8, 1 << 40], &[0, 1 << 16, 1 << 16, 1 << 16], &[], &[0, 3, -4, 8]]
    {
        refuses(&spoiled(|m| m.graph.input[0] = value("x", dims)), &["input 'x'"]);
    }
    refuses(&spoiled(|m| m.graph.input[0].r#type = None), &["input 'x'", "no tensor"]);
    // A fixed batch is one of any size.
    assert!(Imported::parse(&spoiled(|m| m.graph.input[0] = value("x", &[7, 3, 8, 8])), "net").is_ok());
}

#[test]
fn values() {
    let cases: [(Edit, &[&str]); 12] = [
        (|m| m.initializer("body.weight").raw_data.truncate(99), &["/body", "body.weight", "bytes"]),
        (|m| m.initializer("body.weight").raw_data.clear(), &["/body", "body.weight", "0 values"]),
        (|m| m.initializer("body.weight").dims = vec![1 << 62, 1 << 62, 3, 3], &["body.weight", "dimensions"]),
        (|m| m.initializer("body.weight").dims = vec![-7, 5, 3, 3], &["body.weight", "dimensions"]),
        (|m| m.initializer("body.weight").dims = vec![0, 5, 3, 3], &["body.weight", "dimensions"]),
        (|m| m.initializer("body.weight").dims = vec![1; 9], &["body.weight", "dimensions"]),
        (|m| m.initializer("body.weight").dims = vec![5, 7, 3, 3], &["/body", "5 channels"]),
        (|m| m.initializer("body.weight").data_type = 7, &["body.weight", "type 7"]),
        (|m| m.initializer("body.weight").data_location = 1, &["body.weight", "another file"]),
        (|m| m.initializer("body_bn.bias").dims = vec![7, 1], &["/body_bn", "body_bn.bias", "[7]"]),
        (|m| m.initializer("body_bn.running_var").raw_data[3] = 0xbf, &["running_var", "negative variance"]),
        (|m| m.initializer("fc.weight").raw_data[..4].fill(0xff), &["fc.weight", "NaN"]),
    ];
    for (edit, words) in cases {
        refuses(&spoiled(edit), words);
    }
}

#[test]
fn attributes() {
    let odd = |name, v: &[i64]| ints(name, v);
    let cases = [
        ("stem", odd("strides", &[0, 0]), "strides"),
        ("stem", odd("strides", &[1, 2, 1]), "strides"),
        ("stem", odd("strides", &[i64::MIN, i64::MIN]), "strides"),
        ("stem", odd("dilations", &[0, 0]), "dilations"),
        ("stem", odd("dilations", &[1 << 40, 1 << 40]), "dilations"),
        ("stem", odd("dilations", &[60000, 60000]), "does not fit"),
        ("stem", odd("pads", &[-1; 4]), "pads"),
        ("stem", odd("pads", &[i64::MAX; 4]), "pads"),
        ("stem", odd("pads", &[65536; 4]), "numbers"),
        ("stem", odd("pads", &[1]), "pads"),
        ("stem", odd("kernel_shape", &[3, 5]), "kernel_shape"),
        ("stem", int("group", 3), "groups"),
        ("stem", int("group", 0), "groups"),
        ("body", text("auto_pad", "SAME"), "auto_pad"),
        ("pool", odd("kernel_shape", &[0, 0]), "kernel_shape"),
        ("pool", odd("kernel_shape", &[1 << 62, 1 << 62]), "kernel_shape"),
        ("pool", odd("kernel_shape", &[11, 11]), "padding 1"),
        ("pool", odd("pads", &[3; 4]), "smaller than the window"),
        ("stem_bn", float("epsilon", -1.0), "epsilon"),
        ("stem_bn", float("epsilon", f32::NAN), "epsilon"),
        ("y", float("alpha", f32::INFINITY), "alpha"),
        ("y", int("transA", 1), "transA"),
        ("y", int("transB", 0), "does not fit"),
        ("flat", int("axis", 9), "axis"),
    ];
    for (node, attribute, word) in cases {
        refuses(&spoiled(|m| set(m, node, attribute)), &[&format!("/{node}"), word]);
    }
    refuses(&spoiled(|m| m.initializer("six").raw_data = (-1f32).to_le_bytes().to_vec()), &["/last_relu", "0 .. -1"]);
}

/// Integers that are computed on the way.
#[test]
fn sizes() {
    let computed = |edit: fn(&mut Model)| {
        let mut m = computed();
        edit(&mut m);
        m.bytes()
    };
    let cases: [(Edit, &[&str]); 9] = [
        (|m| drop(m.int64s("four", &[1 << 62])), &["four", "twice"]),
        (|m| m.initializer("four").raw_data = (1i64 << 62).to_le_bytes().to_vec(), &["/both_ends", "counted"]),
        (|m| m.initializer("four").raw_data = (1i64 << 40).to_le_bytes().to_vec(), &["/zeros", "numbers"]),
        (|m| m.initializer("four").raw_data = 3i64.to_le_bytes().to_vec(), &["/shortcut", "pads"]),
        (|m| m.initializer("wanted").dims = vec![1 << 40], &["/zeros", "dimension"]),
        (|m| m.initializer("zero").raw_data = 9i64.to_le_bytes().to_vec(), &["/given", "element 9 of 1"]),
        (|m| m.initializer("two").raw_data = 0i64.to_le_bytes().to_vec(), &["/rows"]),
        (|m| rewire(m, "reversed", 4, "zero"), &["/reversed", "steps of 0"]),
        (|m| rewire(m, "row_shape", 1, "batch"), &["/row", "to [batch, batch]"]),
    ];
    for (edit, words) in cases {
        refuses(&computed(edit), words);
    }
    // Each value is twice as long as the one before.
    refuses(
        &computed(|m| {
            let mut list = "wanted".to_string();
            for i in 0..60 {
                list = m.node("Concat", &[&list, &list], &format!("list{i}"), vec![int("axis", 0)]);
            }
            rewire(m, "table", 0, &list);
        }),
        &["/list", "at most 4096"],
    );
}

#[test]
fn joined_and_flattened() {
    let joined = |edit: Edit| {
        let mut m = branches();
        edit(&mut m);
        m.bytes()
    };
    refuses(&joined(|m| set(m, "both", int("axis", 2))), &["/both", "axis 2"]);
    refuses(&joined(|m| rewire(m, "dense", 2, "mean")), &["/dense", "cycle"]);
    refuses(&joined(|m| rewire(m, "next", 0, "narrow_relu")), &["/next", "3 channels"]);
    refuses(&joined(|m| rewire(m, "both", 1, "fc.weight")), &["/both", "no activation"]);
    let mut m = flattened();
    m.graph.output[0] = value("flat", &[]);
    refuses(&m.bytes(), &["'flat'", "logits"]);
}

/// One large constant that many nodes read would be copied for each.
#[test]
fn shared_weights_are_copied_within_bounds() {
    let shared = |layers: usize| {
        let mut m = Model::new([16, 4, 4]);
        m.conv_bn("x", "layer0", [16, 16, 3], vec![ints("pads", &[1; 4])]);
        let w = "layer0.weight".to_string();
        for i in 1..layers {
            m.node("Conv", &[&format!("layer{}_bn", i - 1), &w], &format!("layer{i}_bn"), vec![ints("pads", &[1; 4])]);
        }
        m.node("GlobalAveragePool", &[&format!("layer{}_bn", layers - 1)], "mean", vec![]);
        m.node("Flatten", &["mean"], "flat", vec![]);
        m.gemm("flat", [10, 16]);
        m.bytes()
    };
    let two = Imported::parse(&shared(2), "net").unwrap();
    assert!(two.weights.tensors.contains_key("layer0.weight.2"));
    refuses(&shared(40), &["shared"]);
}

#[test]
fn repeated_names_and_long_chains_take_no_time() {
    let mut m = Model::new([3, 4, 4]);
    let mut x = m.conv_bn("x", "first", [2, 3, 1], vec![]);
    for i in 0..10_000 {
        x = m.node("Relu", &[&x], &format!("relu{i}"), vec![]);
    }
    m.graph.node.iter_mut().for_each(|n| n.name = "again".repeat(100));
    m.node("GlobalAveragePool", &[&x], "mean", vec![]);
    m.node("Flatten", &["mean"], "flat", vec![]);
    m.gemm("flat", [10, 2]);
    m.graph.node.reverse();
    let start = std::time::Instant::now();
    assert_eq!(Imported::parse(&m.bytes(), "net").unwrap().graph.nodes.len(), 10_005);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

/// What was taken has the shapes and weights that it says.
fn check(data: &[u8]) {
    let options = Options { filled: 1 << 20, ..Options::default() };
    if let Ok(found) = Imported::parse_with(data, "net", &options) {
        let shapes = found.graph.shapes(1).unwrap();
        assert_eq!(shapes.last().unwrap()[..], [1, found.graph.classes]);
        found.network(&Device::cpu(), Path::new("net")).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files(
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)],
        which in any::<prop::sample::Index>(),
    ) {
        let mut file = [residual(1), computed()][which.index(2)].bytes();
        // Values are most of the file; what says how to read them is at the front.
        for (i, (at, byte)) in edits.iter().enumerate() {
            let end = if i % 2 == 0 { file.len() } else { 1700 };
            file[at.index(end)] = *byte;
        }
        if let Some(keep) = keep {
            file.truncate(keep.index(file.len()));
        }
        check(&file);
    }

    #[test]
    fn any_attributes(
        edits in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop_oneof![-3..4i64, any::<i64>()]), 1..4),
        inputs in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..2),
        constants in vec((any::<prop::sample::Index>(), prop_oneof![-3..9i64, any::<i64>()]), 0..3),
        which in any::<prop::sample::Index>(),
    ) {
        let mut m = [residual(1), flattened(), branches(), computed(), depthwise()][which.index(5)].clone();
        let all: Vec<String> = m.graph.node.iter().map(|n| n.output[0].clone()).collect();
        for (node, at, v) in &edits {
            let node = &mut m.graph.node[node.index(all.len())];
            if !node.attribute.is_empty() {
                let i = at.index(node.attribute.len());
                let a = &mut node.attribute[i];
                (a.i, a.f) = (*v, *v as f32);
                a.ints.iter_mut().for_each(|i| *i = *v);
            }
        }
        for (at, v) in &constants {
            let i = at.index(m.graph.initializer.len());
            let constant = &mut m.graph.initializer[i];
            if constant.data_type == 7 {
                constant.raw_data = v.to_le_bytes().repeat(constant.raw_data.len() / 8);
            }
        }
        for (node, from) in &inputs {
            m.graph.node[node.index(all.len())].input[0] = all[from.index(all.len())].clone();
        }
        check(&m.bytes());
    }

    #[test]
    fn bytes(data in vec(any::<u8>(), 0..200)) {
        check(&data);
    }
}
