// Sum, difference, product and quotient of two tensors, weighted sums of scalars (src/ops/elementwise.rs).
//
// mapping   four elements per thread; the weighted sum is one thread
// traffic   12 bytes per element
// order     the weighted sum adds its terms in order
#include "include/quads.cuh"

KERNEL elementwise_add_f32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, int n) {
    quads_map(a, b, y, n, [](float u, float v) { return u + v; });
}

KERNEL elementwise_sub_f32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, int n) {
    quads_map(a, b, y, n, [](float u, float v) { return u - v; });
}

KERNEL elementwise_negate_f32(const float* __restrict__ a, float* __restrict__ y, int n) {
    quads_map(a, y, n, [](float v) { return -v; });
}

KERNEL elementwise_mul_f32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, int n) {
    quads_map(a, b, y, n, [](float u, float v) { return u * v; });
}

KERNEL elementwise_div_f32(const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, int n) {
    quads_map(a, b, y, n, [](float u, float v) { return __fdiv_rn(u, v); });
}

struct Terms {
    const float* scalars[16];
    float weights[16];
    int count, unused;
};

// `more`: y already holds the sum of earlier groups.
KERNEL elementwise_weighted_sum_f32(float* __restrict__ y, Terms terms, int more) {
    if (threadIdx.x != 0) return;
    float sum = more ? y[0] : 0.0f;
    for (int i = 0; i < terms.count; i++) sum += terms.weights[i] * terms.scalars[i][0];
    y[0] = sum;
}

KERNEL elementwise_weighted_sum_bwd_f32(const float* __restrict__ dy, float* __restrict__ d, Terms terms) {
    int i = threadIdx.x;
    if (i < terms.count) d[i] = terms.weights[i] * dy[0];
}
