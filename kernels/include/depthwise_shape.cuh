// Sizes of a depthwise convolution, for conv2d_depthwise and conv2d_depthwise_int.
#pragma once
#include "device.cuh"

// Mirrors Sizes of src/ops/conv2d_depthwise/gpu.rs. Padding below and right shows in p and q alone.
struct DepthwiseShape {
    int n, h, w, c;  // x
    int r, s;        // filter
    int p, q;        // y
    int stride_h, stride_w;
    int pad_h, pad_w;  // above, left
    int dilation_h, dilation_w;
};
