// y = x + eps sign(g) (src/ops/sign_step.rs).
//
// mapping   one thread per element
// traffic   12 bytes per element
// order     no reductions
#include "include/device.cuh"

KERNEL sign_step_fwd_f32(const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ y, int n,
                         float eps) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float slope = g[i];
    // A zero stays, NaN shows.
    y[i] = slope > 0.0f ? x[i] + eps : slope < 0.0f ? x[i] - eps : x[i] + slope;
}
