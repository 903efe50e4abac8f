// Circular shift of images (src/ops/roll.rs).
//
// mapping   one thread per element of the output
// traffic   8 bytes per element
// order     no reductions
#include "include/device.cuh"

struct RollParams {
    int n, h, w, c, down, right;
};

KERNEL roll_f32(const float* __restrict__ x, float* __restrict__ y, RollParams p) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.n * p.h * p.w * p.c) return;
    int channel = at % p.c, pixel = at / p.c;
    int j = pixel % p.w, i = pixel / p.w % p.h, image = pixel / p.w / p.h;
    int from_i = i >= p.down ? i - p.down : i - p.down + p.h;
    int from_j = j >= p.right ? j - p.right : j - p.right + p.w;
    y[at] = x[((image * p.h + from_i) * p.w + from_j) * p.c + channel];
}
