"""Obstacles of activations, gates, arithmetic with constants, norms, and of moving channels."""
import numpy as np
from obstacle_model import case, refused

f = np.float32
SQRT2, LN = f(np.sqrt(2)), f(0.7978845608)

def wide(m, x, k=8):
    """Values of both signs, far enough from 0 that each part of an activation is reached."""
    return m.norm(m.conv(x, k), wide=3.0)

def clip(m, x, low=None, high=None):
    return m.op("Clip", x, *["" if v is None else f(v) for v in (low, high)][: 2 if high is not None else 1])

# Activations: name -> (function of the model and the wide value, options).
ONE = {
    "elu": ("Elu", {}), "elu_half": ("Elu", dict(alpha=0.5)), "selu": ("Selu", {}), "selu_other": ("Selu", dict(alpha=1.5, gamma=0.75)),
    "sigmoid": ("Sigmoid", {}), "hardsigmoid": ("HardSigmoid", {}), "hardsigmoid_sixth": ("HardSigmoid", dict(alpha=1 / 6, beta=0.5)),
    "hardsigmoid_odd": ("HardSigmoid", dict(alpha=0.3, beta=0.25)), "hardswish": ("HardSwish", {}), "softplus": ("Softplus", {}),
    "tanh": ("Tanh", {}), "leaky": ("LeakyRelu", {}), "leaky_fifth": ("LeakyRelu", dict(alpha=0.2)), "relu": ("Relu", {}),
    "celu": ("Celu", dict(alpha=2.0), "celu"), "thresholded": ("ThresholdedRelu", dict(alpha=0.5), "thresholdedrelu"),
    "softsign": ("Softsign", {}, "softsign"),
}
for name, (op, attributes, *word) in ONE.items():
    @case(f"activation_{name}", may_refuse=word[0] if word else None)
    def _(m, x, op=op, attributes=attributes):
        return m.op(op, wide(m, x), **attributes)
for name, op, opset, attributes in [("mish", "Mish", 18, {}), ("gelu", "Gelu", 20, {}), ("gelu_none", "Gelu", 20, dict(approximate="none")),
                                    ("gelu_tanh", "Gelu", 20, dict(approximate="tanh"))]:
    @case(f"activation_{name}", opset=opset)
    def _(m, x, op=op, attributes=attributes):
        return m.op(op, wide(m, x), **attributes)
for low, high in [(0, 1), (-1, 1), (0, None), (None, 6), (None, -0.5), (0, 4.5), (-2, 3), (0, 6), (0.5, 2)]:
    @case(f"clip_{low}_{high}".lower())
    def _(m, x, low=low, high=high):
        return clip(m, wide(m, x), low, high)
for opset in (7, 9):
    @case(f"clip_attributes_opset_{opset}", opset=opset)
    def _(m, x):
        return m.op("Clip", m.op("Clip", wide(m, x), min=-1.0, max=2.0), min=0.0)
@case("clip_of_nothing")
def _(m, x):
    return m.op("Clip", wide(m, x))
PARTS = {
    "hardswish_clip": lambda m, x: m.op("Mul", x, m.op("Div", clip(m, m.op("Add", x, f(3)), 0, 6), f(6))),
    "hardswish_clip_first_product": lambda m, x: m.op("Div", m.op("Mul", x, clip(m, m.op("Add", x, f(3)), 0, 6)), f(6)),
    "hardswish_sixth": lambda m, x: m.op("Mul", m.op("Mul", clip(m, m.op("Add", f(3), x), 0, 6), f(1 / 6)), x),
    "hardswish_hardsigmoid": lambda m, x: m.op("Mul", x, m.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
    "hardsigmoid_clip": lambda m, x: m.op("Div", clip(m, m.op("Add", x, f([3])), 0, 6), f([6])),
    "silu": lambda m, x: m.op("Mul", x, m.op("Sigmoid", x)),
    "silu_gate_first": lambda m, x: m.op("Mul", m.op("Sigmoid", x), x),
    "mish": lambda m, x: m.op("Mul", x, m.op("Tanh", m.op("Softplus", x))),
    "mish_gate_first": lambda m, x: m.op("Mul", m.op("Tanh", m.op("Softplus", x)), x),
    "gelu_erf": lambda m, x: m.op("Mul", m.op("Mul", x, m.op("Add", m.op("Erf", m.op("Div", x, SQRT2)), f(1))), f(0.5)),
    "gelu_erf_half_first": lambda m, x: m.op("Mul", m.op("Mul", f(0.5), x), m.op("Add", f(1), m.op("Erf", m.op("Mul", x, f(1 / SQRT2))))),
    "gelu_erf_half_last": lambda m, x: m.op("Mul", x, m.op("Mul", m.op("Add", m.op("Erf", m.op("Div", x, SQRT2)), f(1)), f(0.5))),
}
for name, build in PARTS.items():
    @case(f"parts_{name}")
    def _(m, x, build=build):
        return build(m, wide(m, x))
@case("parts_gelu_tanh", may_refuse="pow")
def _(m, x):
    x = wide(m, x)
    inner = m.op("Mul", m.op("Add", x, m.op("Mul", m.op("Pow", x, f(3)), f(0.044715))), LN)
    return m.op("Mul", m.op("Mul", x, f(0.5)), m.op("Add", m.op("Tanh", inner), f(1)))
@case("parts_silu_of_1702", may_refuse="mul")
def _(m, x):
    x = wide(m, x)
    return m.op("Mul", x, m.op("Sigmoid", m.op("Mul", x, f(1.702))))
@case("parts_relu_by_max", may_refuse="max")
def _(m, x):
    return m.op("Min", m.op("Max", wide(m, x), f(0)), f(6))
@case("parts_glu", may_refuse="sigmoid")
def _(m, x):
    a, b = m.op("Split", wide(m, x), np.int64([4, 4]), axis=1, outputs=2)
    return m.op("Mul", a, m.op("Sigmoid", b))
for name, shape in {"channels": (8, 1, 1), "one": (1,), "one_of_three": (1, 1, 1), "one_of_four": (1, 8, 1, 1)}.items():
    @case(f"prelu_{name}", opset=9 if name == "one" else 16)
    def _(m, x, shape=shape):
        return m.op("PRelu", wide(m, x), np.maximum(m.uniform(-0.25, 0.75, *shape), f(-0.25)))
@case("prelu_of_rows", head="linear")
def _(m, x):
    return m.op("PRelu", m.linear(m.pooled(x), 12), m.uniform(0, 0.5, 12))
@case("activation_of_rows", head="linear")
def _(m, x):
    x = m.op("Elu", m.linear(m.pooled(x), 12))
    return m.op("Mul", x, m.op("Sigmoid", x))
@case("two_activations_after_each_other")
def _(m, x):
    return m.op("Sigmoid", m.op("Relu", m.op("Tanh", wide(m, x))))
@case("activations_in_residual_blocks")
def _(m, x):
    for op in ("HardSwish", "Elu", "Softplus"):
        x = m.op("Add", m.op(op, m.norm(m.conv(x, 8))), x)
    return x

# Gates of squeeze and excitation: how the means are taken, what lies between, what gates, on which side.
def means(kind):
    return {
        "pool": lambda m, x: m.op("GlobalAveragePool", x),
        "mean": lambda m, x: m.op("ReduceMean", x, axes=[2, 3], keepdims=1),
        "window": lambda m, x: m.op("AveragePool", x, kernel_shape=[8, 8], strides=[8, 8]),
        "rows": lambda m, x: m.op("Flatten", m.op("GlobalAveragePool", x)),
        "mean_rows": lambda m, x: m.op("ReduceMean", x, axes=[-1, -2], keepdims=0),
        "max": lambda m, x: m.op("GlobalMaxPool", x),
    }[kind]
GATES = {
    "sigmoid": lambda m, g: m.op("Sigmoid", g), "hardsigmoid": lambda m, g: m.op("HardSigmoid", g, alpha=1 / 6, beta=0.5),
    "hardsigmoid_parts": lambda m, g: m.op("Div", clip(m, m.op("Add", g, f(3)), 0, 6), f(6)),
    "tanh": lambda m, g: m.op("Tanh", g), "none": lambda m, g: g,
}
for mean, between, gate, first in [
    ("pool", "Relu", "sigmoid", False), ("pool", "Relu", "sigmoid", True), ("mean", "Relu", "hardsigmoid", True), ("window", "Relu", "sigmoid", False),
    ("mean", "silu", "sigmoid", False), ("rows", "Relu", "sigmoid", False), ("rows", "Relu", "hardsigmoid", True), ("mean_rows", "HardSwish", "sigmoid", False),
    ("pool", None, "hardsigmoid", False), ("pool", "Relu", "hardsigmoid_parts", False), ("pool", "norm", "sigmoid", False), ("max", "Relu", "sigmoid", False),
    ("pool", "Relu", "tanh", False), ("pool", "Relu", "none", False), ("mean_rows", None, "hardsigmoid_parts", True),
]:
    @case(f"gate_{mean}_{between}_{gate}{'_first' if first else ''}".lower())
    def _(m, x, mean=mean, between=between, gate=gate, first=first):
        rows = "rows" in mean
        layer = (lambda v, k: m.linear(v, k)) if rows else (lambda v, k: m.conv(v, k, 1, bias=True))
        x = m.norm(m.conv(x, 8))
        g = layer(means(mean)(m, x), 4 if between else 8)
        if between:
            g = m.op("Mul", g, m.op("Sigmoid", g)) if between == "silu" else m.op("Relu", m.norm(g)) if between == "norm" else m.op(between, g)
            g = layer(g, 8)
        g = GATES[gate](m, g)
        if rows:
            g = m.op("Unsqueeze", g, np.int64([2, 3])) if first else m.op("Reshape", g, np.int64([-1, 8, 1, 1]))
        return m.op("Relu", m.op("Mul", g, x) if first else m.op("Mul", x, g))
@case("gate_then_residual_sum")
def _(m, x):
    y = m.norm(m.conv(x, 8))
    g = m.op("Sigmoid", m.conv(m.op("Relu", m.conv(m.op("GlobalAveragePool", y), 2, 1, bias=True)), 8, 1, bias=True))
    return m.op("Relu", m.op("Add", x, m.op("Mul", y, g)))
@case("gate_of_another_value")
def _(m, x):
    g = m.op("Sigmoid", m.conv(m.op("GlobalAveragePool", x), 6, 1, bias=True))
    return m.op("Mul", m.norm(m.conv(x, 6, 3, strides=[2, 2])), g)
@case("gate_of_a_1x1_map", size=(3, 1, 1))
def _(m, x):
    return m.op("Mul", x, m.op("Sigmoid", m.conv(m.op("GlobalAveragePool", x), 8, 1, bias=True)))
@case("gate_by_pixels", may_refuse="mul")
def _(m, x):
    return m.op("Mul", x, m.op("Sigmoid", m.conv(x, 1, 3, bias=True)))
@case("gate_added", may_refuse="add")
def _(m, x):
    return m.op("Add", x, m.conv(m.op("GlobalAveragePool", x), 8, 1, bias=True))
@case("product_of_maps")
def _(m, x):
    return m.op("Mul", m.norm(m.conv(x, 8)), m.op("Sigmoid", m.norm(m.conv(x, 8))))
@case("product_of_maps_without_activation")
def _(m, x):
    return m.op("Mul", m.norm(m.conv(x, 8)), m.norm(m.conv(x, 8)))
@case("square_by_product")
def _(m, x):
    y = m.norm(m.conv(x, 8))
    return m.op("Mul", y, y)
@case("product_of_rows", head="linear")
def _(m, x):
    x = m.pooled(x)
    return m.op("Mul", m.op("Relu", m.linear(x, 12)), m.op("Sigmoid", m.linear(x, 12)))

# A constant on either side.
SHAPES = {"scalar": (), "one": (1,), "channels": (8, 1, 1), "row": (1, 8, 1, 1), "ones": (1, 1, 1, 1)}
for op in ("Add", "Mul", "Sub", "Div"):
    for side in ("right", "left"):
        for shape in SHAPES if side == "right" or op in ("Sub", "Div") else ["scalar", "channels"]:
            @case(f"{op.lower()}_{shape}_{side}", may_refuse="divides a constant" if (op, side) == ("Div", "left") else None)
            def _(m, x, op=op, side=side, shape=SHAPES[shape]):
                c = m.uniform(0.5, 2, *shape) if op in ("Mul", "Div") else m.uniform(-1, 1, *shape)
                y = m.norm(m.conv(x, 8))
                if op == "Div" and side == "left":
                    y = m.op("Add", m.op("Relu", y), f(0.5))
                return m.op(op, y, c) if side == "right" else m.op(op, c, y)
@case("add_zero_mul_one")
def _(m, x):
    x = m.op("Div", m.op("Mul", m.op("Add", f(0), m.op("Sub", x, f(0))), f(1)), f([1]))
    return m.block(x, 8)
@case("constants_in_a_chain")
def _(m, x):
    x = m.op("Sub", m.op("Mul", m.op("Add", x, m.uniform(-1, 1, 8, 1, 1)), m.uniform(0.5, 1.5, 8, 1, 1)), f(0.25))
    return m.op("Relu", m.op("Add", m.op("Mul", f(-2), x), m.uniform(-1, 1, 8, 1, 1)))
@case("bias_of_a_conv_by_add")
def _(m, x):
    return m.op("Relu", m.norm(m.op("Add", m.conv(x, 8), m.uniform(-1, 1, 1, 8, 1, 1))))
@case("constant_and_rows", head=None)
def _(m, x):
    y = m.linear(m.op("Mul", m.op("Add", m.pooled(x), m.uniform(-1, 1, 8)), m.uniform(0.5, 1.5, 1, 8)))
    return m.op("Div", m.op("Sub", y, m.uniform(-1, 1, 10)), f(1.5))
@case("constant_per_pixel", may_refuse="add")
def _(m, x):
    return m.op("Add", x, m.uniform(-1, 1, 1, 8, 8, 8))
@case("constant_per_row", may_refuse="mul")
def _(m, x):
    return m.op("Mul", x, m.uniform(0.5, 1.5, 8, 1))
@case("negated", may_refuse="neg")
def _(m, x):
    return m.op("Relu", m.op("Neg", m.norm(m.conv(x, 8))))
for op in ("Abs", "Sqrt", "Exp"):
    @case(f"unary_{op.lower()}", may_refuse=op.lower())
    def _(m, x, op=op):
        return m.op(op, x)
@case("square_by_pow", may_refuse="pow")
def _(m, x):
    return m.op("Pow", x, f(2))
for n in (1, 2, 3, 4):
    @case(f"sum_of_{n}", opset=13 if n % 2 else 7)
    def _(m, x, n=n):
        return m.op("Relu", m.op("Sum", *[m.norm(m.conv(x, 8)) for _ in range(n)]))
@case("sum_with_itself")
def _(m, x):
    return m.op("Add", m.op("Add", x, x), m.op("Sum", x, x, x))
for op in ("Max", "Min", "Mean"):
    @case(f"{op.lower()}_of_maps", may_refuse=op.lower())
    def _(m, x, op=op):
        return m.op(op, m.norm(m.conv(x, 8)), m.norm(m.conv(x, 8)))
@case("difference_of_maps", may_refuse="sub")
def _(m, x):
    return m.op("Sub", m.norm(m.conv(x, 8)), x)
@case("zero_plus_branches")
def _(m, x):
    y = m.op("Add", m.norm(m.conv(x, 8)), f(0))
    return m.op("Relu", m.op("Add", m.op("Add", y, m.norm(m.conv(x, 8, 1))), m.norm(x)))

# Norms.
@case("norm_of_rows", head="linear")
def _(m, x):
    return m.op("Relu", m.norm(m.linear(m.pooled(x), 12)))
@case("norm_of_rows_is_last", head=None)
def _(m, x):
    return m.norm(m.linear(m.pooled(x)))
@case("norm_of_images")
def _(m):
    return m.layered_head(m.block(m.norm("x"), 8))
@case("norm_before_relu_and_conv")
def _(m, x):
    return m.conv(m.op("Relu", m.norm(m.conv(m.op("Relu", m.norm(x)), 8))), 8)
@case("norm_behind_relu")
def _(m, x):
    return m.norm(m.op("Relu", m.conv(x, 8, bias=True)))
@case("norm_behind_pool_and_concat")
def _(m, x):
    return m.norm(m.op("Concat", m.norm(m.op("MaxPool", x, kernel_shape=[2, 2])), m.conv(x, 5, 2, pads=[0] * 4), axis=1))
@case("norm_twice")
def _(m, x):
    return m.op("Relu", m.norm(m.norm(m.conv(x, 8))))
@case("norm_of_a_sum")
def _(m, x):
    return m.op("Relu", m.norm(m.op("Add", m.conv(x, 8), x)))
@case("norm_of_pooled_map", head=None)
def _(m, x):
    return m.linear(m.op("Flatten", m.op("Relu", m.norm(m.conv(m.op("GlobalAveragePool", x), 12, 1)))))
@case("norm_large_epsilon")
def _(m, x):
    return m.norm(m.conv(x, 8), epsilon=0.25)
@case("norm_opset_7", opset=7)
def _(m, x):
    return m.op("Relu", m.norm(m.conv(x, 8, groups=8), momentum=0.9))
@case("norm_three_readers")
def _(m, x):
    y = m.norm(m.conv(x, 8))
    return m.op("Sum", y, m.op("Relu", y), m.op("MaxPool", y, kernel_shape=[3, 3], pads=[1] * 4))
@case("no_norm_at_all")
def _(m):
    x = m.op("Relu", m.conv("x", 8, bias=True))
    return m.head(m.op("Relu", m.conv(m.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 8, bias=True)))
@case("caffe_scale", opset=9)
def _(m, x):
    y = m.op("Mul", m.norm(m.conv(x, 8)), m.op("Unsqueeze", m.uniform(0.5, 1.5, 8), axes=[1, 2]))
    return m.op("Relu", m.op("Add", y, m.op("Unsqueeze", m.uniform(-1, 1, 8), axes=[1, 2])))
@case("caffe_scale_read_before", opset=9)
def _(m, x):
    y = m.norm(m.conv(x, 8))
    z = m.op("Add", m.op("Mul", m.uniform(0.5, 1.5, 8, 1, 1), y), m.uniform(-1, 1, 8, 1, 1))
    return m.op("Add", m.op("Relu", z), y)
for size, how in [(5, {}), (3, dict(alpha=0.5, beta=0.5, bias=2.0)), (1, dict(alpha=0.25)), (7, dict(alpha=2.0, bias=0.5)), (11, dict(alpha=1.0, beta=0.75))]:
    @case(f"lrn_{size}")
    def _(m, x, size=size, how=how):
        return m.op("LRN", m.op("Relu", wide(m, x)), size=size, **how)
refused("instance_norm", "instancenormalization")(lambda m, x: m.op("InstanceNormalization", x, m.uniform(0.5, 1, 8), m.uniform(-1, 1, 8)))
refused("layer_norm", "layernormalization")(lambda m, x: m.op("LayerNormalization", x, m.uniform(0.5, 1, 8), axis=-1))
@refused("group_norm", "groupnormalization", opset=21)
def _(m, x):
    return m.op("GroupNormalization", x, m.uniform(0.5, 1, 8), m.uniform(-1, 1, 8), num_groups=2)

