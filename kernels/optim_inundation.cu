// How many quantized weights a step would change (src/optim/inundation.rs).
//
// mapping   one block of 256 threads per output channel
// traffic   16 bytes per weight (8 with given ranges), the second half from cache
// order     integer counts and extremes: no order matters
#include "include/quant.cuh"
#include "include/reduce.cuh"

struct InundationParams {
    float factor;
    int length, bits, ranges;  // ranges: 1 if there is one for each channel, 0 if one for all
};

// The weight after the step, not fused: the same bits as on the CPU.
DEV float moved(float weight, float step, float factor) { return __fsub_rn(weight, __fmul_rn(factor, step)); }

// lo, hi may be null: the extremes of the channel's weights, before and after.
KERNEL optim_inundation_f32(const float* __restrict__ weights, const float* __restrict__ steps,
                            const float* __restrict__ lo, const float* __restrict__ hi, int* __restrict__ counts,
                            InundationParams p) {
    int row = blockIdx.x;
    const float* w = weights + (size_t)row * p.length;
    const float* s = steps + (size_t)row * p.length;
    float old_lo, old_hi, new_lo, new_hi;
    if (lo) {
        old_lo = new_lo = lo[row * p.ranges];
        old_hi = new_hi = hi[row * p.ranges];
    } else {
        old_lo = new_lo = INFINITY;
        old_hi = new_hi = -INFINITY;
        for (int i = threadIdx.x; i < p.length; i += 256) {
            float a = w[i], b = moved(a, s[i], p.factor);
            old_lo = a < old_lo ? a : old_lo;
            old_hi = a > old_hi ? a : old_hi;
            new_lo = b < new_lo ? b : new_lo;
            new_hi = b > new_hi ? b : new_hi;
        }
        old_lo = block_min<256>(old_lo);
        old_hi = block_max<256>(old_hi);
        new_lo = block_min<256>(new_lo);
        new_hi = block_max<256>(new_hi);
    }
    Affine before = affine_of(old_lo, old_hi, p.bits), after = affine_of(new_lo, new_hi, p.bits);
    int count = 0;
    for (int i = threadIdx.x; i < p.length; i += 256) {
        count += affine_code(before, w[i]) != affine_code(after, moved(w[i], s[i], p.factor));
    }
    count = block_sum<256>(count);
    if (threadIdx.x == 0) counts[row] = count;
}
