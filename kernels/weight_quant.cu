// All weights of a network quantized in one launch (src/ops/weight_quant.rs): extremes of each row, then codes and values.
//
// layout    flat buffer; table [rows, 3]: start, length, bits; lo and hi [rows]
// mapping   one block of 128 threads per row, which it reads twice (from the cache the second time)
// traffic   4 bytes per weight read, 5 written
// order     min and max are exact in any order; NaN in a row makes its range NaN
#include "include/quant.cuh"
#include "include/reduce.cuh"

KERNEL weight_quant_fwd_f32(const float* __restrict__ flat, const int* __restrict__ table, float* __restrict__ values,
                            signed char* __restrict__ codes, float* __restrict__ lo, float* __restrict__ hi) {
    int row = blockIdx.x, start = table[3 * row], length = table[3 * row + 1], bits = table[3 * row + 2];
    float low = INFINITY, high = -INFINITY;
    int broken = 0;
    for (int i = threadIdx.x; i < length; i += 128) {
        float w = flat[start + i];
        low = w < low ? w : low;
        high = w > high ? w : high;
        broken |= w != w ? 1 : 0;
    }
    low = block_min<128>(low);
    high = block_max<128>(high);
    broken = block_max<128>(broken);
    if (broken) low = high = (float)NAN;
    if (threadIdx.x == 0) {
        lo[row] = low;
        hi[row] = high;
    }
    Affine a = affine_of(low, high, bits);
    for (int i = threadIdx.x; i < length; i += 128) {
        float code = affine_code(a, flat[start + i]);
        values[start + i] = affine_value(a, code);
        codes[start + i] = code_byte(code);
    }
}
