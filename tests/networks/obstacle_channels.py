"""Obstacles of moving, cutting and joining channels."""
import numpy as np
from obstacle_model import case
from obstacle_values import wide

f = np.float32

# Moving channels.
for groups in (2, 3, 4):
    for batch in ("n", 1):
        @case(f"shuffle_{groups}_of_12_batch_{batch}", batch=batch)
        def _(m, x, groups=groups, batch=batch):
            b = -1 if batch == "n" else 1
            y = m.op("Reshape", m.block(x, 12), np.int64([b, groups, 12 // groups, 8, 8]))
            return m.op("Reshape", m.op("Transpose", y, perm=[0, 2, 1, 3, 4]), np.int64([b, 12, 8, 8]))
@case("shuffle_with_zeros_in_shape")
def _(m, x):
    y = m.op("Transpose", m.op("Reshape", x, np.int64([0, 2, 4, 8, -1])), perm=[0, 2, 1, 3, 4])
    return m.op("Reshape", y, np.int64([0, -1, 8, 8]))
@case("shuffle_of_flattened_map")
def _(m, x):
    y = m.op("Transpose", m.op("Reshape", x, np.int64([-1, 4, 2, 64])), perm=[0, 2, 1, 3])
    return m.op("Reshape", y, np.int64([-1, 8, 8, 8]))
@case("shuffle_channels_last")
def _(m, x):
    y = m.op("Reshape", m.op("Transpose", x, perm=[0, 2, 3, 1]), np.int64([-1, 8, 8, 2, 4]))
    y = m.op("Reshape", m.op("Transpose", y, perm=[0, 1, 2, 4, 3]), np.int64([-1, 8, 8, 8]))
    return m.op("Transpose", y, perm=[0, 3, 1, 2])
@case("shuffle_by_unsqueezed_shape")
def _(m, x):
    size = m.op("Shape", x)
    batch = m.op("Unsqueeze", m.op("Gather", size, np.int64(0)), np.int64([0]))
    tail = m.op("Slice", size, np.int64([2]), np.int64([4]))
    y = m.op("Reshape", x, m.op("Concat", batch, np.int64([2, 4]), tail, axis=0))
    return m.op("Reshape", m.op("Transpose", y, perm=[0, 2, 1, 3, 4]), m.op("Concat", batch, np.int64([8]), tail, axis=0))
@case("shuffle_units")
def _(m, x):
    for _ in range(2):
        a, b = m.op("Split", x, np.int64([4, 4]), axis=1, outputs=2)
        b = m.block(m.norm(m.conv(m.block(b, 4, 1), 4, 3, groups=4)), 4, 1)
        y = m.op("Reshape", m.op("Concat", a, b, axis=1), np.int64([-1, 2, 4, 8, 8]))
        x = m.op("Reshape", m.op("Transpose", y, perm=[0, 2, 1, 3, 4]), np.int64([-1, 8, 8, 8]))
    return x
def joined(m, parts):
    return m.op("Concat", *[m.op("Relu", m.norm(p)) if i % 2 else p for i, p in enumerate(parts)][::-1], axis=1)
@case("split_attribute", opset=11)
def _(m, x):
    return joined(m, m.op("Split", x, axis=1, split=[1, 2, 5], outputs=3))
@case("split_even_attribute", opset=9)
def _(m, x):
    return joined(m, m.op("Split", x, axis=1, outputs=4))
@case("split_input")
def _(m, x):
    return joined(m, m.op("Split", x, np.int64([5, 3]), axis=-3, outputs=2))
@case("split_num_outputs_uneven", opset=18)
def _(m, x):
    return joined(m, m.op("Split", m.block(x, 7), axis=1, num_outputs=3, outputs=3))
@case("split_one_part_used", opset=13)
def _(m, x):
    return m.block(m.op("Split", x, axis=1, outputs=2)[1], 8)
@case("split_then_sum")
def _(m, x):
    a, b = m.op("Split", m.norm(m.conv(x, 16)), np.int64([8, 8]), axis=1, outputs=2)
    return m.op("Relu", m.op("Add", a, b))
@case("split_res2net")
def _(m, x):
    a, b, c, d = m.op("Split", x, np.int64([2] * 4), axis=1, outputs=4)
    b = m.block(b, 2)
    c = m.block(m.op("Add", b, c), 2)
    return m.op("Concat", a, b, c, d, axis=1)
def cut(m, x, start, end, axes, *steps):
    return m.op("Slice", x, *[np.int64(v) for v in (start, end, axes, *steps)])
END = np.iinfo(np.int64).max
for name, how in {
    "first": ([0], [4], [1]), "negative_start": ([-3], [END], [1]), "negative_end": ([1], [-2], [1]), "beyond": ([2], [1000], [1], [1]),
    "step_2": ([0], [8], [1], [2]), "step_3_from_1": ([1], [END], [-3], [3]), "reversed": ([-1], [-END - 1], [1], [-1]),
    "reversed_step_2": ([6], [0], [1], [-2]), "all": ([0], [END], [1]), "crop": ([1, 2], [7, END], [2, 3]), "crop_negative": ([-6, 0], [END, -1], [-2, -1]),
    "every_second_pixel": ([0, 1], [END, END], [2, 3], [2, 2]), "channels_and_crop": ([2, 1], [6, 7], [1, 3]),
}.items():
    @case(f"slice_{name}")
    def _(m, x, how=how):
        return m.block(cut(m, x, *how), 8)
@case("slice_attributes", opset=9)
def _(m, x):
    return m.block(m.op("Slice", x, axes=[1, 2], starts=[2, 0], ends=[END, -1]), 8)
@case("slice_int32_bounds")
def _(m, x):
    return m.block(m.op("Slice", x, *[np.int32([v]) for v in (1, 2147483647, 1, 2)]), 8)
@case("slice_two_parts")
def _(m, x):
    return m.op("Concat", cut(m, x, [4], [END], [1]), m.block(cut(m, x, [0], [4], [1]), 4), axis=1)
@case("slice_padded_shortcut")
def _(m, x):
    y = m.norm(m.conv(x, 12, strides=[2, 2]))
    return m.op("Relu", m.op("Add", y, m.op("Pad", cut(m, x, [0, 0], [END, END], [2, 3], [2, 2]), np.int64([0, 2, 0, 0, 0, 2, 0, 0]))))
@case("slice_focus")
def _(m):
    parts = [cut(m, "x", [r, c], [END, END], [2, 3], [2, 2]) for r, c in [(0, 0), (1, 0), (0, 1), (1, 1)]]
    return m.layered_head(m.block(m.op("Concat", *parts, axis=1), 8))
for name, index in {"some": [0, 3, 5], "negative": [-1, 2, -8], "repeated": [1, 1, 0, 7, 1], "permuted": [7, 3, 1, 0, 2, 6, 5, 4]}.items():
    @case(f"gather_{name}")
    def _(m, x, index=index):
        return m.block(m.op("Gather", x, np.int64(index), axis=1), 8)
@case("gather_negative_axis")
def _(m, x):
    return m.block(m.op("Gather", x, np.int32([2, 0]), axis=-3), 8)
@case("gather_one_channel_unsqueezed")
def _(m, x):
    y = m.op("Unsqueeze", m.op("Gather", x, np.int64(2), axis=1), np.int64([1]))
    return m.block(m.op("Concat", y, x, axis=1), 8)
@case("gather_bgr_images")
def _(m):
    return m.layered_head(m.block(m.op("Gather", "x", np.int64([2, 1, 0]), axis=1), 8))
@case("transform_input_of_inception")
def _(m):
    part = lambda i: m.op("Unsqueeze", m.op("Gather", "x", np.int64(i), axis=1), np.int64([1]))
    parts = [m.op("Add", m.op("Mul", part(i), f(0.5 + i / 8)), f(i / 8 - 0.25)) for i in range(3)]
    return m.layered_head(m.block(m.op("Concat", *parts, axis=1), 8))
@case("concat_of_three_with_pooled")
def _(m, x):
    x = m.block(x, 8, 3, strides=[2, 2])
    small = m.op("GlobalAveragePool", x)
    rest = m.block(x, 5, 4, pads=[0] * 4), m.op("MaxPool", x, kernel_shape=[4, 4])
    return m.op("Concat", rest[0], small, rest[1], axis=1)
@case("concat_pooled_norm_conv", size=(3, 2, 2))
def _(m, x):
    y = m.op("Concat", m.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), m.block(x, 3, 2, pads=[0] * 4), axis=-3)
    return m.op("Relu", m.norm(y))
@case("concat_of_one")
def _(m, x):
    return m.op("Concat", x, axis=1)
@case("concat_twice_the_same")
def _(m, x):
    return m.op("Concat", x, x, m.op("Relu", m.norm(m.conv(x, 3))), axis=1)
@case("concat_of_rows", head="linear")
def _(m, x):
    a, b = m.block(x, 5), m.block(x, 6)
    return m.op("Concat", m.pooled(a), m.op("Flatten", m.op("GlobalMaxPool", b)), m.op("Relu", m.linear(m.pooled(a), 7)), axis=-1)
@case("concat_of_different_ranges")
def _(m, x):
    return m.op("Concat", m.op("Sigmoid", m.norm(m.conv(x, 4))), m.op("Mul", x, f(8)), wide(m, x, 3), axis=1)
@case("add_pooled_and_convolved_1x1")
def _(m, x):
    return m.op("Add", m.op("GlobalAveragePool", x), m.conv(x, 8, 8, pads=[0] * 4))
@case("tile_of_channels", may_refuse="tile")
def _(m, x):
    return m.op("Tile", x, np.int64([1, 2, 1, 1]))
@case("concat_of_rows_of_a_map", may_refuse="concat")
def _(m, x):
    return m.op("Concat", x, m.op("Relu", m.norm(x)), axis=2)
