// Nearest-neighbour enlargement (src/ops/upsample.rs). n: elements written; w, c: of the small image.
//
// mapping   one thread per element written
// traffic   reads and writes each image once
// order     bwd adds a block's pixels row by row
#include "include/device.cuh"

// All images are one tall image of w columns: rows of the small one become f rows of the large one.
KERNEL upsample_fwd_f32(const float* __restrict__ x, float* __restrict__ y, int n, int w, int c, int f) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int channel = i % c;
    int pixel = i / c;
    int column = pixel % (w * f), row = pixel / (w * f);
    y[i] = x[(row / f * w + column / f) * c + channel];
}

KERNEL upsample_bwd_f32(const float* __restrict__ dy, float* __restrict__ dx, int n, int w, int c, int f) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int channel = i % c;
    int pixel = i / c;
    int column = pixel % w, row = pixel / w;
    float sum = 0.0f;
    for (int y = 0; y < f; y++) {
        for (int x = 0; x < f; x++) sum += dy[((row * f + y) * w * f + column * f + x) * c + channel];
    }
    dx[i] = sum;
}
