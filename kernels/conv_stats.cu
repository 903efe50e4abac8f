// What follows a frozen network's convolution, as one (src/ops/conv_stats): residual sum and ReLU with a bit per element; and
// the gradients of ReLU, sum and channel statistics. The statistics themselves: channel_stats.cu.
//
// layout    y, u, residual NPQK as [rows = n p, row = q k]; mask [rows, ceil(row / 8)] bytes; vectors [k]
// mapping   one thread per eight elements of a row
// traffic   fwd 8 bytes per element (+ 4 residual, + 1/8 mask); bwd 8 (+ 4 y, + 4 residual's gradient, + 1/8)
// order     no reductions
#include "include/device.cuh"

// residual and mask may be null; u may be y.
KERNEL conv_stats_fwd_f32(const float* y, const float* __restrict__ residual, float* u, unsigned char* __restrict__ mask,
                          int rows, int row, int relu) {
    int bytes = (row + 7) / 8;
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= rows * bytes) return;
    int start = i / bytes * row, first = i % bytes * 8;
    unsigned passes = 0;
    for (int e = 0; e < 8 && first + e < row; e++) {
        int at = start + first + e;
        float v = y[at];
        if (residual) v = __fadd_rn(v, residual[at]);
        passes |= (v > 0.0f ? 1u : 0u) << e;
        u[at] = relu && v <= 0.0f ? 0.0f : v;
    }
    if (mask) mask[i] = (unsigned char)passes;
}

// mask may be null; y, mean, dmean and dvar are null together; dresidual may be null.
KERNEL conv_stats_bwd_f32(const float* __restrict__ du, const unsigned char* __restrict__ mask,
                          const float* __restrict__ y, const float* __restrict__ mean,
                          const float* __restrict__ dmean, const float* __restrict__ dvar, float* __restrict__ dy,
                          float* __restrict__ dresidual, int rows, int row, int k, float inverse_rows) {
    int bytes = (row + 7) / 8;
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= rows * bytes) return;
    int start = i / bytes * row, first = i % bytes * 8;
    unsigned passes = mask ? mask[i] : 0xffu;
    for (int e = 0; e < 8 && first + e < row; e++) {
        int at = start + first + e;
        float v = passes >> e & 1 ? du[at] : 0.0f;
        if (dresidual) dresidual[at] = v;
        if (y) {
            int c = (first + e) % k;
            v += dmean[c] * inverse_rows + 2.0f * dvar[c] * inverse_rows * (y[at] - mean[c]);
        }
        dy[at] = v;
    }
}
