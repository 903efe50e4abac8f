// Scale and shift per channel (src/ops/channel_affine.rs).
//
// mapping   fwd: one thread per element; sums: see include/row_stages.cuh
// traffic   fwd 8 bytes per element; sums 8, or 4 where only the shift's is wanted
// order     fixed (include/pair_sums.cuh)
// numbers   the product is rounded, then the sum
#include "include/pair_sums.cuh"

// scale or shift may be null. Backward of x too, with dy for x and no shift.
KERNEL channel_affine_fwd_f32(const float* __restrict__ x, const float* __restrict__ scale,
                              const float* __restrict__ shift, float* __restrict__ y, int n, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    if (scale) v = __fmul_rn(v, scale[i % c]);
    if (shift) v = __fadd_rn(v, shift[i % c]);
    y[i] = v;
}

// sums: [2][c], of dy, then of dy x. x may be null: then the second are zero.
KERNEL channel_affine_bwd_sums_f32(const float* __restrict__ dy, const float* __restrict__ x, float* partial,
                                   float* __restrict__ sums, unsigned* arrivals, RowStages p) {
    pair_sums(partial, sums, arrivals, p, [=](size_t i, int) {
        float g = dy[i];
        return make_float2(g, x ? g * x[i] : 0.0f);
    });
}
