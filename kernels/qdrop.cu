// Mixing a tensor with its quantized form (src/ops/qdrop.rs).
//
// mapping   one thread per element
// traffic   fwd 16 bytes per element, bwd 12 per gradient
// order     no reductions
#include "include/device.cuh"

KERNEL qdrop_fwd_f32(const float* __restrict__ full, const float* __restrict__ quantized,
                     const float* __restrict__ draw, float* __restrict__ y, int n, float drop) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = draw[i] < drop ? full[i] : quantized[i];
}

// which: 0 the gradient of full, 1 of quantized.
KERNEL qdrop_bwd_f32(const float* __restrict__ draw, const float* __restrict__ dy, float* __restrict__ dx, int n,
                     float drop, int which) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = (draw[i] < drop) == (which == 0) ? dy[i] : 0.0f;
}
