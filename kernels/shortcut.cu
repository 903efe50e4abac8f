// Shortcut option A (src/ops/shortcut.rs).
//
// mapping   one thread per element written
// traffic   fwd: y written, its share of x read; bwd: dx written, dy's share read
// order     no reductions
#include "include/device.cuh"

// x is [n][h][w][c], y [n][oh][ow][c_out]; count: elements written.
struct Shortcut {
    int h, w, c, oh, ow, c_out, stride, count;
};

KERNEL shortcut_fwd_f32(const float* __restrict__ x, float* __restrict__ y, Shortcut p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    int c = i % p.c_out - (p.c_out - p.c) / 2;
    int pixel = i / p.c_out;
    int ox = pixel % p.ow, oy = pixel / p.ow % p.oh, n = pixel / (p.ow * p.oh);
    bool inside = c >= 0 && c < p.c;
    y[i] = inside ? x[((n * p.h + oy * p.stride) * p.w + ox * p.stride) * p.c + c] : 0.0f;
}

KERNEL shortcut_bwd_f32(const float* __restrict__ dy, float* __restrict__ dx, Shortcut p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    int c = i % p.c + (p.c_out - p.c) / 2;
    int pixel = i / p.c;
    int ix = pixel % p.w, iy = pixel / p.w % p.h, n = pixel / (p.w * p.h);
    bool kept = ix % p.stride == 0 && iy % p.stride == 0;
    dx[i] = kept ? dy[((n * p.oh + iy / p.stride) * p.ow + ix / p.stride) * p.c_out + c] : 0.0f;
}
