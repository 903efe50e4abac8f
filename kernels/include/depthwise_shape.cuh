// Sizes of a depthwise convolution, for conv2d_depthwise and conv2d_depthwise_int.
#pragma once
#include "device.cuh"

// Mirrors Sizes of src/ops/conv2d_depthwise/gpu.rs.
struct DepthwiseShape {
    int n, h, w, c;  // x
    int r, s;        // filter
    int p, q;        // y
    int stride, pad, dilation;
};
