//! ONNX models written message by message, as files of other programs are.

use ghostbit::tensor::onnx::{
    AttributeProto, DataType, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message;

/// A model under construction. Values that a test wants to spoil are public.
#[derive(Clone)]
pub struct Model {
    pub graph: GraphProto,
    pub opset: i64,
    /// Of the drawn values.
    drawn: u32,
}

/// `name = v`.
pub fn int(name: &str, v: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: v, r#type: 2, ..Default::default() }
}
pub fn float(name: &str, v: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: v, r#type: 1, ..Default::default() }
}
pub fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), ints: v.to_vec(), r#type: 7, ..Default::default() }
}
pub fn text(name: &str, v: &str) -> AttributeProto {
    AttributeProto { name: name.into(), s: v.as_bytes().to_vec(), r#type: 3, ..Default::default() }
}

/// An f32 value with these dimensions; 0: free.
pub fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| DimensionProto { dim_value: (d > 0).then_some(d), dim_param: (d <= 0).then(|| "n".into()) };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = TensorTypeProto { elem_type: DataType::Float as i32, shape: Some(shape) };
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
}

/// A tensor of f32.
pub fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: DataType::Float as i32,
        raw_data,
        ..Default::default()
    }
}

impl Model {
    /// Takes images of `[c, h, w]` called `x`, gives `y`.
    pub fn new([c, h, w]: [i64; 3]) -> Self {
        let graph = GraphProto {
            name: "main".into(),
            input: vec![value("x", &[0, c, h, w])],
            output: vec![value("y", &[])],
            ..Default::default()
        };
        Self { graph, opset: 17, drawn: 0 }
    }

    /// Appends a node; returns its output.
    pub fn node(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> String {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.into()],
            name: format!("/{output}"),
            op_type: op.into(),
            attribute,
            ..Default::default()
        });
        output.into()
    }

    /// An initializer of drawn values in `low..low + 1`.
    pub fn drawn(&mut self, name: &str, dims: &[i64], low: f32) -> String {
        let mut next = || {
            self.drawn = self.drawn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            low + (self.drawn >> 8) as f32 / (1 << 24) as f32
        };
        let values: Vec<f32> = (0..dims.iter().product::<i64>()).map(|_| next()).collect();
        self.graph.initializer.push(tensor(name, dims, &values));
        name.into()
    }

    pub fn int64s(&mut self, name: &str, v: &[i64]) -> String {
        let raw_data = v.iter().flat_map(|v| v.to_le_bytes()).collect();
        let (dims, data_type) = (vec![v.len() as i64], DataType::Int64 as i32);
        self.graph.initializer.push(TensorProto { name: name.into(), dims, data_type, raw_data, ..Default::default() });
        name.into()
    }

    /// A convolution to `k` channels with square filters of `r`, and its batch norm.
    pub fn conv_bn(&mut self, x: &str, name: &str, [k, c, r]: [i64; 3], attribute: Vec<AttributeProto>) -> String {
        let w = self.drawn(&format!("{name}.weight"), &[k, c, r, r], -0.5);
        let y = self.node("Conv", &[x, &w], name, attribute);
        let parts = [("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)];
        let parts = parts.map(|(part, low)| self.drawn(&format!("{name}_bn.{part}"), &[k], low));
        let inputs: Vec<&str> = [&y].into_iter().chain(&parts).map(|s| &s[..]).collect();
        self.node("BatchNormalization", &inputs, &format!("{name}_bn"), vec![float("epsilon", 1e-4)])
    }

    /// A classifier: `x[n c]` to `y[n k]`.
    pub fn gemm(&mut self, x: &str, [k, c]: [i64; 2]) {
        let w = self.drawn("fc.weight", &[k, c], -0.5);
        let b = self.drawn("fc.bias", &[k], -0.5);
        self.node("Gemm", &[x, &w, &b], "y", vec![int("transB", 1)]);
    }

    pub fn initializer(&mut self, name: &str) -> &mut TensorProto {
        self.graph.initializer.iter_mut().find(|t| t.name == name).expect("an initializer of that name")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let model = ModelProto {
            ir_version: 8,
            graph: Some(self.graph.clone()),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: self.opset }],
            ..Default::default()
        };
        model.encode_to_vec()
    }
}

/// 8x8 images: a strided stem, max pooling, a residual block with a shortcut of 1x1, a depthwise layer, ReLU6, an average
/// over the map. Ten classes.
pub fn residual(channels: i64) -> Model {
    let mut m = Model::new([channels, 8, 8]);
    let pad = |p: i64| ints("pads", &[p; 4]);
    let strides = |s: i64| ints("strides", &[s; 2]);
    m.conv_bn("x", "stem", [5, channels, 3], vec![pad(1), strides(1), int("group", 1), ints("dilations", &[1, 1])]);
    m.node("Relu", &["stem_bn"], "stem_relu", vec![]);
    m.node("MaxPool", &["stem_relu"], "pool", vec![ints("kernel_shape", &[3, 3]), strides(2), pad(1)]);
    m.conv_bn("pool", "body", [7, 5, 3], vec![pad(1), strides(2)]);
    m.conv_bn("pool", "skip", [7, 5, 1], vec![strides(2), text("auto_pad", "VALID")]);
    m.node("Add", &["body_bn", "skip_bn"], "sum", vec![]);
    m.node("Relu", &["sum"], "sum_relu", vec![]);
    m.conv_bn("sum_relu", "last", [6, 7, 3], vec![text("auto_pad", "SAME_UPPER")]);
    m.graph.initializer.push(tensor("zero", &[], &[0.0]));
    m.graph.initializer.push(tensor("six", &[], &[6.0]));
    m.node("Clip", &["last_bn", "zero", "six"], "last_relu", vec![]);
    m.node("GlobalAveragePool", &["last_relu"], "mean", vec![]);
    m.node("Flatten", &["mean"], "flat", vec![]);
    m.node("Dropout", &["flat"], "dropped", vec![]);
    m.gemm("dropped", [10, 6]);
    m
}

/// 4x4 images of three channels: two layers, and a flattened map of 2x2.
pub fn flattened() -> Model {
    let mut m = Model::new([3, 4, 4]);
    m.conv_bn("x", "first", [4, 3, 3], vec![ints("pads", &[1; 4])]);
    m.node("Relu", &["first_bn"], "relu", vec![]);
    m.node("AveragePool", &["relu"], "pool", vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]);
    m.node("Flatten", &["pool"], "flat", vec![]);
    m.gemm("flat", [10, 16]);
    m
}

/// 8x8 images of three channels: two branches side by side, twice.
pub fn branches() -> Model {
    let mut m = Model::new([3, 8, 8]);
    let pad = |p: i64| vec![ints("pads", &[p; 4])];
    m.conv_bn("x", "narrow", [3, 3, 1], vec![]);
    m.node("Relu", &["narrow_bn"], "narrow_relu", vec![]);
    m.conv_bn("x", "wide", [5, 3, 3], pad(1));
    m.node("Relu", &["wide_bn"], "wide_relu", vec![]);
    m.node("Concat", &["narrow_relu", "wide_relu"], "both", vec![int("axis", 1)]);
    m.conv_bn("both", "next", [4, 8, 3], pad(1));
    m.node("Relu", &["next_bn"], "next_relu", vec![]);
    m.node("Concat", &["both", "next_relu", "both"], "dense", vec![int("axis", -3)]);
    m.node("MaxPool", &["dense"], "pool", vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])]);
    m.conv_bn("pool", "last", [6, 20, 3], vec![]);
    m.node("Relu", &["last_bn"], "last_relu", vec![]);
    m.node("GlobalAveragePool", &["last_relu"], "mean", vec![]);
    m.node("Flatten", &["mean"], "flat", vec![]);
    m.gemm("flat", [10, 6]);
    m
}

/// 9x8 images: depthwise layers, one behind a ReLU6 and one strided with a bias, leaky ReLU.
pub fn depthwise() -> Model {
    let mut m = Model::new([3, 9, 8]);
    m.conv_bn("x", "stem", [6, 3, 3], vec![ints("pads", &[1; 4])]);
    m.graph.initializer.push(tensor("zero", &[1], &[0.0]));
    m.graph.initializer.push(tensor("six", &[1], &[6.0]));
    m.node("Clip", &["stem_bn", "zero", "six"], "stem_relu", vec![]);
    m.conv_bn("stem_relu", "deep", [6, 1, 3], vec![int("group", 6), ints("pads", &[1; 4])]);
    m.node("Relu", &["deep_bn"], "deep_relu", vec![]);
    m.conv_bn("deep_relu", "wide", [10, 6, 1], vec![]);
    m.node("LeakyRelu", &["wide_bn"], "wide_relu", vec![float("alpha", 0.1)]);
    let (w, b) = (m.drawn("last.weight", &[10, 1, 3, 3], -0.5), m.drawn("last.bias", &[10], -0.5));
    m.node("Conv", &["wide_relu", &w, &b], "last", vec![int("group", 10), ints("strides", &[2, 2])]);
    m.node("Relu", &["last"], "last_relu", vec![]);
    m.node("GlobalAveragePool", &["last_relu"], "mean", vec![]);
    m.node("Flatten", &["mean"], "flat", vec![]);
    m.gemm("flat", [10, 10]);
    m
}

/// 5x7 images: the subsampling shortcut of CIFAR ResNets as PyTorch exports it, paddings computed from a list that begins with
/// the last dimension, and a row whose shape is computed.
pub fn computed() -> Model {
    let mut m = Model::new([3, 5, 7]);
    m.conv_bn("x", "first", [4, 3, 3], vec![ints("pads", &[1; 4])]);
    for (name, v) in [("zero", 0), ("one", 1), ("two", 2), ("three", 3), ("four", 4), ("all", i64::MAX), ("last", -1)] {
        m.int64s(name, &[v]);
    }
    m.int64s("first_of_all", &[-i64::MAX]);
    m.node("Slice", &["first_bn", "zero", "all", "two", "two"], "rows", vec![]);
    m.node("Slice", &["rows", "zero", "all", "three", "two"], "every", vec![]);
    m.int64s("wanted", &[0, 0, 0, 0, 1, 2]);
    m.node("Shape", &["wanted"], "wanted_shape", vec![]);
    m.node("Gather", &["wanted_shape", "zero"], "given", vec![int("axis", 0)]);
    m.node("Mul", &["four", "two"], "both_ends", vec![]);
    m.node("Sub", &["both_ends", "given"], "rest", vec![]);
    let zero =
        TensorProto { dims: vec![1], data_type: DataType::Int64 as i32, raw_data: vec![0; 8], ..Default::default() };
    let zero = AttributeProto { name: "value".into(), t: Some(zero), r#type: 4, ..Default::default() };
    m.node("ConstantOfShape", &["rest"], "zeros", vec![zero]);
    m.node("Concat", &["wanted", "zeros"], "long", vec![int("axis", 0)]);
    m.int64s("pairs", &[-1, 2]);
    m.node("Reshape", &["long", "pairs"], "table", vec![]);
    m.node("Slice", &["table", "last", "first_of_all", "zero", "last"], "reversed", vec![]);
    m.node("Transpose", &["reversed"], "turned", vec![ints("perm", &[1, 0])]);
    m.node("Reshape", &["turned", "last"], "list", vec![]);
    m.node("Cast", &["list"], "pads", vec![int("to", 7)]);
    m.node("Pad", &["every", "pads"], "shortcut", vec![text("mode", "constant")]);
    m.node("GlobalAveragePool", &["shortcut"], "mean", vec![]);
    m.node("Shape", &["mean"], "mean_shape", vec![]);
    m.node("Gather", &["mean_shape", "zero"], "batch", vec![]);
    m.node("Concat", &["batch", "last"], "row_shape", vec![int("axis", 0)]);
    m.node("Reshape", &["mean", "row_shape"], "row", vec![]);
    m.gemm("row", [10, 7]);
    m
}
