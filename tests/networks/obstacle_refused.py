"""Files that must be refused: operators that are not supported, data outside the folder, and broken files."""
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from obstacle_files import outside, residual
from obstacle_model import refused

f = np.float32

# Weights in another file.
for name, how in {"missing_file": dict(location="nowhere.bin", size=0), "past_its_end": dict(size=100), "above_its_folder": dict(location="../above.bin"),
                  "absolute": dict(location="/etc/hostname"), "wrong_length": dict(length=12), "negative_offset": dict(offset=-1000),
                  "huge_length": dict(length=1 << 62)}.items():
    @refused(f"external_data_{name}", "", broken=True)
    def _(m, x, how=how):
        outside(m, **how)
        return residual(m, x)

# What must be refused.
def with_input(m, name, kind, shape):
    def spoil(model):
        model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    m.spoil = spoil
@refused("two_inputs", "inputs")
def _(m):
    y = m.head(m.block(m.stem(), 8))
    with_input(m, "extra", TensorProto.FLOAT, ["n", 10])
    m.outputs = [y]
    def spoil(model, before=m.spoil):
        before(model)
        model.graph.node.append(helper.make_node("Add", [y, "extra"], ["sum"]))
        model.graph.output[0].name = "sum"
    m.spoil = spoil
def dims(m, build):
    def spoil(model):
        dims = model.graph.input[0].type.tensor_type.shape.dim
        del dims[len(build):]
        for d, v in zip(dims, build):
            d.Clear()
            if isinstance(v, str):
                d.dim_param = v
            elif v is not None:
                d.dim_value = v
    m.spoil = spoil
for name, shape, word in [("height_and_width", ["n", 3, "h", "w"], "height"), ("channels", ["n", "c", 8, 8], "channels"), ("rank_3", ["n", 3, 8], "3 dimensions"),
                          ("zero_height", ["n", 3, 0, 8], "height"), ("absurd", ["n", 3, 1 << 40, 1 << 40], "height")]:
    @refused(f"input_of_{name}", word, broken=True)
    def _(m, x, shape=shape):
        dims(m, shape)
        return x
for name, kind in {"half": TensorProto.FLOAT16, "bytes": TensorProto.UINT8, "integers": TensorProto.INT64}.items():
    @refused(f"input_of_type_{name}", "type", broken=True)
    def _(m, x, kind=kind):
        def spoil(model):
            model.graph.input[0].type.tensor_type.elem_type = kind
        m.spoil = spoil
        return x
@refused("conv_of_one_dimension", "dimension", head=None)
def _(m, x):
    y = m.op("Reshape", x, np.int64([-1, 8, 64]))
    y = m.op("Conv", y, m.weight(8, 8, 3), pads=[1, 1])
    return m.op("ReduceMean", y, axes=[2], keepdims=0)
@refused("conv_of_three_dimensions", "conv", head=None)
def _(m, x):
    y = m.op("Conv", m.op("Unsqueeze", x, np.int64([2])), m.weight(8, 8, 1, 3, 3), pads=[0, 1, 1] * 2)
    return m.op("ReduceMean", y, axes=[2, 3, 4], keepdims=0)
@refused("lstm", "lstm", head=None)
def _(m, x):
    y = m.op("Transpose", m.op("Reshape", x, np.int64([-1, 8, 64])), perm=[2, 0, 1])
    outputs = m.op("LSTM", y, m.weight(1, 48, 8), m.weight(1, 48, 12), hidden_size=12, outputs=2)
    return m.op("Squeeze", outputs[1], np.int64([0]))
@refused("attention", "matmul", head=None)
def _(m, x):
    q = m.op("Reshape", x, np.int64([0, 8, -1]))
    a = m.op("Softmax", m.op("MatMul", q, m.op("Transpose", q, perm=[0, 2, 1])), axis=-1)
    return m.op("ReduceMean", m.op("MatMul", a, q), axes=[2], keepdims=0)
@refused("layer_norm_by_parts", "reducemean")
def _(m, x):
    y = m.op("Sub", x, m.op("ReduceMean", x, axes=[1], keepdims=1))
    return m.op("Div", y, m.op("Sqrt", m.op("Add", m.op("ReduceMean", m.op("Mul", y, y), axes=[1], keepdims=1), f(1e-5))))
@refused("quantized_already", "quantized already")
def _(m, x):
    y = m.op("QuantizeLinear", x, f(0.1), np.uint8(0))
    return m.op("DequantizeLinear", y, f(0.1), np.uint8(0))
@refused("operator_of_another_domain", "fancyrelu", broken=True, head="pooled")
def _(m, x):
    m.domains.append(("com.example", 1))
    y = m.op("FancyRelu", x, domain="com.example")
    m.spoil = lambda model: None
    return y
@refused("top_k_inside", "topk", head=None)
def _(m, x):
    y = m.head(m.block(x, 8))
    return m.op("TopK", y, np.int64([5]), outputs=2)[0]
@refused("loop_or_condition", "if", broken=True, head="pooled")
def _(m, x):
    branch = helper.make_graph([helper.make_node("Relu", [x], ["inner"])], "b", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)])
    go = m.op("Greater", m.op("ReduceMax", x), f(0))
    return m.op("If", go, then_branch=branch, else_branch=branch)
@refused("three_unknown_operators_at_once", "sin, floor, round", head="pooled")
def _(m, x):
    return m.op("Round", m.op("Sin", m.op("Floor", x)))

# Broken files: an error, no panic, no large allocation.
def broken(name, word=""):
    return refused(f"broken_{name}", word, broken=True, head="head")
def spoiled(name, word, change):
    @broken(name, word)
    def _(m, x):
        m.spoil = change
        return x
def first(model, op):
    return next(n for n in model.graph.node if n.op_type == op)
def cycle(model):
    first(model, "Relu").input[0] = first(model, "GlobalAveragePool").output[0]
def scaled(model, index, change):
    t = model.graph.initializer[index]
    t.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(t)), t.name))
def attribute(model, op, name, value):
    node = first(model, op)
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept + [helper.make_attribute(name, value)])
spoiled("cycle", "", cycle)
spoiled("node_reads_itself", "", lambda model: first(model, "Relu").input.__setitem__(0, first(model, "Relu").output[0]))
spoiled("missing_value", "", lambda model: first(model, "Relu").input.__setitem__(0, "nowhere"))
spoiled("missing_output", "", lambda model: model.graph.output[0].__setattr__("name", "nowhere"))
spoiled("no_output", "output", lambda model: model.graph.ClearField("output"))
spoiled("no_input", "input", lambda model: model.graph.ClearField("input"))
spoiled("no_nodes", "", lambda model: model.graph.ClearField("node"))
spoiled("two_nodes_write_one_value", "", lambda model: first(model, "BatchNormalization").output.__setitem__(0, first(model, "Conv").output[0]))
spoiled("weight_of_wrong_channels", "channels", lambda model: scaled(model, 0, lambda w: w[:, :2]))
spoiled("weight_of_no_filters", "", lambda model: scaled(model, 0, lambda w: w[:0]))
spoiled("weight_is_cut", "", lambda model: model.graph.initializer[0].__setattr__("raw_data", model.graph.initializer[0].raw_data[:-4]))
spoiled("weight_of_integers", "", lambda model: scaled(model, 0, lambda w: w.astype(np.int64)))
spoiled("weight_of_absurd_shape", "", lambda model: model.graph.initializer[0].dims.__setitem__(0, 1 << 60))
spoiled("weight_of_negative_shape", "", lambda model: model.graph.initializer[0].dims.__setitem__(0, -8))
spoiled("norm_of_wrong_length", "", lambda model: scaled(model, 1, lambda w: w[:-1]))
spoiled("negative_variance", "varia", lambda model: scaled(model, 4, lambda w: -w))
spoiled("stride_zero", "strides", lambda model: attribute(model, "Conv", "strides", [0, 1]))
spoiled("stride_negative", "strides", lambda model: attribute(model, "Conv", "strides", [-1, 1]))
spoiled("dilation_absurd", "", lambda model: attribute(model, "Conv", "dilations", [1 << 40, 1]))
spoiled("pads_absurd", "pads", lambda model: attribute(model, "Conv", "pads", [1 << 40] * 4))
spoiled("pads_of_three", "pads", lambda model: attribute(model, "Conv", "pads", [1, 1, 1]))
spoiled("groups_zero", "group", lambda model: attribute(model, "Conv", "group", 0))
spoiled("groups_that_do_not_divide", "group", lambda model: attribute(model, "Conv", "group", 5))
spoiled("attribute_of_wrong_type", "", lambda model: attribute(model, "Conv", "strides", "two"))
spoiled("opset_of_the_future", "operator set", lambda model: model.opset_import[0].__setattr__("version", 999))
spoiled("opset_1", "operator set", lambda model: model.opset_import[0].__setattr__("version", 1))
spoiled("no_opset", "operator set", lambda model: model.ClearField("opset_import"))
for name, shape in {"huge": [1 << 40], "huge_product": [1 << 20, 1 << 20, 1 << 20], "negative": [-5]}.items():
    @broken(f"constant_of_shape_{name}")
    def _(m, x, shape=shape):
        filled = helper.make_node("ConstantOfShape", [m.constant(np.int64(shape))], ["filled"])
        def spoil(model):
            model.graph.node.insert(0, filled)
            first(model, "Conv").input[1] = "filled"
        m.spoil = spoil
        return x
@broken("expand_huge")
def _(m, x):
    expand = helper.make_node("Expand", [m.constant(f(1)), m.constant(np.int64([1 << 20, 1 << 20, 3, 3]))], ["expanded"])
    def spoil(model):
        model.graph.node.insert(0, expand)
        first(model, "Conv").input[1] = "expanded"
    m.spoil = spoil
    return x
@broken("resize_to_absurd_size")
def _(m, x):
    sizes = m.constant(f([1, 1, 1e6, 1e6]))
    def spoil(model):
        at = [n.op_type for n in model.graph.node].index("Relu") + 1
        model.graph.node.insert(at, helper.make_node("Resize", [x, "", sizes], ["large"], mode="nearest"))
        first(model, "GlobalAveragePool").input[0] = "large"
    m.spoil = spoil
    return x
for name, change in {"truncated": lambda d: d[: len(d) // 2], "of_zeros": lambda d: bytes(len(d)), "empty": lambda d: b"", "text": lambda d: b"not a model\n" * 50,
                     "first_byte": lambda d: b"\xff" + d[1:]}.items():
    @broken(f"file_{name}")
    def _(m, x, change=change):
        m.bytes = change
        return x
