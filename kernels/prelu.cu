// ReLU with a learned slope per channel (src/ops/prelu.rs).
//
// mapping   fwd, dx: one thread per element; sums: see include/row_stages.cuh
// traffic   fwd 8 bytes per element, dx 12, sums 8
// order     fixed (include/pair_sums.cuh)
#include "include/pair_sums.cuh"

// c: slopes, 1 if all channels share one.
KERNEL prelu_fwd_f32(const float* __restrict__ x, const float* __restrict__ slope, float* __restrict__ y, int n, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    y[i] = v <= 0.0f ? v * slope[i % c] : v;
}

KERNEL prelu_bwd_f32(const float* __restrict__ x, const float* __restrict__ slope, const float* __restrict__ dy,
                     float* __restrict__ dx, int n, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    dx[i] = x[i] > 0.0f ? dy[i] : dy[i] * slope[i % c];
}

// sums: [2][c], of dy x where x is not positive, then zeros.
KERNEL prelu_bwd_sums_f32(const float* __restrict__ dy, const float* __restrict__ x, float* partial,
                          float* __restrict__ sums, unsigned* arrivals, RowStages p) {
    pair_sums(partial, sums, arrivals, p, [=](size_t i, int) { return make_float2(x[i] > 0.0f ? 0.0f : dy[i] * x[i], 0.0f); });
}
