// Smallest and largest value per row, and their moving average (src/ops/observe.rs).
//
// layout    x [rows, length]; partial [rows, pieces, 2]
// mapping   grid (pieces of 8192 elements, rows), 256 threads; finish one warp per row; average one block
// traffic   4 bytes per element
// order     min and max are exact in any order; NaN in, NaN out
#include "include/reduce.cuh"

KERNEL observe_min_max_f32(const float* __restrict__ x, float* __restrict__ partial, int rows, int length) {
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        const float* v = x + row * length;
        float lo = INFINITY, hi = -INFINITY;
        int broken = 0;
        int end = min(length, ((int)blockIdx.x + 1) * 8192);
        for (int i = blockIdx.x * 8192 + threadIdx.x; i < end; i += 256) {
            float a = v[i];
            lo = a < lo ? a : lo;
            hi = a > hi ? a : hi;
            broken |= a != a ? 1 : 0;
        }
        lo = block_min<256>(lo);
        hi = block_max<256>(hi);
        broken = block_max<256>(broken);
        if (threadIdx.x == 0) {
            int at = 2 * (row * (int)gridDim.x + (int)blockIdx.x);
            partial[at] = broken ? (float)NAN : lo;
            partial[at + 1] = broken ? (float)NAN : hi;
        }
    }
}

KERNEL observe_finish_f32(const float* __restrict__ partial, float* __restrict__ lo, float* __restrict__ hi,
                          int pieces) {
    int row = blockIdx.x;
    float low = INFINITY, high = -INFINITY;
    int broken = 0;
    for (int i = threadIdx.x; i < pieces; i += 32) {
        float a = partial[2 * (row * pieces + i)], b = partial[2 * (row * pieces + i) + 1];
        low = a < low ? a : low;
        high = b > high ? b : high;
        broken |= a != a ? 1 : 0;
    }
    low = warp_min(low);
    high = warp_max(high);
    broken = warp_max(broken);
    if (threadIdx.x == 0) {
        lo[row] = broken ? (float)NAN : low;
        hi[row] = broken ? (float)NAN : high;
    }
}

KERNEL observe_ema_f32(float* __restrict__ lo, float* __restrict__ hi, float* __restrict__ t,
                       const float* __restrict__ batch_lo, const float* __restrict__ batch_hi, int n, int legacy,
                       float beta) {
    float old = t[0];
    float next = __fmul_rn(old, beta);
    float keep = legacy ? beta : __fmul_rn(beta, __fsub_rn(1.0f, old));
    float rest = __fsub_rn(1.0f, next), gain = __fsub_rn(1.0f, beta);
    // One block, and every thread has read t before it changes.
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += 256) {
        lo[i] = __fdiv_rn(__fadd_rn(__fmul_rn(keep, lo[i]), __fmul_rn(gain, batch_lo[i])), rest);
        hi[i] = __fdiv_rn(__fadd_rn(__fmul_rn(keep, hi[i]), __fmul_rn(gain, batch_hi[i])), rest);
    }
    if (threadIdx.x == 0) t[0] = next;
}
