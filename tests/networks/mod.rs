//! Small quantized networks with ranges and statistics as if trained, shared by the tests of deployment.

use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::graph::nodes::{Add, AvgPool, Conv2d, Conv2dDepthwise, GlobalAvgPool, Linear, MaxPool};
use ghostbit::graph::passes::{QuantizeSpec, quantize};
use ghostbit::graph::{Forward, Graph, Init, InputKind, Network, NodeId, NodeKind, RangeMode, Taps};
use ghostbit::models::resnet::batch_norm;
use ghostbit::ops::activation::Activation;
use ghostbit::ops::conv2d::Conv2dParams;
use ghostbit::ops::observe::EmaForm;
use ghostbit::ops::pool::PoolParams;
use ghostbit::ops::random;
use ghostbit::tensor::{Shape, Tensor};

/// Normal values in the shape of `graph`'s input.
pub fn images(n: usize, graph: &Graph, seed: u64) -> Tensor {
    let InputKind::Real(sample) = &graph.inputs[0] else { panic!("an image") };
    random::normal(&Device::cpu(), Shape::new(&[&[n], &sample[..]].concat()), seed, 0).unwrap()
}

/// `graph` quantized, with drawn parameters and statistics, and ranges that were tracked on drawn images.
pub fn calibrated(graph: &Graph, spec: QuantizeSpec, seed: u64) -> Network {
    let device = Device::cpu();
    let mut network = Network::new(&device, quantize(graph, spec).unwrap(), seed).unwrap();
    let draw = |shape: Shape, stream: u64| {
        random::uniform(&device, shape, seed, 1000 + stream).unwrap().to_vec::<f32>().unwrap()
    };
    for (i, (name, shape)) in network.params.entries().enumerate() {
        if shape.len() == 1 {
            let values: Vec<f32> = draw(shape, i as u64).into_iter().map(|v| 0.4 + v).collect();
            network.params.get(name).unwrap().write(&values).unwrap();
        }
    }
    for (i, (name, t)) in network.buffers.iter_mut().enumerate() {
        let base = if name.ends_with("var") { 0.5 } else { -0.5 };
        let values: Vec<f32> = draw(t.shape(), 500 + i as u64).into_iter().map(|v| base + v).collect();
        t.write(&values).unwrap();
    }
    network.weight_ranges_min_max().unwrap();
    for step in 0..2 {
        let how = Forward { ranges: RangeMode::TrackMinMax(EmaForm::Textbook), ..Forward::eval() };
        let x = Var::constant(images(3, graph, seed + 10 + step));
        network.forward(&mut Tape::inference(&device), &[x], how, &Taps::default()).unwrap();
    }
    network
}

fn conv(g: &mut Graph, x: NodeId, name: &str, [k, r, c]: [usize; 3], p: Conv2dParams, bias: bool) -> NodeId {
    let weight = g.param(format!("{name}.weight"), &[k, r, r, c], Init::Normal { std: 0.3 });
    let bias = bias.then(|| g.param(format!("{name}.bias"), &[k], Init::Zeros));
    g.push(name, NodeKind::from(Conv2d { weight, bias, params: p, quant: None }), &[x])
}

fn linear(g: &mut Graph, x: NodeId, name: &str, k: usize, c: usize) -> NodeId {
    let weight = g.param(format!("{name}.weight"), &[k, c], Init::Normal { std: 0.3 });
    let bias = Some(g.param(format!("{name}.bias"), &[k], Init::Zeros));
    g.push(name, NodeKind::from(Linear { weight, bias, quant: None }), &[x])
}

/// Convolutions with bias and with batch norm, dilated, strided, of odd channel counts; a residual block whose shortcut is
/// a convolution; pooling.
pub fn with_downsampling() -> Graph {
    let relu = NodeKind::from(Activation::Relu);
    let p = Conv2dParams::new;
    let mut g = Graph::new("with_downsampling", 4);
    let x = g.input("images", InputKind::Real(vec![9, 8, 3]));
    let x = conv(&mut g, x, "stem", [5, 3, 3], p(1, 1), true);
    let x = g.push("stem.relu", relu.clone(), &[x]);
    let y = conv(&mut g, x, "body", [7, 3, 5], p(2, 1), true);
    let y = batch_norm(&mut g, y, "body.bn", 7, 1e-5, true);
    let skip = conv(&mut g, x, "skip", [7, 1, 5], p(2, 0), false);
    let skip = batch_norm(&mut g, skip, "skip.bn", 7, 1e-5, false);
    let x = g.push("add", NodeKind::from(Add {}), &[y, skip]);
    let x = g.push("relu", relu.clone(), &[x]);
    let y = conv(&mut g, x, "wide", [7, 3, 7], p(1, 2).dilation(2), false);
    let y = g.push("again", NodeKind::from(Add {}), &[x, y]);
    let y = batch_norm(&mut g, y, "late.bn", 7, 1e-5, true);
    let y = g.push("late.relu", relu.clone(), &[y]);
    let y = g.push("max", NodeKind::from(MaxPool { params: PoolParams::square(2, 2, 1) }), &[y]);
    let y = conv(&mut g, y, "after", [6, 3, 7], p(1, 1), false);
    let y = g.push("avg", NodeKind::from(AvgPool { params: PoolParams::square(2, 1, 0) }), &[y]);
    let y = g.push("pool", NodeKind::from(GlobalAvgPool {}), &[y]);
    linear(&mut g, y, "classifier", 4, 6);
    g
}

/// An inverted bottleneck of MobileNet: 1x1, depthwise with stride, 1x1 without ReLU behind it.
pub fn with_depthwise() -> Graph {
    let relu = NodeKind::from(Activation::Relu);
    let p = Conv2dParams::new;
    let mut g = Graph::new("with_depthwise", 4);
    let x = g.input("images", InputKind::Real(vec![9, 8, 3]));
    let mut x = conv(&mut g, x, "stem", [12, 3, 3], p(1, 1), false);
    for (name, stride) in [("first", 1), ("second", 2)] {
        x = batch_norm(&mut g, x, &format!("{name}.before"), 12, 1e-5, true);
        x = g.push(format!("{name}.relu1"), relu.clone(), &[x]);
        let weight = g.param(format!("{name}.weight"), &[12, 3, 3, 1], Init::Normal { std: 0.3 });
        let kind = NodeKind::from(Conv2dDepthwise { weight, bias: None, params: p(stride, 1), quant: None });
        x = g.push(name, kind, &[x]);
        x = batch_norm(&mut g, x, &format!("{name}.bn"), 12, 1e-5, true);
        x = g.push(format!("{name}.relu2"), relu.clone(), &[x]);
        x = conv(&mut g, x, &format!("{name}.project"), [12, 1, 12], p(1, 0), false);
    }
    let x = g.push("pool", NodeKind::from(GlobalAvgPool {}), &[x]);
    linear(&mut g, x, "classifier", 4, 12);
    g
}

/// Fully connected layers: the second one takes codes.
pub fn two_layers() -> Graph {
    let mut g = Graph::new("two_layers", 3);
    let x = g.input("features", InputKind::Real(vec![37]));
    let x = linear(&mut g, x, "first", 19, 37);
    let x = g.push("relu", NodeKind::from(Activation::Relu), &[x]);
    linear(&mut g, x, "second", 3, 19);
    g
}
