// Circular shift of images (src/ops/roll.rs).
//
// mapping   one thread per element of the output
// traffic   8 bytes per element
// order     no reductions
#include "include/device.cuh"

struct RollParams {
    int n, h, w, c, down, right, reach, back;
};

DEV int wrapped(int shift, int n) {
    int s = shift % n;
    return s < 0 ? s + n : s;
}

// stored, if not null, holds the shift plus p.reach.
KERNEL roll_f32(const float* __restrict__ x, float* __restrict__ y, const int* __restrict__ stored, RollParams p) {
    if (stored) {
        int sign = p.back ? -1 : 1;
        p.down = wrapped(sign * (stored[0] - p.reach), p.h);
        p.right = wrapped(sign * (stored[1] - p.reach), p.w);
    }
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.n * p.h * p.w * p.c) return;
    int channel = at % p.c, pixel = at / p.c;
    int j = pixel % p.w, i = pixel / p.w % p.h, image = pixel / p.w / p.h;
    int from_i = i >= p.down ? i - p.down : i - p.down + p.h;
    int from_j = j >= p.right ? j - p.right : j - p.right + p.w;
    y[at] = x[((image * p.h + from_i) * p.w + from_j) * p.c + channel];
}
