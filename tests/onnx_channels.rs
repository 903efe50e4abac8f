//! Forms in which files write what happens to channels, gates and functions: all give the same logits, bit for bit.

#[allow(dead_code, reason = "other tests use the rest")]
mod networks;
#[allow(dead_code, reason = "other tests use the rest")]
mod onnx_models;

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::graph::{Forward, Network, Taps};
use ghostbit::models::onnx::Imported;
use networks::images;
use onnx_models::{Model, float, int, ints, tensor, text};
use std::path::Path;

/// The logits of a network in which `middle` stands behind a layer of `k` channels and makes `joined` of `c`.
fn logits(k: i64, c: i64, middle: &dyn Fn(&mut Model)) -> Vec<u32> {
    let mut m = Model::new([3, 6, 5]);
    m.conv_bn("x", "conv", [k, 3, 3], vec![ints("pads", &[1; 4])]);
    m.node("Identity", &["conv_bn"], "before", vec![]);
    middle(&mut m);
    m.conv_bn("joined", "behind", [4, c, 1], vec![]);
    m.node("GlobalAveragePool", &["behind_bn"], "mean", vec![]);
    m.node("Flatten", &["mean"], "flat", vec![]);
    m.gemm("flat", [10, 4]);
    let found = Imported::parse(&m.bytes(), "net").unwrap_or_else(|e| panic!("{e}"));
    let mut network: Network = found.network(&Device::cpu(), Path::new("net.onnx")).unwrap();
    let x = images(2, &network.graph, 7);
    let mut tape = Tape::inference(&Device::cpu());
    let out = network.forward(&mut tape, &[Var::constant(x)], Forward::eval(), &Taps::default()).unwrap();
    let found = out.output.value.to_vec::<f32>().unwrap();
    assert!(found.iter().any(|v| *v != found[0]), "logits are all alike");
    found.into_iter().map(f32::to_bits).collect()
}

type Form = fn(&mut Model);

fn all_alike(k: i64, c: i64, forms: &[Form]) -> Vec<u32> {
    let want = logits(k, c, &forms[0]);
    for (i, form) in forms.iter().enumerate().skip(1) {
        assert_eq!(logits(k, c, form), want, "form {i}");
    }
    want
}

/// Channels 4 to 7, then 0 to 3.
#[test]
fn parts_of_channels() {
    fn lists(m: &mut Model) {
        for (name, v) in [("0", 0), ("1", 1), ("4", 4), ("8", 8), ("end", i64::MAX), ("minus", -4)] {
            m.int64s(name, &[v]);
        }
    }
    fn joined(m: &mut Model) {
        m.node("Concat", &["b", "a"], "joined", vec![int("axis", 1)]);
    }
    let forms: [Form; 7] = [
        |m| {
            lists(m);
            m.node("Slice", &["before", "0", "4", "1"], "a", vec![]);
            m.node("Slice", &["before", "minus", "end", "1", "1"], "b", vec![]);
            joined(m);
        },
        |m| {
            m.int64s("parts", &[4, 4]);
            m.node("Split", &["before", "parts"], "a", vec![int("axis", 1)]);
            m.graph.node.last_mut().unwrap().output.push("b".into());
            joined(m);
        },
        |m| {
            m.opset = 18;
            m.node("Split", &["before"], "a", vec![int("axis", -3), int("num_outputs", 2)]);
            m.graph.node.last_mut().unwrap().output.push("b".into());
            joined(m);
        },
        |m| {
            m.int64s("order", &[4, 5, 6, 7, 0, 1, 2, -5]);
            m.node("Gather", &["before", "order"], "joined", vec![int("axis", 1)]);
        },
        |m| {
            lists(m);
            m.int64s("sizes", &[4, 4]);
            m.node("SplitToSequence", &["before", "sizes"], "parts", vec![int("axis", 1)]);
            m.node("SequenceAt", &["parts", "0"], "a", vec![]);
            m.node("SequenceAt", &["parts", "1"], "b", vec![]);
            m.node("SequenceConstruct", &["b", "a"], "turned", vec![]);
            m.node("ConcatFromSequence", &["turned"], "joined", vec![int("axis", 1)]);
        },
        // Two groups, turned around.
        |m| {
            m.int64s("groups", &[0, 2, 4, 6, 5]);
            m.node("Reshape", &["before", "groups"], "r", vec![]);
            m.int64s("order", &[1, 0]);
            m.node("Gather", &["r", "order"], "g", vec![int("axis", 1)]);
            m.int64s("back", &[-1, 8, 6, 5]);
            m.node("Reshape", &["g", "back"], "joined", vec![]);
        },
        // As a write into channels: `y = x[4:] beside zeros; y[4:] = x[:4]`.
        |m| {
            lists(m);
            m.node("Slice", &["before", "0", "4", "1"], "a", vec![]);
            m.node("Slice", &["before", "minus", "end", "1"], "b", vec![]);
            m.node("Concat", &["b", "b"], "two", vec![int("axis", 1)]);
            m.node("Transpose", &["two"], "t", vec![ints("perm", &[1, 0, 2, 3])]);
            m.node("Transpose", &["a"], "u", vec![ints("perm", &[1, 0, 2, 3])]);
            m.int64s("places", &[4, 5, 6, 7]);
            m.initializer("places").dims = vec![4, 1];
            m.node("ScatterND", &["t", "places", "u"], "s", vec![text("reduction", "none")]);
            m.node("Transpose", &["s"], "joined", vec![ints("perm", &[1, 0, 2, 3])]);
        },
    ];
    all_alike(8, 8, &forms);
}

/// Channel `i` of the output comes from group `i mod 2`.
#[test]
fn shuffles_of_channels() {
    let forms: [Form; 4] = [
        |m| {
            m.int64s("order", &[0, 4, 1, 5, 2, 6, 3, 7]);
            m.node("Gather", &["before", "order"], "joined", vec![int("axis", 1)]);
        },
        |m| {
            m.int64s("groups", &[-1, 2, 4, 6, 5]);
            m.node("Reshape", &["before", "groups"], "r", vec![]);
            m.node("Transpose", &["r"], "t", vec![ints("perm", &[0, 2, 1, 3, 4])]);
            m.node("Shape", &["before"], "shape", vec![]);
            m.node("Reshape", &["t", "shape"], "joined", vec![]);
        },
        |m| {
            m.int64s("groups", &[0, 2, 4, 30]);
            m.node("Reshape", &["before", "groups"], "r", vec![]);
            m.node("Transpose", &["r"], "t", vec![ints("perm", &[0, 2, 1, 3])]);
            m.int64s("back", &[0, -1, 6, 5]);
            m.node("Reshape", &["t", "back"], "joined", vec![]);
        },
        |m| {
            m.node("Transpose", &["before"], "last", vec![ints("perm", &[0, 2, 3, 1])]);
            m.int64s("groups", &[-1, 6, 5, 2, 4]);
            m.node("Reshape", &["last", "groups"], "r", vec![]);
            m.node("Transpose", &["r"], "t", vec![ints("perm", &[0, 1, 2, 4, 3])]);
            m.int64s("back", &[-1, 6, 5, 8]);
            m.node("Reshape", &["t", "back"], "s", vec![]);
            m.node("Transpose", &["s"], "joined", vec![ints("perm", &[0, 3, 1, 2])]);
        },
    ];
    all_alike(8, 8, &forms);
}

/// Squeeze and excitation, by rows, by maps of one pixel, and with channels last.
#[test]
fn gates() {
    fn weights(m: &mut Model, shape: &[i64]) {
        let values: Vec<f32> = (0..64).map(|i| (i * 37 % 64) as f32 / 64.0 - 0.4).collect();
        m.graph.initializer.push(tensor("se", shape, &values));
    }
    let forms: [Form; 4] = [
        |m| {
            weights(m, &[8, 8]);
            m.node("GlobalAveragePool", &["before"], "p", vec![]);
            m.node("Flatten", &["p"], "r", vec![]);
            m.node("Gemm", &["r", "se"], "l", vec![int("transB", 1)]);
            m.node("Sigmoid", &["l"], "g", vec![]);
            m.int64s("shape", &[0, 8, 1, 1]);
            m.node("Reshape", &["g", "shape"], "gate", vec![]);
            m.node("Mul", &["before", "gate"], "joined", vec![]);
        },
        |m| {
            weights(m, &[8, 8]);
            m.node("ReduceMean", &["before"], "r", vec![ints("axes", &[2, 3]), int("keepdims", 0)]);
            m.node("Transpose", &["se"], "turned", vec![]);
            m.node("MatMul", &["r", "turned"], "l", vec![]);
            m.node("Sigmoid", &["l"], "g", vec![]);
            m.node("Unsqueeze", &["g"], "gate", vec![ints("axes", &[2, 3])]);
            m.opset = 11;
            m.node("Mul", &["gate", "before"], "joined", vec![]);
        },
        |m| {
            weights(m, &[8, 8]);
            m.node("Transpose", &["before"], "last", vec![ints("perm", &[0, 2, 3, 1])]);
            m.node("ReduceMean", &["last"], "p", vec![ints("axes", &[1, 2])]);
            m.node("Transpose", &["se"], "turned", vec![]);
            m.node("MatMul", &["p", "turned"], "l", vec![]);
            m.node("Sigmoid", &["l"], "gate", vec![]);
            m.node("Mul", &["last", "gate"], "gated", vec![]);
            m.node("Transpose", &["gated"], "joined", vec![ints("perm", &[0, 3, 1, 2])]);
        },
        |m| {
            weights(m, &[8, 8]);
            m.node("AveragePool", &["before"], "p", vec![ints("kernel_shape", &[6, 5])]);
            m.node("Flatten", &["p"], "r", vec![int("axis", 1)]);
            m.node("Gemm", &["r", "se"], "l", vec![int("transB", 1)]);
            m.node("HardSigmoid", &["l"], "unused", vec![]);
            m.node("Sigmoid", &["l"], "g", vec![]);
            m.int64s("shape", &[-1, 8, 1, 1]);
            m.node("Reshape", &["g", "shape"], "gate", vec![int("allowzero", 1)]);
            m.node("Mul", &["before", "gate"], "joined", vec![]);
        },
    ];
    all_alike(8, 8, &forms);
}

/// Functions by parts are the functions.
#[test]
fn functions_by_parts() {
    fn numbers(m: &mut Model) {
        for (name, v) in
            [("zero", 0.0), ("half", 0.5), ("one", 1.0), ("three", 3.0), ("six", 6.0), ("root", 1.414_213_5)]
        {
            m.graph.initializer.push(tensor(name, &[], &[v]));
        }
    }
    let hard: [Form; 3] = [
        |m| drop(m.node("HardSwish", &["before"], "joined", vec![])),
        |m| {
            m.node("HardSigmoid", &["before"], "h", vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)]);
            m.node("Mul", &["before", "h"], "joined", vec![]);
        },
        |m| {
            numbers(m);
            m.node("Add", &["before", "three"], "a", vec![]);
            m.node("Clip", &["a", "zero", "six"], "c", vec![]);
            m.node("Mul", &["before", "c"], "p", vec![]);
            m.node("Div", &["p", "six"], "joined", vec![]);
        },
    ];
    let gelu: [Form; 2] = [
        |m| {
            m.opset = 20;
            m.node("Gelu", &["before"], "joined", vec![]);
        },
        |m| {
            numbers(m);
            m.node("Div", &["before", "root"], "d", vec![]);
            m.node("Erf", &["d"], "e", vec![]);
            m.node("Add", &["e", "one"], "a", vec![]);
            m.node("Mul", &["before", "a"], "p", vec![]);
            m.node("Mul", &["p", "half"], "joined", vec![]);
        },
    ];
    let silu: [Form; 2] = [
        |m| {
            m.opset = 24;
            m.node("Swish", &["before"], "joined", vec![]);
        },
        |m| {
            m.node("Sigmoid", &["before"], "s", vec![]);
            m.node("Mul", &["s", "before"], "joined", vec![]);
        },
    ];
    let clip: [Form; 3] = [
        |m| {
            m.opset = 10;
            m.node("Clip", &["before"], "joined", vec![float("min", 0.0), float("max", 0.5)]);
        },
        |m| {
            numbers(m);
            m.node("Max", &["before", "zero"], "a", vec![]);
            m.node("Min", &["half", "a"], "joined", vec![]);
        },
        |m| {
            numbers(m);
            m.node("Clip", &["before", "", "half"], "a", vec![]);
            m.node("Relu", &["a"], "joined", vec![]);
        },
    ];
    let found = [all_alike(4, 4, &hard), all_alike(4, 4, &gelu), all_alike(4, 4, &silu), all_alike(4, 4, &clip)];
    for i in 1..found.len() {
        assert!(found[..i].iter().all(|f| *f != found[i]), "{i}");
    }
}

/// `(x - mean) / std` inside the graph, as two nodes, as one product and sum, and with channels last.
#[test]
fn constants_that_no_layer_takes_in() {
    fn constants(m: &mut Model, shape: &[i64]) {
        m.graph.initializer.push(tensor("shift", shape, &[0.5, -0.25, 1.0, 0.125]));
        m.graph.initializer.push(tensor("by", shape, &[2.0, 0.5, 4.0, 0.25]));
        m.node("Relu", &["before"], "r", vec![]);
    }
    let forms: [Form; 4] = [
        |m| {
            constants(m, &[1, 4, 1, 1]);
            m.node("Sub", &["r", "shift"], "s", vec![]);
            m.node("Div", &["s", "by"], "joined", vec![]);
        },
        |m| {
            constants(m, &[4, 1, 1]);
            m.node("Sub", &["shift", "r"], "s", vec![]);
            m.node("Neg", &["s"], "n", vec![]);
            m.node("Reciprocal", &["by"], "times", vec![]);
            m.node("Mul", &["times", "n"], "joined", vec![]);
        },
        |m| {
            constants(m, &[4]);
            m.node("Transpose", &["r"], "last", vec![ints("perm", &[0, 2, 3, 1])]);
            m.node("Sub", &["last", "shift"], "s", vec![]);
            m.node("Div", &["s", "by"], "d", vec![]);
            m.node("Transpose", &["d"], "joined", vec![ints("perm", &[0, 3, 1, 2])]);
        },
        // Channel by channel, as torchvision's networks transform their input.
        |m| {
            constants(m, &[4]);
            let mut parts = Vec::new();
            for (i, (shift, by)) in [(0.5, 2.0), (-0.25, 0.5), (1.0, 4.0), (0.125, 0.25)].into_iter().enumerate() {
                for (name, v) in [("shift", shift), ("by", by)] {
                    m.graph.initializer.push(tensor(&format!("{name}{i}"), &[], &[v]));
                }
                let mut index = tensor(&format!("i{i}"), &[], &[]);
                (index.data_type, index.raw_data) = (7, (i as i64).to_le_bytes().to_vec());
                m.graph.initializer.push(index);
                m.node("Gather", &["r", &format!("i{i}")], &format!("g{i}"), vec![int("axis", 1)]);
                m.node("Unsqueeze", &[&format!("g{i}")], &format!("u{i}"), vec![ints("axes", &[1])]);
                m.node("Sub", &[&format!("u{i}"), &format!("shift{i}")], &format!("s{i}"), vec![]);
                parts.push(m.node("Div", &[&format!("s{i}"), &format!("by{i}")], &format!("d{i}"), vec![]));
            }
            m.opset = 11;
            let parts: Vec<&str> = parts.iter().map(|p| &p[..]).collect();
            m.node("Concat", &parts, "joined", vec![int("axis", 1)]);
        },
    ];
    all_alike(4, 4, &forms);
}

/// Rows and columns that are cut off, against a convolution that does not see them.
#[test]
fn maps_are_cropped() {
    let forms: [Form; 3] = [
        |m| {
            m.int64s("starts", &[1, 2]);
            m.int64s("ends", &[-1, 9]);
            m.int64s("axes", &[2, 3]);
            m.node("Slice", &["before", "starts", "ends", "axes"], "joined", vec![]);
        },
        |m| {
            let weight: Vec<f32> = (0..4 * 9).map(|i| if i % 9 == 5 { 1.0 } else { 0.0 }).collect();
            m.graph.initializer.push(tensor("pick", &[4, 1, 3, 3], &weight));
            m.node("Conv", &["before", "pick"], "joined", vec![int("group", 4)]);
        },
        |m| {
            m.int64s("rows", &[1, 2, 3, 4]);
            m.int64s("columns", &[2, 3, 4]);
            m.node("Gather", &["before", "rows"], "r", vec![int("axis", 2)]);
            m.node("Gather", &["r", "columns"], "joined", vec![int("axis", 3)]);
        },
    ];
    all_alike(4, 4, &forms);
}
