//! The many forms in which files write one network: all give the same logits, bit for bit.

#[allow(dead_code, reason = "other tests use the rest")]
mod networks;
#[allow(dead_code, reason = "other tests use the rest")]
mod onnx_models;

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::graph::{Forward, Network, Taps};
use ghostbit::models::onnx::{Imported, Options};
use ghostbit::tensor::onnx::{AttributeProto, StringStringEntryProto, TensorProto};
use networks::images;
use onnx_models::{Model, float, int, ints, tensor, text, value};
use std::path::Path;

fn attribute(name: &str, t: TensorProto) -> AttributeProto {
    AttributeProto { name: name.into(), t: Some(t), r#type: 4, ..Default::default() }
}

fn network(model: &Model) -> Network {
    let found = Imported::parse(&model.bytes(), "net").unwrap_or_else(|e| panic!("{e}"));
    found.network(&Device::cpu(), Path::new("net.onnx")).unwrap()
}

fn logits(mut network: Network) -> Vec<u32> {
    let x = images(3, &network.graph, 1);
    let mut tape = Tape::inference(&Device::cpu());
    let out = network.forward(&mut tape, &[Var::constant(x)], Forward::eval(), &Taps::default()).unwrap();
    let found = out.output.value.to_vec::<f32>().unwrap();
    assert!(found.iter().any(|v| *v != found[0]), "logits are all alike");
    found.into_iter().map(f32::to_bits).collect()
}

/// A network of one convolution to `k` channels. `head` gets the value behind it and must make `y`.
fn one_layer(k: i64, pads: [i64; 4], head: impl FnOnce(&mut Model, &str)) -> Model {
    let mut m = Model::new([3, 8, 8]);
    m.conv_bn("x", "conv", [k, 3, 3], vec![ints("pads", &pads), ints("strides", &[2, 2])]);
    head(&mut m, "conv_bn");
    m
}

/// ReLU, mean, classifier of `k` channels.
fn head(m: &mut Model, x: &str, k: i64) {
    m.node("Relu", &[x], "relu", vec![]);
    m.node("GlobalAveragePool", &["relu"], "mean", vec![]);
    m.node("Flatten", &["mean"], "flat", vec![]);
    m.gemm("flat", [10, k]);
}

fn plain() -> Model {
    one_layer(4, [1; 4], |m, x| head(m, x, 4))
}

fn same(a: &Model, b: &Model) {
    assert_eq!(logits(network(a)), logits(network(b)));
}

fn scalar(m: &mut Model, name: &str, v: f32) {
    m.graph.initializer.push(tensor(name, &[], &[v]));
}

/// PyTorch's default exporter writes a bias for every convolution: zeros, expanded to the length of the weight.
#[test]
fn a_bias_of_zeros_is_none() {
    let mut m = plain();
    let nodes = std::mem::take(&mut m.graph.node);
    m.node("Shape", &["conv.weight"], "k", vec![int("start", 0), int("end", 1)]);
    let one = m.int64s("one", &[1]);
    m.node("Expand", &["k", &one], "length", vec![]);
    m.graph.initializer.push(TensorProto { dims: vec![], ..int64("zero", &[0]) });
    m.node("CastLike", &["zero", "x"], "zero_like", vec![]);
    m.node("Expand", &["zero_like", "length"], "bias", vec![]);
    m.graph.node.extend(nodes);
    let conv = m.graph.node.iter_mut().find(|n| n.op_type == "Conv").unwrap();
    conv.input.push("bias".into());
    same(&m, &plain());
    assert_eq!(network(&m).graph.nodes.len(), network(&plain()).graph.nodes.len());
}

fn int64(name: &str, v: &[i64]) -> TensorProto {
    let raw_data = v.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto { name: name.into(), dims: vec![v.len() as i64], data_type: 7, raw_data, ..Default::default() }
}

#[test]
fn rows_are_made_in_many_ways() {
    let with = |make: fn(&mut Model)| {
        one_layer(4, [1; 4], |m, x| {
            m.node("Relu", &[x], "relu", vec![]);
            make(m);
            m.gemm("flat", [10, 4]);
        })
    };
    let forms: [fn(&mut Model); 8] = [
        |m| {
            m.node("GlobalAveragePool", &["relu"], "mean", vec![]);
            m.int64s("shape", &[-1, 4]);
            m.node("Reshape", &["mean", "shape"], "flat", vec![int("allowzero", 1)]);
        },
        |m| {
            m.node("GlobalAveragePool", &["relu"], "mean", vec![]);
            m.int64s("axes", &[3, -2]);
            m.node("Squeeze", &["mean", "axes"], "flat", vec![]);
        },
        |m| {
            m.node("AveragePool", &["relu"], "mean", vec![ints("kernel_shape", &[4, 4])]);
            m.node("Flatten", &["mean"], "flat", vec![int("axis", -3)]);
        },
        |m| {
            m.node("ReduceMean", &["relu"], "flat", vec![ints("axes", &[-1, -2]), int("keepdims", 0)]);
        },
        |m| {
            m.int64s("shape", &[0, 4, -1]);
            m.node("Reshape", &["relu", "shape"], "pixels", vec![]);
            m.node("ReduceMean", &["pixels"], "flat", vec![ints("axes", &[2]), int("keepdims", 0)]);
        },
        // As Keras would: channels last all the way.
        |m| {
            m.node("Transpose", &["relu"], "last", vec![ints("perm", &[0, 2, 3, 1])]);
            m.node("ReduceMean", &["last"], "flat", vec![ints("axes", &[1, 2]), int("keepdims", 0)]);
        },
        |m| {
            m.node("Transpose", &["relu"], "last", vec![ints("perm", &[0, 2, 3, 1])]);
            m.node("Relu", &["last"], "again", vec![]);
            m.node("Transpose", &["again"], "first", vec![ints("perm", &[0, 3, 1, 2])]);
            m.node("GlobalAveragePool", &["first"], "mean", vec![]);
            m.node("Flatten", &["mean"], "flat", vec![]);
        },
        |m| {
            m.node("GlobalAveragePool", &["relu"], "mean", vec![]);
            m.node("Shape", &["mean"], "shape", vec![]);
            m.int64s("zero", &[0]);
            m.node("Gather", &["shape", "zero"], "batch", vec![]);
            m.int64s("rest", &[-1]);
            m.node("Concat", &["batch", "rest"], "wanted", vec![int("axis", 0)]);
            m.node("Reshape", &["mean", "wanted"], "flat", vec![]);
        },
    ];
    for form in forms {
        same(&with(form), &plain());
    }
}

/// A whole map as a row: the weights behind it follow the order in which the file counts.
#[test]
fn flattened_maps_keep_their_order() {
    let make = |last: bool| {
        one_layer(4, [1; 4], |m, x| {
            m.node("Relu", &[x], "relu", vec![]);
            let from = if last {
                m.node("Transpose", &["relu"], "t", vec![ints("perm", &[0, 2, 3, 1])])
            } else {
                "relu".into()
            };
            m.node("Flatten", &[&from], "flat", vec![]);
            m.gemm("flat", [10, 64]);
        })
    };
    let (first, mut last) = (make(false), make(true));
    // The same weights, whose columns lie as `c h w` in one file and as `h w c` in the other.
    let weight = &mut last.initializer("fc.weight").raw_data;
    let from = weight.clone();
    for (row, to) in weight.chunks_exact_mut(4 * 64).enumerate() {
        for (i, to) in to.chunks_exact_mut(4).enumerate() {
            let (pixel, c) = (i / 4, i % 4);
            to.copy_from_slice(&from[4 * (row * 64 + c * 16 + pixel)..][..4]);
        }
    }
    same(&first, &last);
}

/// Images as `n h w c`.
#[test]
fn images_with_channels_last() {
    let mut m = Model::new([8, 8, 3]);
    m.node("Transpose", &["x"], "first", vec![ints("perm", &[0, 3, 1, 2])]);
    let rest = one_layer(4, [1; 4], |m, x| head(m, x, 4));
    m.graph.initializer = rest.graph.initializer;
    m.graph.node.extend(rest.graph.node);
    m.graph.node[1].input[0] = "first".into();
    same(&m, &plain());
}

#[test]
fn padding_is_said_in_many_ways() {
    let with = |edit: fn(&mut Model)| {
        let mut m = one_layer(4, [0, 0, 1, 1], |m, x| head(m, x, 4));
        edit(&mut m);
        m
    };
    let want = with(|_| {});
    fn set(m: &mut Model, attribute: Vec<AttributeProto>) {
        let conv = &mut m.graph.node[0];
        conv.attribute.retain(|a| a.name != "pads" && attribute.iter().all(|b| a.name != b.name));
        conv.attribute.extend(attribute);
    }
    fn pad_before(m: &mut Model, node: impl FnOnce(&mut Model)) {
        let all = std::mem::take(&mut m.graph.node);
        node(m);
        m.graph.node.extend(all);
        m.graph.node.iter_mut().find(|n| n.op_type == "Conv").unwrap().input[0] = "padded".into();
    }
    let forms: [fn(&mut Model); 4] = [
        // What TensorFlow calls SAME: 8 pixels in steps of 2 need one more, at the end.
        |m| set(m, vec![text("auto_pad", "SAME_UPPER")]),
        |m| {
            set(m, vec![text("auto_pad", "VALID")]);
            pad_before(m, |m| {
                m.int64s("pads", &[0, 0, 0, 0, 0, 0, 1, 1]);
                m.node("Pad", &["x", "pads"], "padded", vec![]);
            });
        },
        |m| {
            set(m, vec![]);
            pad_before(m, |m| {
                m.int64s("pads", &[0, 0, 1, 1]);
                m.int64s("axes", &[-1, 2]);
                m.node("Pad", &["x", "pads", "", "axes"], "padded", vec![text("mode", "constant")]);
            });
        },
        // Computed, in two steps, and turned around in between.
        |m| {
            set(m, vec![]);
            pad_before(m, |m| {
                m.node("Transpose", &["x"], "t", vec![ints("perm", &[0, 2, 3, 1])]);
                m.node("Pad", &["t"], "rows", vec![ints("pads", &[0, 0, 0, 0, 0, 1, 0, 0])]);
                m.node("Pad", &["rows"], "both", vec![ints("pads", &[0, 0, 0, 0, 0, 0, 1, 0])]);
                m.node("Transpose", &["both"], "padded", vec![ints("perm", &[0, 3, 1, 2])]);
            });
        },
    ];
    for form in forms {
        same(&with(form), &want);
    }
}

/// Zeros in front of MaxPool count, unless nothing is below them.
#[test]
fn zeros_in_front_of_max_pool() {
    let with = |relu: bool, pad: bool| {
        one_layer(4, [1; 4], |m, x| {
            let x = if relu { m.node("Relu", &[x], "before", vec![]) } else { x.into() };
            let window = vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2])];
            if pad {
                m.int64s("pads", &[0, 0, 1, 1, 0, 0, 1, 1]);
                m.node("Pad", &[&x, "pads"], "padded", vec![]);
                m.node("MaxPool", &["padded"], "pool", window);
            } else {
                m.node("MaxPool", &[&x], "pool", [window, vec![ints("pads", &[1; 4])]].concat());
            }
            m.node("GlobalAveragePool", &["pool"], "mean", vec![]);
            m.node("Flatten", &["mean"], "flat", vec![]);
            m.gemm("flat", [10, 4]);
        })
    };
    same(&with(true, true), &with(true, false));
    assert_ne!(logits(network(&with(false, true))), logits(network(&with(false, false))));
    assert_eq!(network(&with(true, true)).graph.nodes.len(), network(&with(true, false)).graph.nodes.len());
}

#[test]
fn constants_that_change_nothing_vanish() {
    let m = one_layer(4, [1; 4], |m, x| {
        scalar(m, "none", 0.0);
        scalar(m, "one", 1.0);
        m.graph.initializer.push(tensor("nones", &[4, 1, 1], &[0.0; 4]));
        m.node("Add", &["none", x], "a", vec![]);
        m.node("Mul", &["a", "one"], "b", vec![]);
        m.node("Sub", &["b", "nones"], "c", vec![]);
        m.node("Div", &["c", "one"], "d", vec![]);
        head(m, "d", 4);
    });
    same(&m, &plain());
    assert_eq!(network(&m).graph.nodes.len(), network(&plain()).graph.nodes.len());
}

/// Caffe's Scale layer behind a batch norm, and constants behind a convolution: the layer before takes them in.
#[test]
fn constants_per_channel_become_part_of_the_layer_before() {
    let (s, t) = ([0.5f32, 2.0, 1.5, -1.0], [1.0f32, -0.25, 0.0, 3.0]);
    let m = one_layer(4, [1; 4], |m, x| {
        for (name, v) in [("s", s), ("t", t)] {
            m.graph.initializer.push(tensor(name, &[4], &v));
            m.node("Unsqueeze", &[name], &format!("{name}3"), vec![ints("axes", &[1, 2])]);
        }
        m.opset = 9;
        m.node("Mul", &["s3", x], "scaled", vec![int("axis", 0)]);
        m.node("Add", &["scaled", "t3"], "shifted", vec![]);
        head(m, "shifted", 4);
    });
    let mut want = plain();
    let edit = |m: &mut Model, name: &str, f: &dyn Fn(usize, f32) -> f32| {
        for (i, v) in m.initializer(name).raw_data.chunks_exact_mut(4).enumerate() {
            let old = f32::from_le_bytes(v.try_into().unwrap());
            v.copy_from_slice(&f(i, old).to_le_bytes());
        }
    };
    edit(&mut want, "conv_bn.weight", &|i, v| v * s[i]);
    edit(&mut want, "conv_bn.bias", &|i, v| v * s[i] + t[i]);
    same(&m, &want);

    // Behind a convolution: its bias, and its filters.
    let convolution = |bias: bool| {
        let mut m = Model::new([3, 8, 8]);
        let w = m.drawn("w", &[4, 3, 3, 3], -0.5);
        if bias {
            m.graph.initializer.push(tensor("t", &[4], &t));
            m.node("Conv", &["x", &w, "t"], "c", vec![]);
        } else {
            m.graph.initializer.push(tensor("t", &[1, 4, 1, 1], &t));
            m.node("Conv", &["x", &w], "conv", vec![]);
            m.node("Identity", &["conv"], "seen", vec![]);
            m.node("Add", &["seen", "t"], "c", vec![]);
        }
        head(&mut m, "c", 4);
        m
    };
    same(&convolution(false), &convolution(true));
}

/// A constant is added to what two nodes read: only one of them may see it.
#[test]
fn shared_values_stay_as_they_are() {
    let with = |seen: bool| {
        one_layer(4, [1; 4], |m, x| {
            scalar(m, "two", 2.0);
            let other = if seen { m.node("Identity", &[x], "seen", vec![]) } else { x.to_string() };
            m.node("Add", &[&other, "two"], "more", vec![]);
            m.node("Concat", &["more", x], "both", vec![int("axis", 1)]);
            head(m, "both", 8);
        })
    };
    for seen in [false, true] {
        match Imported::parse(&with(seen).bytes(), "net") {
            Ok(found) => assert!(found.graph.nodes.len() > network(&plain()).graph.nodes.len() + 1),
            Err(e) => assert!(e.contains("/more"), "{e}"),
        }
    }
}

/// Weights that are computed: filled, scaled, transposed, in half precision.
#[test]
fn weights_are_evaluated() {
    let with = |edit: fn(&mut Model)| {
        let mut m = plain();
        let nodes = std::mem::take(&mut m.graph.node);
        edit(&mut m);
        m.graph.node.extend(nodes);
        m
    };
    let rename = |m: &mut Model, name: &str, to: &str| m.initializer(name).name = to.into();
    let doubled = |m: &mut Model, name: &str| {
        for v in m.initializer(name).raw_data.chunks_exact_mut(4) {
            let old = f32::from_le_bytes(v.try_into().unwrap());
            v.copy_from_slice(&(2.0 * old).to_le_bytes());
        }
    };
    let mut m = with(|m| {
        scalar(m, "two", 2.0);
        m.node("Mul", &["half", "two"], "conv.weight", vec![]);
    });
    rename(&mut m, "conv.weight", "half");
    let mut want = plain();
    doubled(&mut want, "conv.weight");
    same(&m, &want);

    // A classifier `[c, k]` that is transposed, with its numbers scaled by Gemm.
    let mut m = with(|m| {
        m.node("Transpose", &["turned"], "fc.weight", vec![]);
    });
    let weight = m.initializer("fc.weight").raw_data.clone();
    let turned: Vec<u8> = (0..40).flat_map(|i| weight[4 * (i % 10 * 4 + i / 10)..][..4].to_vec()).collect();
    *m.initializer("fc.weight") =
        TensorProto { name: "turned".into(), dims: vec![4, 10], raw_data: turned, ..tensor("", &[], &[]) };
    let gemm = m.graph.node.last_mut().unwrap();
    gemm.attribute.extend([float("alpha", 2.0), float("beta", 2.0)]);
    let mut want = plain();
    doubled(&mut want, "fc.weight");
    doubled(&mut want, "fc.bias");
    same(&m, &want);

    let filled = |constant: bool| {
        let mut m = plain();
        let nodes = std::mem::take(&mut m.graph.node);
        m.graph.initializer.retain(|t| t.name != "conv_bn.weight");
        if constant {
            let shape = m.int64s("shape", &[4]);
            m.node("ConstantOfShape", &[&shape], "conv_bn.weight", vec![attribute("value", tensor("", &[1], &[0.75]))]);
        } else {
            m.graph.initializer.push(tensor("conv_bn.weight", &[4], &[0.75; 4]));
        }
        m.graph.node.extend(nodes);
        m
    };
    same(&filled(true), &filled(false));
}

#[test]
fn weights_beyond_the_budget_are_refused() {
    let mut m = plain();
    let nodes = std::mem::take(&mut m.graph.node);
    m.graph.initializer.retain(|t| t.name != "conv.weight");
    let shape = m.int64s("shape", &[4, 3, 3, 3]);
    m.node("ConstantOfShape", &[&shape], "conv.weight", vec![attribute("value", tensor("", &[1], &[0.75]))]);
    m.graph.node.extend(nodes);
    let with = |filled| Imported::parse_with(&m.bytes(), "net", &Options { filled, ..Options::default() });
    assert!(with(108).is_ok());
    let e = with(107).unwrap_err();
    assert!(e.contains("/conv") && e.contains("[4, 3, 3, 3]") && e.contains("does not hold"), "{e}");
}

#[test]
fn sums_and_joined_values() {
    let sum = |three: bool| {
        one_layer(4, [1; 4], |m, x| {
            m.node("Relu", &[x], "r", vec![]);
            m.node("MaxPool", &[x], "p", vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1; 4])]);
            if three {
                m.node("Sum", &[x, "r", "p"], "sum", vec![]);
            } else {
                m.node("Add", &[x, "r"], "part", vec![]);
                m.node("Add", &["part", "p"], "sum", vec![]);
            }
            head(m, "sum", 4);
        })
    };
    same(&sum(true), &sum(false));
    // A mean, which is a row here, beside a map of one pixel.
    let joined = |rows: bool, op: &str| {
        one_layer(4, [1; 4], |m, x| {
            m.node("Relu", &[x], "relu", vec![]);
            m.node("GlobalAveragePool", &["relu"], "mean", vec![]);
            m.node("MaxPool", &["relu"], "max", vec![ints("kernel_shape", &[4, 4])]);
            let [mut a, mut b] = ["mean".to_string(), "max".to_string()];
            if rows {
                a = m.node("Flatten", &["mean"], "mean_row", vec![]);
                b = m.node("Flatten", &["max"], "max_row", vec![]);
            }
            let attribute = if op == "Concat" { vec![int("axis", 1)] } else { vec![] };
            m.node(op, &[&a, &b], "both", attribute);
            m.node("Flatten", &["both"], "flat", vec![]);
            m.gemm("flat", [10, if op == "Concat" { 8 } else { 4 }]);
        })
    };
    for op in ["Concat", "Add"] {
        same(&joined(false, op), &joined(true, op));
    }
}

#[test]
fn softmax_behind_the_logits_is_left_out() {
    for op in ["Softmax", "LogSoftmax"] {
        let mut m = plain();
        m.node(op, &["y"], "p", vec![int("axis", 1)]);
        m.int64s("shape", &[-1, 10]);
        m.node("Reshape", &["p", "shape"], "q", vec![]);
        m.node("Identity", &["q"], "z", vec![]);
        m.graph.output[0] = value("z", &[0, 10]);
        same(&m, &plain());
    }
    let mut m = one_layer(4, [1; 4], |m, x| {
        m.node("Softmax", &[x], "soft", vec![int("axis", 1)]);
        head(m, "soft", 4);
    });
    m.opset = 13;
    let e = Imported::parse(&m.bytes(), "net").unwrap_err();
    assert!(e.contains("/soft") && e.contains("behind the logits"), "{e}");
}

/// The file's usual form in the wild.
#[test]
fn networks_without_batch_norms_are_taken() {
    let mut m = Model::new([3, 8, 8]);
    let (w, b) = (m.drawn("conv.weight", &[4, 3, 3, 3], -0.5), m.drawn("conv.bias", &[4], 0.0));
    m.node("Conv", &["x", &w, &b], "conv", vec![]);
    head(&mut m, "conv", 4);
    let found = network(&m);
    assert!(found.graph.running_statistics().is_empty());
    logits(found);
}

#[test]
fn the_logits_are_chosen_among_outputs() {
    let mut m = plain();
    m.graph.output.push(value("relu", &[0, 4, 4, 4]));
    // One of them alone is a row per image, as its shape says, or as it turns out.
    same(&m, &plain());
    m.graph.output = vec![value("mean", &[]), value("y", &[])];
    same(&m, &plain());
    m.graph.output = vec![value("flat", &[0, 4]), value("y", &[0, 10])];
    let e = Imported::parse(&m.bytes(), "net").unwrap_err();
    assert!(["'flat' [batch, 4]", "'y' [batch, 10]", "--output NAME"].iter().all(|w| e.contains(w)), "{e}");
    let named = |name: &str| {
        Imported::parse_with(&m.bytes(), "net", &Options { output: Some(name.into()), ..Options::default() })
    };
    assert_eq!(named("y").unwrap().graph.classes, 10);
    assert_eq!(named("flat").unwrap().graph.classes, 4);
    let e = named("nowhere").unwrap_err();
    assert!(e.contains("'nowhere'") && e.contains("flat, y"), "{e}");
}

#[test]
fn sizes_that_a_file_leaves_open_are_given() {
    let mut m = plain();
    m.graph.input[0] = value("x", &[0, 3, 0, 0]);
    let with = |size| Imported::parse_with(&m.bytes(), "net", &Options { input_size: size, ..Options::default() });
    let e = with(None).unwrap_err();
    assert!(e.contains("height") && e.contains("--input-size HEIGHT,WIDTH") && e.contains("dynamo"), "{e}");
    for size in [[0, 8, 8], [3, 8, 8]] {
        let found = with(Some(size)).unwrap().network(&Device::cpu(), Path::new("net")).unwrap();
        assert_eq!(logits(found), logits(network(&plain())));
    }
    let e = with(Some([1, 8, 8])).unwrap_err();
    assert!(e.contains("channels of 3, not of 1"), "{e}");
    assert!(with(Some([3, 1 << 40, 1 << 40])).is_err());
}

/// All that is not understood is said at once, with how often and where.
#[test]
fn all_unknown_operators_are_named() {
    let m = one_layer(4, [1; 4], |m, x| {
        m.node("Einsum", &[x], "a", vec![]);
        m.node("Sin", &["a"], "b", vec![]);
        m.node("LayerNormalization", &["b"], "c", vec![]);
        m.node("Sin", &["c"], "d", vec![]);
        head(m, "d", 4);
    });
    let e = Imported::parse(&m.bytes(), "net").unwrap_err();
    let words = [
        "Einsum (node '/a'",
        "Sin (2 nodes, first '/b')",
        "LayerNormalization (node '/c'",
        "no layer",
        "supported are Add,",
    ];
    assert!(words.iter().all(|w| e.contains(w)), "{e}");
    // What the output does not need is not complained of.
    let mut m = plain();
    m.node("Sin", &["relu"], "b", vec![]);
    m.node("Shape", &["b"], "c", vec![]);
    same(&m, &plain());
}

/// Moves the values of initializers into a file called `location` beside the model, or says that they are there.
fn external(m: &mut Model, location: &str, offset: i64, length: Option<i64>) -> Vec<u8> {
    let mut data = vec![0xff; 3];
    for t in m.graph.initializer.iter_mut().filter(|t| t.data_type == 1) {
        let at = data.len() as i64 + offset;
        let bytes = std::mem::take(&mut t.raw_data);
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        t.data_location = 1;
        t.external_data = vec![
            entry("location", location.into()),
            entry("offset", at.to_string()),
            entry("length", length.unwrap_or(bytes.len() as i64).to_string()),
        ];
        data.extend(bytes);
    }
    data
}

#[test]
fn weights_beside_the_model_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net.onnx");
    std::fs::create_dir(folder.path().join("weights")).unwrap();
    for location in ["net.onnx.data", "weights/net.data", "./net.data"] {
        let mut m = plain();
        let data = external(&mut m, location, 0, None);
        std::fs::write(folder.path().join(location), data).unwrap();
        std::fs::write(&path, m.bytes()).unwrap();
        let found = Imported::load(&path).unwrap().network(&Device::cpu(), &path).unwrap();
        assert_eq!(logits(found), logits(network(&plain())));
        let e = Imported::parse(&m.bytes(), "net").unwrap_err();
        assert!(e.contains("conv.weight") && e.contains("another file"), "{e}");
    }
}

#[test]
fn weights_outside_the_folder_are_not_read() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("net.onnx");
    let data = external(&mut plain(), "", 0, None);
    std::fs::write(outside.path().join("net.data"), &data).unwrap();
    std::fs::write(folder.join("here.data"), &data).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../net.data", folder.join("link.data")).unwrap();
    let absolute = outside.path().join("net.data").display().to_string();
    let cases = [
        ("../net.data", 0, None, "own folder"),
        ("./../model/here.data", 0, None, "own folder"),
        (&absolute[..], 0, None, "own folder"),
        #[cfg(unix)]
        ("link.data", 0, None, "out of the model's folder"),
        ("", 0, None, "own folder"),
        ("nowhere.data", 0, None, "keep that file beside the model"),
        (".", 0, None, "no file"),
        ("here.data", 1 << 40, None, "which has"),
        ("here.data", -9, None, "offset"),
        ("here.data", 0, Some(7), "7 are said"),
        ("here.data", 0, Some(i64::MAX), "are said"),
    ];
    for (location, offset, length, word) in cases {
        let mut m = plain();
        external(&mut m, location, offset, length);
        std::fs::write(&path, m.bytes()).unwrap();
        let e = Imported::load(&path).unwrap_err().to_string();
        assert!(e.contains(word) && e.contains("conv.weight") && e.contains("net.onnx"), "{location}: {e}");
    }
}
