//! Which operators are understood, and why some are not.

use crate::tensor::onnx::NodeProto;

/// Operators of activations. Constants are evaluated by `fold` besides.
const SUPPORTED: [&str; 69] = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Celu",
    "Clip",
    "Concat",
    "ConcatFromSequence",
    "Constant",
    "ConstantOfShape",
    "Conv",
    "Div",
    "Dropout",
    "Elu",
    "Expand",
    "Flatten",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LRN",
    "LeakyRelu",
    "MatMul",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "Mish",
    "Mul",
    "Neg",
    "PRelu",
    "Pad",
    "Range",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "ScatterND",
    "Selu",
    "SequenceAt",
    "SequenceConstruct",
    "Shape",
    "Sigmoid",
    "Size",
    "Slice",
    "Softplus",
    "Split",
    "SplitToSequence",
    "Squeeze",
    "Sub",
    "Sum",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
    "Where",
    "LogSoftmax",
    "Softmax",
];

/// Whether a node's operator is ONNX's own.
pub fn own(node: &NodeProto) -> bool {
    ["", "ai.onnx"].contains(&&node.domain[..])
}

/// Whether nodes of this operator can be taken in.
pub fn known(node: &NodeProto) -> bool {
    own(node) && SUPPORTED.contains(&&node.op_type[..])
}

/// The operator with its domain, if that is not ONNX's own.
pub fn full_name(node: &NodeProto) -> String {
    if own(node) { node.op_type.clone() } else { format!("{}::{}", node.domain, node.op_type) }
}

/// All that are supported.
pub fn listed() -> String {
    SUPPORTED.join(", ")
}

/// Why an operator is not supported, where there is more to say.
pub fn reason(node: &NodeProto) -> Option<&'static str> {
    if !own(node) {
        return Some("operators of ONNX's own domain are read only");
    }
    Some(match &node.op_type[..] {
        "LayerNormalization" | "RMSNormalization" => {
            "layer norms take their statistics from each image while the network runs, so they fold into no layer and have no \
             integer form; networks like ConvNeXt stay float"
        }
        "InstanceNormalization" | "GroupNormalization" | "MeanVarianceNormalization" => {
            "its statistics come from each image while the network runs, so it folds into no layer; train with \
             BatchNormalization"
        }
        "ConvTranspose" => "it enlarges maps, which classifiers do not do; use Resize and Conv",
        "Erf" => "it is understood as a part of Gelu only: x * 0.5 * (1 + Erf(x / sqrt(2)))",
        "Attention" | "Einsum" | "MultiHeadAttention" => "attention is not what convolutional networks are made of",
        "Loop" | "If" | "Scan" => "the graph must not branch; export it with an example image of fixed size",
        "LSTM" | "GRU" | "RNN" => "recurrent layers are not supported",
        _ => return None,
    })
}
