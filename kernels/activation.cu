// Activations (src/ops/activation.rs): kind 0 relu, 1 leaky relu (slope), 2 tanh.
//
// mapping   one thread per element
// traffic   fwd 8 bytes per element; bwd 12
// order     no reductions
#include "include/device.cuh"

// `unused` keeps forward and backward launches alike.
KERNEL activation_fwd_f32(const float* __restrict__ x, const float* __restrict__ unused, float* __restrict__ y, int n,
                          int kind, float slope) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    if (kind == 2) {
        v = tanhf(v);
    } else if (v <= 0.0f) {
        v = kind == 0 ? 0.0f : v * slope;
    }
    y[i] = v;
}

KERNEL activation_bwd_f32(const float* __restrict__ y, const float* __restrict__ dy, float* __restrict__ dx, int n,
                          int kind, float slope) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = y[i];
    float d = kind == 2 ? 1.0f - v * v : (v > 0.0f ? 1.0f : (kind == 0 ? 0.0f : slope));
    dx[i] = dy[i] * d;
}
