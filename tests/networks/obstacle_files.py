"""Obstacles of the file: operator sets, types, layouts, where constants lie, what is computed from constants, bad files."""
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from obstacle_model import case, refused

f = np.float32
HALF = {"half": TensorProto.FLOAT16, "bfloat": TensorProto.BFLOAT16, "double": TensorProto.DOUBLE}

def residual(m, x):
    """Stride, padding, depthwise, pooling, a sum: a small network of the usual kind."""
    y = m.block(m.block(x, 8, strides=[2, 2]), 8, groups=8)
    return m.op("Relu", m.op("Add", m.norm(m.conv(y, 8, 1)), m.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)))

# Operator sets, batches, sizes.
for opset in (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24):
    @case(f"opset_{opset}", opset=opset, ir=3 if opset < 9 else 10)
    def _(m, x):
        if m.ir == 3:
            m.listed = True
        return residual(m, x)
@case("opset_24_swish", opset=24, may_refuse="swish")
def _(m, x):
    return m.op("Swish", m.norm(m.conv(x, 8), wide=3.0))
for batch in (1, 2, 4):
    @case(f"batch_{batch}", batch=batch, head=None)
    def _(m, x):
        return m.linear(m.op("Reshape", m.op("GlobalAveragePool", residual(m, x)), np.int64([m.batch, 8])))
for c, h, w in [(1, 8, 8), (4, 7, 13), (3, 1, 16), (2, 16, 5)]:
    @case(f"images_{c}_{h}_{w}", size=(c, h, w))
    def _(m, x):
        return residual(m, x)
@case("named_domain_and_unused_one")
def _(m, x):
    m.domains = [("ai.onnx", 17), ("ai.onnx.ml", 3), ("com.example", 1)]
    return x
@case("no_ir_features", ir=8)
def _(m, x):
    def spoil(model):
        for node in model.graph.node:
            node.ClearField("name")
        model.graph.ClearField("name")
        model.graph.name = "g"
    m.spoil = spoil
    return residual(m, x)
@case("names_of_all_kinds")
def _(m, x):
    y = residual(m, x)
    def spoil(model):
        texts = ["", "a b", "x/y:0", "Conv", "..", "größe", "a" * 300, "0", "a.weight", "input.1"]
        for i, node in enumerate(model.graph.node):
            node.name = texts[i % len(texts)] and f"{texts[i % len(texts)]}{i // len(texts) or ''}"
        renamed = {t.name: f"{texts[i % len(texts)]}#{i}" for i, t in enumerate(model.graph.initializer)}
        renamed |= {n.output[0]: f"model/{i}::{texts[i % len(texts)]}" for i, n in enumerate(model.graph.node[:-1])}
        for t in model.graph.initializer:
            t.name = renamed[t.name]
        for node in model.graph.node:
            node.input[:] = [renamed.get(v, v) for v in node.input]
            node.output[:] = [renamed.get(v, v) for v in node.output]
    m.spoil = spoil
    return y
@case("numbers_as_names")
def _(m, x):
    y = residual(m, x)
    def spoil(model):
        names = {v: str(i) for i, v in enumerate([t.name for t in model.graph.initializer] + [n.output[0] for n in model.graph.node[:-1]])}
        for t in model.graph.initializer:
            t.name = names[t.name]
        for node in model.graph.node:
            node.input[:] = [names.get(v, v) for v in node.input]
            node.output[:] = [names.get(v, v) for v in node.output]
            node.ClearField("name")
    m.spoil = spoil
    return y

# Where constants lie, and of what type.
def retyped(model, kind):
    """Stores every f32 constant as `kind`, with a Cast to f32 behind it."""
    casts = []
    for t in model.graph.initializer:
        if t.data_type == TensorProto.FLOAT:
            stored = helper.make_tensor(t.name + "_stored", kind, t.dims, numpy_helper.to_array(t).ravel().tolist())
            casts.append(helper.make_node("Cast", [t.name + "_stored"], [t.name], to=TensorProto.FLOAT))
            t.CopyFrom(stored)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
for name, kind in HALF.items():
    @case(f"constants_of_type_{name}")
    def _(m, x, kind=kind):
        m.spoil = lambda model: retyped(model, kind)
        return residual(m, x)
@case("constants_as_lists")
def _(m, x):
    def spoil(model):
        for t in model.graph.initializer:
            if t.data_type == TensorProto.FLOAT:
                t.CopyFrom(helper.make_tensor(t.name, t.data_type, t.dims, numpy_helper.to_array(t).ravel().tolist()))
    m.spoil = spoil
    return residual(m, x)
@case("constants_as_nodes")
def _(m, x):
    def spoil(model):
        made = [helper.make_node("Constant", [], [t.name], value=t) for t in model.graph.initializer]
        nodes = list(model.graph.node)
        del model.graph.initializer[:], model.graph.node[:]
        model.graph.node.extend(made + nodes)
    m.spoil = spoil
    return residual(m, x)
@case("constants_as_numbers")
def _(m, x):
    one = m.op("Constant", value_float=0.5)
    row = m.op("Constant", value_floats=[float(v) for v in m.uniform(-1, 1, 8)])
    shape = m.op("Constant", value_ints=[1, 8, 1, 1])
    axis = m.op("Constant", value_int=1)
    y = m.op("Add", m.op("Mul", x, one), m.op("Reshape", row, shape))
    y = m.op("Concat", y, m.op("Gather", x, m.op("Unsqueeze", axis, np.int64([0])), axis=1), axis=1)
    return y
@case("constants_listed_as_inputs", ir=3, opset=9)
def _(m, x):
    m.listed = True
    return residual(m, x)
@case("constants_unused_and_dead_branches")
def _(m, x):
    m.constant(m.uniform(-1, 1, 5, 5), "unused")
    m.op("Softplus", m.op("ReduceSum", x, np.int64([1])))
    m.op("Shape", m.op("Transpose", x, perm=[3, 1, 0, 2]))
    return residual(m, x)
@case("constant_of_two_layers", opset=13)
def _(m, x):
    w = m.constant(m.weight(8, 8, 3, 3))
    y = m.op("Relu", m.norm(m.op("Conv", x, w, pads=[1] * 4)))
    return m.op("Relu", m.norm(m.op("Conv", y, w, pads=[1] * 4)))
@case("norm_of_two_layers")
def _(m, x):
    parts = [m.constant(v) for v in (m.uniform(0.5, 1.5, 8), m.uniform(-0.5, 0.5, 8), m.uniform(0, 1, 8), m.uniform(0.5, 1.5, 8))]
    for _ in range(2):
        x = m.op("Relu", m.op("BatchNormalization", m.conv(x, 8), *parts))
    return x
@case("nodes_out_of_order", broken=True, may_refuse="order")
def _(m, x):
    def finish(model):
        nodes = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend(nodes[::-1])
    m.finish = finish
    return residual(m, x)

# Values computed from constants, as exporters leave them.
@case("dynamo_bias_of_zeros", opset=20)
def _(m, x):
    w = m.constant(m.weight(8, 8, 3, 3))
    zero = m.op("CastLike", f(0), x)
    bias = m.op("Expand", zero, m.op("Expand", m.op("Shape", w, start=0, end=1), np.int64([1])))
    return m.op("Relu", m.norm(m.op("Conv", x, w, bias, pads=[1] * 4)))
@case("dynamo_bias_of_ones", opset=20)
def _(m, x):
    w = m.constant(m.weight(8, 8, 1, 1))
    bias = m.op("Expand", m.op("CastLike", np.float64(0.5).astype(np.float64), x), m.op("Shape", w, start=-4, end=-3))
    return m.op("Relu", m.norm(m.op("Conv", x, w, bias)))
@case("weight_transposed")
def _(m, x):
    w = m.op("Transpose", m.weight(3, 3, 8, 6), perm=[3, 2, 0, 1])
    return m.op("Relu", m.norm(m.op("Conv", x, w, pads=[1] * 4)))
@case("weight_reshaped_and_depthwise")
def _(m, x):
    w = m.op("Reshape", m.op("Transpose", m.weight(3, 3, 8, 1), perm=[2, 3, 0, 1]), np.int64([8, 1, 3, 3]))
    return m.op("Relu", m.norm(m.op("Conv", x, w, pads=[1] * 4, group=8)))
@case("weight_by_identity_and_cast")
def _(m, x):
    w = m.op("Cast", m.op("Identity", m.op("Cast", m.weight(8, 8, 1, 1), to=TensorProto.DOUBLE)), to=TensorProto.FLOAT)
    return m.op("Relu", m.norm(m.op("Conv", x, w)))
@case("weight_of_equal_numbers", opset=9)
def _(m, x):
    fill = lambda shape, v: m.op("ConstantOfShape", np.int64(shape), value=helper.make_tensor("v", TensorProto.FLOAT, [1], [v]))
    y = m.op("Conv", x, fill([8, 1, 3, 3], 0.25), fill([8], -0.5), group=8, pads=[1] * 4)
    return m.norm(m.op("BatchNormalization", y, fill([8], 1.5), fill([8], 0.25), fill([8], 0.125), fill([8], 2.0)))
@case("weight_concatenated", may_refuse="concat")
def _(m, x):
    w = m.op("Concat", m.weight(3, 8, 3, 3), m.weight(5, 8, 3, 3), axis=0)
    return m.op("Relu", m.norm(m.op("Conv", x, w, pads=[1] * 4)))
@case("weight_scaled", may_refuse="mul")
def _(m, x):
    w = m.op("Mul", m.weight(8, 8, 3, 3), m.uniform(0.5, 1.5, 8, 1, 1, 1))
    return m.op("Relu", m.norm(m.op("Conv", x, w, pads=[1] * 4)))
@case("same_padding_computed", opset=17)
def _(m, x):
    """TensorFlow's SAME as traced code has it: sizes of the map, divided, rounded up, clipped."""
    ends = []
    for axis in (2, 3):
        size = m.op("Cast", m.op("Gather", m.op("Shape", x), np.int64(axis)), to=TensorProto.FLOAT)
        out = m.op("Ceil", m.op("Div", size, f(2)))
        need = m.op("Sub", m.op("Add", m.op("Mul", m.op("Sub", out, f(1)), f(2)), f(3)), size)
        need = m.op("Cast", m.op("Clip", need, f(0)), to=TensorProto.INT64)
        before = m.op("Div", need, np.int64(2))
        ends.append((before, m.op("Sub", need, before)))
    one = lambda v: m.op("Unsqueeze", v, np.int64([0]))
    pads = m.op("Concat", np.int64([0, 0]), one(ends[0][0]), one(ends[1][0]), np.int64([0, 0]), one(ends[0][1]), one(ends[1][1]), axis=0)
    return m.block(m.op("Pad", x, pads), 8, 3, pads=[0] * 4, strides=[2, 2])
@case("pads_of_torch_script")
def _(m, x):
    """F.pad as the tracing exporter writes it: a list filled with zeros, reversed in rows of two, transposed, flattened."""
    zeros = m.op("ConstantOfShape", np.int64([4]), value=helper.make_tensor("v", TensorProto.INT64, [1], [0]))
    pairs = m.op("Reshape", m.op("Concat", np.int64([1, 2, 0, 1]), zeros, axis=0), np.int64([-1, 2]))
    flipped = m.op("Slice", pairs, np.int64([-1]), np.int64([np.iinfo(np.int64).min]), np.int64([0]), np.int64([-1]))
    pads = m.op("Cast", m.op("Reshape", m.op("Transpose", flipped, perm=[1, 0]), np.int64([-1])), to=TensorProto.INT64)
    return m.block(m.op("Pad", x, pads, f(0), mode="constant"), 8, 3, pads=[0] * 4)
@case("shape_by_where_equal_range", may_refuse="")
def _(m, x):
    size = m.op("Where", m.op("Equal", np.int64([0, -1]), np.int64([0, 0])), np.int64([-1, -1]), np.int64([0, 8]))
    return m.op("Reshape", m.op("Mul", x, f(1)), m.op("Concat", size, np.int64([8, 8]), axis=0))
@case("sizes_of_resize_computed")
def _(m, x):
    small = m.op("MaxPool", m.block(x, 8), kernel_shape=[2, 2], strides=[2, 2])
    sizes = m.op("Concat", m.op("Shape", small, start=0, end=2), m.op("Shape", x, start=2), axis=0)
    up = m.op("Resize", small, "", "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return m.op("Add", up, x)

# Shapes: ways to one row per image.
def rows(m, x):
    return m.op("GlobalAveragePool", m.block(x, 8))
ROWS = {
    "flatten": lambda m, y: m.op("Flatten", y), "flatten_minus_3": lambda m, y: m.op("Flatten", y, axis=-3),
    "reshape_0_minus_1": lambda m, y: m.op("Reshape", y, np.int64([0, -1])), "reshape_minus_1_c": lambda m, y: m.op("Reshape", y, np.int64([-1, 8])),
    "squeeze_axes": lambda m, y: m.op("Squeeze", y, np.int64([2, 3])), "squeeze_negative": lambda m, y: m.op("Squeeze", y, np.int64([-1, -2])),
    "squeeze_twice": lambda m, y: m.op("Squeeze", m.op("Squeeze", y, np.int64([3])), np.int64([2])),
    "squeeze_all": lambda m, y: m.op("Squeeze", y), "there_and_back": lambda m, y: m.op("Flatten", m.op("Unsqueeze", m.op("Flatten", y), np.int64([2, 3]))),
    "allowzero": lambda m, y: m.op("Reshape", y, np.int64([-1, 8]), allowzero=1), "transposed": lambda m, y: m.op("Reshape", m.op("Transpose", y, perm=[0, 2, 3, 1]), np.int64([-1, 8])),
    "shape_gather": lambda m, y: m.op("Reshape", y, m.op("Concat", m.op("Unsqueeze", m.op("Gather", m.op("Shape", y), np.int64(0)), np.int64([0])), np.int64([-1]), axis=0)),
    "shape_slice": lambda m, y: m.op("Reshape", y, m.op("Concat", m.op("Slice", m.op("Shape", y), np.int64([0]), np.int64([1]), np.int64([0])), np.int64([8]), axis=0)),
    "shape_start_end": lambda m, y: m.op("Reshape", y, m.op("Concat", m.op("Shape", y, start=0, end=1), np.int64([-1]), axis=0)),
}
for name, build in ROWS.items():
    @case(f"rows_by_{name}", head=None)
    def _(m, x, build=build):
        return m.linear(build(m, rows(m, x)))
for name, build in {
    "flatten": lambda m, y: m.op("Flatten", y), "view": lambda m, y: m.op("Reshape", y, np.int64([-1, 8 * 4 * 4])),
    "channels_last": lambda m, y: m.op("Reshape", m.op("Transpose", y, perm=[0, 2, 3, 1]), np.int64([0, -1])),
    "in_two_steps": lambda m, y: m.op("Reshape", m.op("Reshape", y, np.int64([0, 8, -1])), np.int64([0, -1])),
}.items():
    @case(f"map_as_row_by_{name}", head=None)
    def _(m, x, build=build):
        return m.linear(build(m, m.op("MaxPool", m.block(x, 8), kernel_shape=[2, 2], strides=[2, 2])))
@case("mean_of_flattened_pixels", head=None)
def _(m, x):
    return m.linear(m.op("ReduceMean", m.op("Reshape", m.block(x, 8), np.int64([0, 8, -1])), axes=[2], keepdims=0))
@case("squeeze_attributes", opset=11, head=None)
def _(m, x):
    return m.linear(m.op("Squeeze", m.op("Unsqueeze", m.op("Squeeze", rows(m, x), axes=[2, 3]), axes=[2]), axes=[2]))
@case("identities_and_dropouts", opset=13)
def _(m, x):
    x = m.op("Identity", m.op("Dropout", m.op("Identity", x), f(0.5), np.bool_(False)))
    return m.op("Cast", m.op("Dropout", m.op("Relu", x)), to=TensorProto.FLOAT)
@case("dropout_opset_7", opset=7)
def _(m, x):
    return m.op("Dropout", x, ratio=0.25)
@case("identity_is_the_output", head=None)
def _(m, x):
    return m.op("Identity", m.op("Identity", m.head(m.block(x, 8))))

# The last layers.
def gemm(m, x, w, *bias, **how):
    return m.op("Gemm", m.pooled(m.block(x, 8)), w, *bias, **how)
LAST = {
    "alpha_beta": lambda m, x: gemm(m, x, m.weight(10, 8), m.uniform(-1, 1, 10), transB=1, alpha=3.0, beta=0.5),
    "untransposed": lambda m, x: gemm(m, x, m.weight(8, 10), m.uniform(-1, 1, 10)),
    "without_bias": lambda m, x: gemm(m, x, m.weight(10, 8), transB=1), "bias_row": lambda m, x: gemm(m, x, m.weight(8, 10), m.uniform(-1, 1, 1, 10), transB=0),
    "bias_number": lambda m, x: gemm(m, x, m.weight(10, 8), f([0.5]), transB=1), "beta_zero": lambda m, x: gemm(m, x, m.weight(10, 8), m.uniform(-1, 1, 10), transB=1, beta=0.0),
    "bias_scalar": lambda m, x: gemm(m, x, m.weight(10, 8), f(0.25), transB=1, alpha=2.0),
    "transposed_constant": lambda m, x: gemm(m, x, m.op("Transpose", m.weight(10, 8), perm=[1, 0]), m.uniform(-1, 1, 10)),
    "matmul": lambda m, x: m.op("MatMul", m.pooled(m.block(x, 8)), m.weight(8, 10)),
    "matmul_transpose": lambda m, x: m.op("MatMul", m.pooled(m.block(x, 8)), m.op("Transpose", m.weight(10, 8))),
    "matmul_add": lambda m, x: m.op("Add", m.op("MatMul", m.pooled(m.block(x, 8)), m.weight(8, 10)), m.uniform(-1, 1, 10)),
    "matmul_add_left": lambda m, x: m.op("Add", m.uniform(-1, 1, 1, 10), m.op("MatMul", m.pooled(m.block(x, 8)), m.weight(8, 10))),
    "softmax": lambda m, x: m.op("Softmax", m.head(m.block(x, 8)), axis=-1), "softmax_axis_1": lambda m, x: m.op("Softmax", m.head(m.block(x, 8)), axis=1),
    "logsoftmax": lambda m, x: m.op("LogSoftmax", m.head(m.block(x, 8))), "softmax_identity": lambda m, x: m.op("Identity", m.op("Softmax", m.op("Identity", m.head(m.block(x, 8))))),
}
for name, build in LAST.items():
    @case(f"last_{name}", head=None)
    def _(m, x, build=build):
        return build(m, x)
@case("last_softmax_of_a_map", head=None, opset=9)
def _(m, x):
    y = m.op("Softmax", m.op("GlobalAveragePool", m.op("Relu", m.conv(m.block(x, 8), 10, 1, bias=True))))
    m.ranks = {y: 4}
    return y
@case("last_two_hidden_layers", head=None)
def _(m, x):
    x = m.op("Flatten", m.op("MaxPool", m.block(x, 8), kernel_shape=[4, 4], strides=[4, 4]))
    return m.linear(m.op("Dropout", m.op("Relu", m.linear(m.op("Dropout", m.op("Relu", m.linear(x, 24))), 12))))
@case("output_beside_features")
def _(m):
    x = m.block(m.stem(), 8)
    pooled = m.op("GlobalAveragePool", x)
    y = m.linear(m.op("Flatten", pooled))
    m.ranks = {pooled: 4}
    m.outputs = [y, pooled]
@case("output_after_features")
def _(m):
    x = m.block(m.stem(), 8)
    y = m.head(x)
    m.ranks, m.logits = {x: 4}, y
    m.outputs = [x, y]
@refused("two_outputs_of_rank_2", "output")
def _(m):
    x = m.stem()
    m.outputs = [m.head(x), m.linear(m.pooled(m.block(x, 8)), 12)]

# Channels last, as converters from Keras write it.
def nchw(m, x):
    return m.op("Transpose", x, perm=[0, 3, 1, 2])
def nhwc(m, x):
    return m.op("Transpose", x, perm=[0, 2, 3, 1])
@case("keras_whole", layout="nhwc")
def _(m):
    x = m.op("Relu", m.norm(m.conv(nchw(m, "x"), 8, bias=True, auto_pad="SAME_UPPER", strides=[2, 2])))
    x = m.op("ReduceMean", nhwc(m, m.block(x, 8)), axes=[1, 2], keepdims=0)
    y = m.op("MatMul", x, m.weight(8, 10) * f(2))
    m.outputs = [m.op("Softmax", m.op("Add", y, m.uniform(-1, 1, 10)), axis=-1)]
@case("keras_transposes_around_every_layer", layout="nhwc")
def _(m):
    x = "x"
    for k in (8, 6, 8):
        x = nhwc(m, m.conv(nchw(m, x), k, bias=True))
        x = m.op("Relu", nhwc(m, m.norm(nchw(m, x))))
    m.outputs = [m.head(nchw(m, m.op("Concat", x, x, axis=3)))]
@case("keras_preprocessing_and_bias", layout="nhwc")
def _(m):
    x = m.op("Sub", m.op("Mul", "x", f(1 / 2)), m.uniform(-0.5, 0.5, 3))
    x = nhwc(m, m.conv(nchw(m, x), 8))
    x = m.op("Add", x, m.uniform(-0.5, 0.5, 1, 1, 1, 8))
    x = m.op("Mul", m.op("Clip", x, f(0), f(6)), m.uniform(0.5, 1.5, 8))
    m.outputs = [m.head(nchw(m, x))]
@case("keras_pad_split_and_gate", layout="nhwc")
def _(m):
    x = nhwc(m, m.block(nchw(m, "x"), 8))
    x = m.op("Pad", x, np.int64([0, 0, 0, 0, 0, 1, 1, 0]))
    a, b = m.op("Split", x, np.int64([4, 4]), axis=3, outputs=2)
    x = m.op("Concat", b, a, axis=-1)
    g = m.op("ReduceMean", x, axes=[1, 2], keepdims=1)
    g = m.op("Sigmoid", nhwc(m, m.conv(nchw(m, g), 8, 1, bias=True)))
    m.outputs = [m.head(m.block(nchw(m, m.op("Mul", x, g)), 8))]
@case("keras_flatten_keeps_its_order", layout="nhwc")
def _(m):
    x = nhwc(m, m.op("MaxPool", m.block(nchw(m, "x"), 8), kernel_shape=[4, 4], strides=[4, 4]))
    m.outputs = [m.linear(m.op("Reshape", x, np.int64([-1, 32])))]
@case("keras_global_max_and_squeeze", layout="nhwc")
def _(m):
    x = nhwc(m, m.block(nchw(m, "x"), 8))
    m.outputs = [m.linear(m.op("Squeeze", m.op("ReduceMax", x, axes=[1, 2], keepdims=1), np.int64([1, 2])))]

# The images' own normalization.
NORMALIZED = {
    "sub_div": lambda m: m.op("Div", m.op("Sub", "x", m.uniform(-0.5, 0.5, 1, 3, 1, 1)), m.uniform(0.5, 1.5, 1, 3, 1, 1)),
    "mul_add": lambda m: m.op("Add", m.op("Mul", "x", m.uniform(0.5, 1.5, 3, 1, 1)), m.uniform(-0.5, 0.5, 3, 1, 1)),
    "scale_first": lambda m: m.op("Div", m.op("Sub", m.op("Div", "x", f(2)), m.uniform(-0.5, 0.5, 3, 1, 1)), m.uniform(0.5, 1.5, 3, 1, 1)),
    "minus_one": lambda m: m.op("Sub", m.op("Mul", f(2), "x"), f(1)), "norm": lambda m: m.norm("x"),
    "left": lambda m: m.op("Sub", f(1), "x"), "conv_1x1": lambda m: m.conv("x", 3, 1, bias=True, groups=3),
}
for name, build in NORMALIZED.items():
    for pads in (1, 0):
        @case(f"normalized_by_{name}_pads_{pads}")
        def _(m, build=build, pads=pads):
            return m.layered_head(m.block(build(m), 8, 3, pads=[pads] * 4))

# Weights in another file.
def outside(m, location=None, offset=0, length=None, size=None, names=("weight",)):
    """Moves the weights of convolutions to `m.name`.bin, one after the other."""
    def finish(model):
        blob = bytearray(b"\x7f" * 8)
        for t in model.graph.initializer:
            if any(t.name.endswith(n) for n in names):
                data = numpy_helper.to_array(t).astype("<f4").tobytes()
                t.ClearField("raw_data")
                t.data_location = TensorProto.EXTERNAL
                for k, v in [("location", location or f"{m.name}.bin"), ("offset", len(blob) + offset), ("length", length or len(data))]:
                    t.external_data.add(key=k, value=str(v))
                blob += data
        if size != 0:
            m.files[f"{m.name}.bin"] = bytes(blob[:size])
    m.finish = finish
@case("external_data")
def _(m, x):
    outside(m)
    return residual(m, x)
@case("external_data_of_everything")
def _(m, x):
    outside(m, names=("",))
    m.opset = 9
    m.domains = [("", 9)]
    return residual(m, x)
