// Sizes of a grouped convolution, for conv2d_grouped and conv2d_grouped_int.
#pragma once
#include "device.cuh"

// Mirrors Sizes of src/ops/conv2d_grouped/gpu.rs. Padding below and right shows in p and q alone.
struct GroupedShape {
    int n, h, w, c;  // x
    int k, r, s;     // filter
    int p, q;        // y
    int stride_h, stride_w;
    int pad_h, pad_w;  // above, left
    int dilation_h, dilation_w;
    int group_c, group_k;  // channels of a group, in and out
};

// How coordinates of one axis meet.
struct GroupedAxis {
    int stride, pad, dilation;
};
DEV GroupedAxis grouped_rows(const GroupedShape& g) { return {g.stride_h, g.pad_h, g.dilation_h}; }
DEV GroupedAxis grouped_cols(const GroupedShape& g) { return {g.stride_w, g.pad_w, g.dilation_w}; }

// The source coordinate (below length) that output coordinate `at` meets at tap t, or -1. TRANSPOSED: of the data gradient.
template <bool TRANSPOSED>
DEV int grouped_meets(GroupedAxis g, int at, int t, int length) {
    int i;
    if (TRANSPOSED) {
        int scaled = at + g.pad - t * g.dilation;
        i = scaled < 0 || scaled % g.stride != 0 ? -1 : scaled / g.stride;
    } else {
        i = at * g.stride + t * g.dilation - g.pad;
    }
    return i >= 0 && i < length ? i : -1;
}
