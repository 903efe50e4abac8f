"""Obstacles of convolutions, pooling and resizing."""
import numpy as np
from obstacle_model import case, refused

def each(pattern, *rows):
    for row in rows:
        yield pattern.format(*["".join(map(str, v)) if isinstance(v, (list, tuple)) else v for v in row]), row

# Groups: [c, k, groups], then what differs.
for c, k, g in [(8, 16, 2), (8, 8, 4), (12, 6, 3), (6, 12, 6), (5, 15, 5), (6, 6, 6), (9, 6, 3), (7, 7, 7), (12, 12, 4)]:
    @case(f"conv_{c}_{k}_groups_{g}")
    def _(m, x, c=c, k=k, g=g):
        return m.block(m.block(x, c), k, groups=g)
for name, how in {
    "stride_2": dict(strides=[2, 2]), "dilated": dict(dilations=[2, 2], pads=[2] * 4), "1x1": dict(window=1),
    "5x5_bias": dict(window=5, bias=True), "uneven": dict(pads=[0, 1, 1, 0], strides=[2, 1]),
}.items():
    for g in (2, 8):
        @case(f"groups_{g}_{name}")
        def _(m, x, g=g, how=how):
            return m.block(x, 8, groups=g, **how)
@case("groups_of_images")
def _(m):
    return m.layered_head(m.block(m.block("x", 6, groups=3), 6, 3, True, 2))

# Padding that ONNX leaves to the reader.
for side in ("UPPER", "LOWER"):
    for window, stride, size in [(3, 1, (8, 8)), (3, 2, (8, 8)), (3, 2, (9, 7)), (3, 3, (8, 10)), (2, 1, (8, 8)), (2, 2, (7, 9)),
                                 (4, 2, (8, 9)), (5, 2, (10, 8)), (5, 3, (9, 9)), (1, 2, (8, 7))]:
        @case(f"same_{side.lower()}_{window}_stride_{stride}_{size[0]}x{size[1]}", size=(3, *size))
        def _(m, x, side=side, window=window, stride=stride):
            return m.block(x, 6, window, auto_pad=f"SAME_{side}", strides=[stride] * 2)
    @case(f"same_{side.lower()}_depthwise", size=(3, 8, 9))
    def _(m, x, side=side):
        return m.block(x, 8, 3, groups=8, auto_pad=f"SAME_{side}", strides=[2, 2])
    for kind in ("MaxPool", "AveragePool"):
        for window, stride, size in [(3, 2, (8, 8)), (2, 2, (7, 9)), (3, 1, (8, 8)), (2, 1, (8, 8))]:
            @case(f"{kind.lower()}_same_{side.lower()}_{window}_{stride}", size=(3, *size))
            def _(m, x, side=side, kind=kind, window=window, stride=stride):
                x = m.norm(m.conv(x, 8))
                return m.op(kind, x, kernel_shape=[window] * 2, strides=[stride] * 2, auto_pad=f"SAME_{side}")
@case("auto_pad_valid")
def _(m, x):
    return m.block(x, 8, 3, auto_pad="VALID", strides=[2, 2])
@case("auto_pad_notset")
def _(m, x):
    return m.op("MaxPool", m.block(x, 8, 3, auto_pad="NOTSET", pads=[1, 1, 1, 1]), kernel_shape=[2, 2], auto_pad="NOTSET")

# Windows, pads per side, strides and dilations per axis.
for name, (window, pads) in each("conv_{}_pads_{}", ([2, 2], [0, 0, 0, 0]), ([2, 2], [0, 0, 1, 1]), ([2, 2], [1, 1, 0, 0]),
                                 ([4, 4], [1, 1, 2, 2]), ([3, 3], [1, 0, 2, 1]), ([3, 3], [2, 2, 0, 0]), ([1, 7], [0, 3, 0, 3]),
                                 ([7, 1], [3, 0, 3, 0]), ([1, 3], [0, 2, 0, 0]), ([3, 2], [1, 0, 1, 1]), ([3, 3], [3, 3, 3, 3])):
    @case(name)
    def _(m, x, window=window, pads=pads):
        return m.block(x, 8, window, pads=pads)
for window in ([1, 5], [5, 1], [3, 1]):
    @case(f"depthwise_{window[0]}{window[1]}")
    def _(m, x, window=window):
        return m.block(x, 8, window, groups=8)
for name, (strides,) in each("conv_strides_{}", ([1, 2],), ([2, 1],), ([3, 1],), ([2, 3],)):
    @case(name, size=(3, 9, 12))
    def _(m, x, strides=strides):
        return m.block(m.block(x, 8, strides=strides), 8, 3, groups=8, strides=[2, 1])
for name, (dilations, pads) in each("conv_dilations_{}", ([2, 1], [2, 1, 2, 1]), ([1, 3], [1, 3, 1, 3]), ([3, 2], [1, 2, 3, 0])):
    @case(name)
    def _(m, x, dilations=dilations, pads=pads):
        return m.block(m.block(x, 8, dilations=dilations, pads=pads), 8, 3, groups=8, dilations=dilations, pads=pads)
for window, stride in [(1, 2), (1, 3), (2, 3)]:
    @case(f"conv_{window}x{window}_skips_at_stride_{stride}", size=(3, 9, 11))
    def _(m, x, window=window, stride=stride):
        return m.block(x, 8, window, pads=[0] * 4, strides=[stride] * 2)
@case("conv_without_kernel_shape")
def _(m, x):
    return m.norm(m.op("Conv", x, m.weight(6, 8, 3, 3)))
@case("conv_empty_bias")
def _(m, x):
    return m.norm(m.op("Conv", x, m.weight(6, 8, 3, 3), "", pads=[1] * 4))
@case("conv_window_larger_than_map", size=(3, 3, 3))
def _(m, x):
    return m.block(x, 8, 5)
@case("conv_of_one_pixel", size=(3, 1, 1))
def _(m, x):
    return m.block(x, 8)
@case("classifier_is_a_conv", head=None)
def _(m, x):
    return m.op("Flatten", m.op("GlobalAveragePool", m.conv(m.block(x, 8), 10, 1, bias=True)))
@case("logits_are_a_1x1_map", head=None)
def _(m, x):
    m.ranks = {}
    y = m.op("GlobalAveragePool", m.conv(m.block(x, 8), 10, 1, bias=True))
    m.ranks[y] = 4
    return y

# Pad as a node.
def pad(m, x, pads, *more):
    return m.op("Pad", x, np.int64(pads), *more)
for name, pads in {"even": [0, 0, 1, 1, 0, 0, 1, 1], "end": [0, 0, 0, 0, 0, 0, 1, 1], "one_axis": [0, 0, 0, 2, 0, 0, 0, 1]}.items():
    @case(f"pad_{name}_then_conv")
    def _(m, x, pads=pads):
        return m.block(pad(m, x, pads, np.float32(0)), 8, 3, pads=[0] * 4, strides=[2, 2])
    @case(f"pad_{name}_then_max")
    def _(m, x, pads=pads):
        return m.op("MaxPool", pad(m, m.norm(m.conv(x, 8)), pads), kernel_shape=[3, 3], strides=[2, 2])
    @case(f"pad_{name}_then_average")
    def _(m, x, pads=pads):
        return m.op("AveragePool", pad(m, x, pads), kernel_shape=[3, 3], strides=[2, 2])
@case("pad_and_pads_of_the_conv")
def _(m, x):
    return m.block(pad(m, x, [0, 0, 1, 0, 0, 0, 0, 2]), 8, 3, pads=[1, 0, 0, 1])
@case("pad_of_images", size=(3, 7, 8))
def _(m):
    return m.layered_head(m.block(pad(m, "x", [0, 0, 2, 1, 0, 0, 1, 2]), 8, 5, pads=[0] * 4, strides=[2, 2]))
@case("pad_before_depthwise")
def _(m, x):
    return m.block(pad(m, x, [0, 0, 0, 0, 0, 0, 1, 1]), 8, 3, groups=8, pads=[0] * 4, strides=[2, 2])
@case("pad_read_twice")
def _(m, x):
    x = pad(m, x, [0, 0, 1, 1, 0, 0, 1, 1])
    return m.op("Add", m.conv(x, 8, 3, pads=[0] * 4), m.norm(m.conv(x, 8, 3, pads=[0] * 4)))
@case("pad_attribute_form", opset=9)
def _(m, x):
    return m.block(m.op("Pad", x, pads=[0, 0, 0, 1, 0, 0, 1, 0], mode="constant", value=0.0), 8, 3, pads=[0] * 4)
@case("pad_with_axes", opset=18)
def _(m, x):
    return m.block(m.op("Pad", x, np.int64([1, 0, 0, 1]), "", np.int64([-2, 3])), 8, 3, pads=[0] * 4)
@case("pad_of_nothing")
def _(m, x):
    return m.block(pad(m, x, [0] * 8), 8)
@case("pad_of_channels")
def _(m, x):
    y = m.block(x, 12)
    return m.op("Relu", m.op("Add", y, pad(m, x, [0, 1, 0, 0, 0, 3, 0, 0])))
@case("pad_mode_reflect", may_refuse="pad")
def _(m, x):
    return m.block(m.op("Pad", x, np.int64([0, 0, 1, 1, 0, 0, 1, 1]), mode="reflect"), 8, 3, pads=[0] * 4)
@case("pad_negative", may_refuse="pad")
def _(m, x):
    return m.block(pad(m, x, [0, 0, -1, 0, 0, 0, 0, -1]), 8)
@case("pad_of_ones", may_refuse="pad")
def _(m, x):
    return m.block(pad(m, x, [0, 0, 1, 1, 0, 0, 1, 1], np.float32(1)), 8, 3, pads=[0] * 4)

# Pooling.
POOLS = [  # window, stride, pads, ceil, size
    ([2, 2], [2, 2], [0] * 4, 1, (9, 9)), ([3, 3], [2, 2], [0] * 4, 1, (8, 10)), ([3, 3], [2, 2], [1] * 4, 1, (8, 9)),
    ([2, 2], [3, 3], [0] * 4, 1, (9, 10)), ([2, 2], [2, 2], [1] * 4, 1, (8, 7)), ([3, 3], [2, 2], [0, 0, 1, 1], 0, (8, 8)),
    ([3, 3], [2, 2], [1, 0, 0, 1], 0, (8, 8)), ([3, 3], [2, 2], [1, 0, 0, 1], 1, (8, 8)), ([2, 3], [2, 1], [0] * 4, 0, (8, 8)),
    ([1, 2], [1, 2], [0] * 4, 0, (8, 8)), ([3, 1], [2, 2], [1, 0, 1, 0], 1, (8, 8)), ([3, 3], [1, 1], [1] * 4, 0, (8, 8)),
    ([5, 5], [3, 3], [2] * 4, 1, (11, 9)), ([3, 3], [3, 3], [0] * 4, 0, (8, 8)),
]
for name, (window, stride, pads, ceil, size) in each("{}_{}_{}_ceil_{}_{}", *POOLS):
    @case(f"maxpool_{name}", size=(3, *size))
    def _(m, x, window=window, stride=stride, pads=pads, ceil=ceil):
        x = m.norm(m.conv(x, 8))
        return m.op("MaxPool", x, kernel_shape=window, strides=stride, pads=pads, ceil_mode=ceil)
    for count in (0, 1):
        @case(f"averagepool_{name}_count_{count}", size=(3, *size), opset=19)
        def _(m, x, window=window, stride=stride, pads=pads, ceil=ceil, count=count):
            return m.op("AveragePool", x, kernel_shape=window, strides=stride, pads=pads, ceil_mode=ceil, count_include_pad=count)
@case("pool_strides_default")
def _(m, x):
    return m.op("MaxPool", m.op("AveragePool", x, kernel_shape=[2, 2]), kernel_shape=[3, 2])
@case("pool_opset_7", opset=7)
def _(m, x):
    return m.op("AveragePool", m.op("MaxPool", x, kernel_shape=[3, 3], pads=[0, 1, 0, 1]), kernel_shape=[2, 2], pads=[1, 1, 1, 1])
@case("maxpool_dilated", may_refuse="dilation")
def _(m, x):
    return m.op("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 2])
@case("maxpool_column_major_without_indices")
def _(m, x):
    return m.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], storage_order=0)
@case("pool_whole_map", size=(3, 8, 6))
def _(m, x):
    return m.op("AveragePool", m.block(x, 8), kernel_shape=[8, 6])
@case("pool_whole_map_then_flatten", size=(3, 8, 6), head=None)
def _(m, x):
    return m.linear(m.op("Flatten", m.op("AveragePool", m.block(x, 8), kernel_shape=[8, 6], strides=[8, 6])))
@case("pool_then_flatten_a_map", head=None)
def _(m, x):
    return m.linear(m.op("Flatten", m.op("AveragePool", x, kernel_shape=[4, 4], strides=[4, 4])))
for name, reduce in {
    "global_max": lambda m, x: m.op("GlobalMaxPool", x),
    "reduce_mean": lambda m, x: m.op("ReduceMean", x, axes=[2, 3]),
    "reduce_mean_negative_axes": lambda m, x: m.op("ReduceMean", x, axes=[-1, -2], keepdims=1),
    "reduce_max": lambda m, x: m.op("ReduceMax", x, axes=[2, 3], keepdims=1),
    "two_steps": lambda m, x: m.op("ReduceMean", m.op("ReduceMean", x, axes=[3], keepdims=1), axes=[2], keepdims=1),
}.items():
    @case(f"mean_by_{name}", head=None)
    def _(m, x, reduce=reduce):
        return m.linear(m.op("Flatten", reduce(m, m.block(x, 8))))
for op in ("ReduceMean", "ReduceMax"):
    @case(f"{op.lower()}_without_keepdims", head=None)
    def _(m, x, op=op):
        return m.linear(m.op(op, m.block(x, 8), axes=[2, 3], keepdims=0))
    @case(f"{op.lower()}_axes_as_input", head=None, opset=18)
    def _(m, x, op=op):
        return m.linear(m.op(op, m.block(x, 8), np.int64([3, 2]), keepdims=0))
@case("reduce_sum", head=None, may_refuse="reducesum")
def _(m, x):
    return m.linear(m.op("Div", m.op("ReduceSum", x, np.int64([2, 3]), keepdims=0), np.float32(64)))
@case("global_max_and_average", head=None)
def _(m, x):
    x = m.block(x, 8)
    both = m.op("Concat", m.op("GlobalMaxPool", x), m.op("GlobalAveragePool", x), axis=1)
    return m.linear(m.op("Flatten", both))
@case("global_max_plus_average", head=None)
def _(m, x):
    return m.linear(m.op("Flatten", m.op("Add", m.op("GlobalMaxPool", x), m.op("GlobalAveragePool", x))))

# Resize.
def resized(m, x, scales=None, sizes=None, **how):
    tail = [np.float32(scales)] if scales else ["", np.int64(sizes)]
    return m.op("Resize", m.norm(m.conv(x, 6)), "", *tail, **how)
MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
for coordinates in MODES:
    for nearest in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"):
        for label, scales in {"2x3": [1, 1, 2, 3], "1.5": [1, 1, 1.5, 1.5], "half": [1, 1, 0.5, 0.5]}.items():
            @case(f"resize_nearest_{coordinates}_{nearest}_{label}", size=(3, 6, 8))
            def _(m, x, coordinates=coordinates, nearest=nearest, scales=scales):
                return resized(m, x, scales, mode="nearest", coordinate_transformation_mode=coordinates, nearest_mode=nearest)
    for label, how in {"2x3": dict(scales=[1, 1, 2, 3]), "1.5": dict(scales=[1, 1, 1.5, 1.5]), "half": dict(scales=[1, 1, 0.5, 0.5]),
                       "sizes": dict(sizes=[4, 6, 11, 5]), "to_1": dict(sizes=[4, 6, 1, 3])}.items():
        @case(f"resize_linear_{coordinates}_{label}", size=(3, 6, 8), batch=4)
        def _(m, x, coordinates=coordinates, how=how):
            return resized(m, x, **how, mode="linear", coordinate_transformation_mode=coordinates)
@case("resize_defaults")
def _(m, x):
    return resized(m, x, [1, 1, 2, 2])
@case("resize_with_axes", opset=18)
def _(m, x):
    return m.op("Resize", x, "", np.float32([2, 2]), axes=[2, 3], mode="nearest", coordinate_transformation_mode="asymmetric",
                nearest_mode="floor")
@case("resize_sizes_nearest", batch=1)
def _(m, x):
    return resized(m, x, sizes=[1, 6, 13, 16], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
@case("resize_to_the_same_size")
def _(m, x):
    return resized(m, x, [1, 1, 1, 1], mode="linear")
@case("resize_opset_11_with_roi", opset=11)
def _(m, x):
    return m.op("Resize", x, np.float32([]), np.float32([1, 1, 2, 2]), mode="linear", coordinate_transformation_mode="align_corners")
@case("resize_opset_10", opset=10)
def _(m, x):
    return m.op("Resize", x, np.float32([1, 1, 2, 2]), mode="nearest")
@case("upsample_opset_9_nearest", opset=9)
def _(m, x):
    return m.op("Upsample", x, np.float32([1, 1, 2, 2]), mode="nearest")
@case("upsample_opset_9_linear", opset=9)
def _(m, x):
    return m.op("Upsample", x, np.float32([1, 1, 2, 3]), mode="linear")
@case("upsample_opset_7_attribute", opset=7)
def _(m, x):
    return m.op("Upsample", x, mode="nearest", scales=[1.0, 1.0, 3.0, 2.0])
@case("resize_and_sum_as_fpn")
def _(m, x):
    low = m.block(x, 8, strides=[2, 2])
    up = m.op("Resize", low, "", np.float32([1, 1, 2, 2]), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return m.op("Relu", m.op("Add", up, m.norm(m.conv(x, 8))))
@case("resize_cubic", may_refuse="cubic")
def _(m, x):
    return resized(m, x, [1, 1, 2, 2], mode="cubic")
@case("resize_antialias", may_refuse="antialias", opset=18)
def _(m, x):
    return resized(m, x, [1, 1, 0.5, 0.5], mode="linear", antialias=1)
@case("depth_to_space", may_refuse="depthtospace")
def _(m, x):
    return m.op("DepthToSpace", x, blocksize=2)
@case("space_to_depth", may_refuse="spacetodepth")
def _(m, x):
    return m.op("SpaceToDepth", x, blocksize=2)
refused("conv_transpose", "convtranspose")(lambda m, x: m.op("ConvTranspose", x, m.weight(8, 4, 2, 2), strides=[2, 2]))
@refused("conv_with_computed_weights", "constant")
def _(m, x):
    w = m.op("Reshape", m.linear(m.pooled(x), 8 * 8), np.int64([8, 8, 1, 1]))
    m.batch = 1
    return m.op("Conv", x, w)
