// Tensors side by side (src/ops/concat.rs).
//
// mapping   one thread per element of one part
// traffic   the part read and written
// order     no reductions
#include "include/device.cuh"

// Columns from..from + c of rows of `all`; count: elements of the part.
struct Part {
    int count, all, from, c;
};

KERNEL concat_fwd_f32(const float* __restrict__ x, float* __restrict__ y, Part p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    y[i / p.c * p.all + p.from + i % p.c] = x[i];
}

KERNEL concat_bwd_f32(const float* __restrict__ dy, float* __restrict__ dx, Part p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.count) return;
    dx[i] = dy[i / p.c * p.all + p.from + i % p.c];
}
