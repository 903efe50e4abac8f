// A gate per image and channel (src/ops/gate.rs).
//
// mapping   fwd: one thread per element; sums: a block per image and 32 channels, 8 rows of threads over the pixels
// traffic   fwd 8 bytes per element, sums 8
// order     fixed: pixels of a thread, then the 8 rows
#include "include/device.cuh"

struct GateShape {
    int count, pixels, c;
};

// Backward of x too, with dy for x.
KERNEL gate_fwd_f32(const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ y, GateShape p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.count) y[i] = x[i] * g[i / (p.pixels * p.c) * p.c + i % p.c];
}

struct GateSums {
    int pixels, c;
};

KERNEL gate_bwd_sums_f32(const float* __restrict__ dy, const float* __restrict__ x, float* __restrict__ dg, GateSums p) {
    SMEM(float, part, [8][33]);
    int lane = threadIdx.x % 32, row = threadIdx.x / 32;
    int channel = blockIdx.y * 32 + lane;
    float sum = 0.0f;
    if (channel < p.c) {
        size_t image = (size_t)blockIdx.x * p.pixels * p.c + channel;
        for (int i = row; i < p.pixels; i += 8) sum += dy[image + (size_t)i * p.c] * x[image + (size_t)i * p.c];
    }
    part[row][lane] = sum;
    __syncthreads();
    if (row == 0 && channel < p.c) {
        for (int i = 1; i < 8; i++) sum += part[i][lane];
        dg[(size_t)blockIdx.x * p.c + channel] = sum;
    }
}
