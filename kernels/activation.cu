// Activations (src/ops/activation.rs): kind 0 relu, 1 leaky relu (slope), 2 tanh, 3 relu6.
//
// mapping   four elements per thread
// traffic   fwd 8 bytes per element; bwd 12
// order     no reductions
#include "include/quads.cuh"

// `unused` keeps forward and backward launches alike.
KERNEL activation_fwd_f32(const float* __restrict__ x, const float* __restrict__ unused, float* __restrict__ y, int n,
                          int kind, float slope) {
    quads_map(x, y, n, [=](float v) {
        if (kind == 2) return tanhf(v);
        if (v <= 0.0f) return kind == 1 ? v * slope : 0.0f;
        return kind == 3 && v >= 6.0f ? 6.0f : v;
    });
}

KERNEL activation_bwd_f32(const float* __restrict__ y, const float* __restrict__ dy, float* __restrict__ dx, int n,
                          int kind, float slope) {
    quads_map(y, dy, dx, n, [=](float v, float up) {
        float d = v > 0.0f ? 1.0f : (kind == 1 ? slope : 0.0f);
        if (kind == 2) d = 1.0f - v * v;
        if (kind == 3 && v >= 6.0f) d = 0.0f;
        return up * d;
    });
}
