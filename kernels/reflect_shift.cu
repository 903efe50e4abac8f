// Shift by at most one pixel per axis with mirrored edges (src/ops/reflect_shift.rs).
//
// mapping   one thread per element of what is written; bwd gathers the one or two outputs per axis that read a pixel
// traffic   8 bytes per element
// order     bwd: rows, then columns, the moved one before the mirrored one
#include "include/device.cuh"

struct ReflectShiftParams {
    int n, h, w, c, dy, dx;
};

DEV int mirror(int i, int n) { return i < 0 ? -i : (i >= n ? 2 * n - 2 - i : i); }

// stored, if not null, holds dy and dx plus 1.
KERNEL reflect_shift_fwd_f32(const float* __restrict__ x, float* __restrict__ y,
                             const int* __restrict__ stored, ReflectShiftParams p) {
    if (stored) p.dy = stored[0] - 1, p.dx = stored[1] - 1;
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.n * p.h * p.w * p.c) return;
    int channel = at % p.c, pixel = at / p.c;
    int j = pixel % p.w, i = pixel / p.w % p.h, image = pixel / p.w / p.h;
    int from = (image * p.h + mirror(i + p.dy, p.h)) * p.w + mirror(j + p.dx, p.w);
    y[at] = x[from * p.c + channel];
}

// The outputs along an axis of n that read input s under a shift: -1 for none.
DEV void readers(int s, int n, int shift, int* moved, int* mirrored) {
    int t = s - shift;
    *moved = t >= 0 && t < n ? t : -1;
    *mirrored = shift == 1 && s == n - 2 ? n - 1 : (shift == -1 && s == 1 ? 0 : -1);
}

KERNEL reflect_shift_bwd_f32(const float* __restrict__ dy, float* __restrict__ dx,
                             const int* __restrict__ stored, ReflectShiftParams p) {
    if (stored) p.dy = stored[0] - 1, p.dx = stored[1] - 1;
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.n * p.h * p.w * p.c) return;
    int channel = at % p.c, pixel = at / p.c;
    int j = pixel % p.w, i = pixel / p.w % p.h, image = pixel / p.w / p.h;
    int rows[2], columns[2];
    readers(i, p.h, p.dy, &rows[0], &rows[1]);
    readers(j, p.w, p.dx, &columns[0], &columns[1]);
    float sum = 0.0f;
#pragma unroll
    for (int a = 0; a < 2; a++) {
#pragma unroll
        for (int b = 0; b < 2; b++) {
            if (rows[a] < 0 || columns[b] < 0) continue;
            sum += dy[((image * p.h + rows[a]) * p.w + columns[b]) * p.c + channel];
        }
    }
    dx[at] = sum;
}
