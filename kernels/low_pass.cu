// Gaussian low-pass filter (src/ops/low_pass.rs): a cyclic convolution along one axis, y[i] = sum_j k[i - j] x[j].
//
// layout    x, y [outer, length, inner]; table [2 length - 1], the difference i - j at i - j + length - 1
// mapping   one thread per element; neighbours read neighbours
// traffic   8 bytes per element and axis from memory; the length products of an element come from cache
// order     j ascending
#include "include/device.cuh"

KERNEL low_pass_axis_f32(const float* __restrict__ x, const float* __restrict__ table, float* __restrict__ y, int n,
                         int length, int inner) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int line = i / inner % length;
    const float* from = x + (i - line * inner);
    const float* k = table + (length - 1 + line);
    float sum = 0.0f;
    for (int j = 0; j < length; j++) sum += k[-j] * from[j * inner];
    y[i] = sum;
}
