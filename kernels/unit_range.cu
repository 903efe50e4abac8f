// Every row stretched to 0..1 (src/ops/unit_range.rs).
//
// layout    x, y, dy, dx [rows, length]; inverse [rows], 1 / range or 0
// mapping   one block per row
// traffic   fwd 8 bytes per element, bwd 12, rows from cache the second time
// order     elements of a thread, warps, block
#include "include/reduce.cuh"

constexpr int UNIT_RANGE_THREADS = 128;

KERNEL unit_range_fwd_f32(const float* __restrict__ x, float* __restrict__ y, float* __restrict__ inverse, int length) {
    x += (long long)blockIdx.x * length;
    y += (long long)blockIdx.x * length;
    float low = INFINITY, high = -INFINITY;
    int broken = 0;
    for (int i = threadIdx.x; i < length; i += UNIT_RANGE_THREADS) {
        float v = x[i];
        low = v < low ? v : low;
        high = v > high ? v : high;
        broken |= v != v;
    }
    low = block_min<UNIT_RANGE_THREADS>(low);
    high = block_max<UNIT_RANGE_THREADS>(high);
    broken = block_max<UNIT_RANGE_THREADS>(broken);
    float range = high - low;
    bool flat = range < 1e-10f;
    for (int i = threadIdx.x; i < length; i += UNIT_RANGE_THREADS) {
        y[i] = broken ? NAN : flat ? 0.0f : (x[i] - low) / range;
    }
    if (threadIdx.x == 0) inverse[blockIdx.x] = broken ? NAN : flat ? 0.0f : 1.0f / range;
}

KERNEL unit_range_bwd_f32(const float* __restrict__ y, const float* __restrict__ inverse, const float* __restrict__ dy,
                          float* __restrict__ dx, int length) {
    y += (long long)blockIdx.x * length;
    dy += (long long)blockIdx.x * length;
    dx += (long long)blockIdx.x * length;
    float inv = inverse[blockIdx.x];
    double to_low = 0.0, to_high = 0.0;
    int first_low = length, first_high = length;
    for (int i = threadIdx.x; i < length; i += UNIT_RANGE_THREADS) {
        float v = y[i], g = dy[i];
        to_low += (double)g * (1.0 - (double)v);
        to_high += (double)g * (double)v;
        if (v == 0.0f && i < first_low) first_low = i;
        if (v == 1.0f && i < first_high) first_high = i;
    }
    to_low = block_sum<UNIT_RANGE_THREADS>(to_low);
    to_high = block_sum<UNIT_RANGE_THREADS>(to_high);
    first_low = block_min<UNIT_RANGE_THREADS>(first_low);
    first_high = block_min<UNIT_RANGE_THREADS>(first_high);
    for (int i = threadIdx.x; i < length; i += UNIT_RANGE_THREADS) {
        float g = dy[i] * inv;
        if (i == first_low) g -= (float)to_low * inv;
        if (i == first_high) g -= (float)to_high * inv;
        dx[i] = g;
    }
}
