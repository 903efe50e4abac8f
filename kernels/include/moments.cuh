// Mean and sum of squared differences of rows x[.][c], per channel: each thread sums differences from its first value (no
// cancellation, no division in the loop), then (count, mean, sum of squared differences) triples are merged (Chan et al.
// 1979) in a tree.
#pragma once
#include "device.cuh"
#include "row_stages.cuh"

struct Moments {
    float n, mean, m2;
};

DEV Moments merge(Moments a, Moments b) {
    float n = a.n + b.n;
    if (b.n == 0.0f) return a;
    if (a.n == 0.0f) return b;
    float d = b.mean - a.mean;
    float share = b.n / n;
    Moments r;
    r.n = n;
    r.mean = a.mean + d * share;
    r.m2 = a.m2 + b.m2 + d * d * a.n * share;
    return r;
}

// Sums of differences from the first value, of n values.
DEV Moments shifted_moments(float n, float shift, float sum, float square) {
    if (n == 0.0f) return {0.0f, 0.0f, 0.0f};
    float mean = sum / n;
    Moments m = {n, shift + mean, square - sum * mean};
    if (m.m2 < 0.0f) m.m2 = 0.0f;
    return m;
}

// Of all lanes whose numbers differ by multiples of `apart` (a power of two), in the lanes below it; others hold parts.
DEV Moments warp_moments(Moments m, int apart) {
    for (int lanes = 16; lanes >= apart; lanes /= 2) {
        Moments b;
        b.n = __shfl_down_sync(0xffffffffu, m.n, lanes);
        b.mean = __shfl_down_sync(0xffffffffu, m.mean, lanes);
        b.m2 = __shfl_down_sync(0xffffffffu, m.m2, lanes);
        m = merge(m, b);
    }
    return m;
}

// The moments of the block's rows, one channel per thread below p.lanes (other threads hold parts of them).
DEV Moments block_moments(const float* __restrict__ x, RowStages p, RowWalk w) {
    SMEM(float, ns, [256]);
    SMEM(float, means, [256]);
    SMEM(float, m2s, [256]);
    int t = threadIdx.x;
    Moments m = {0.0f, 0.0f, 0.0f};
    if (w.channel < p.c && w.row < w.end) {
        float shift = x[(size_t)w.row * p.c + w.channel];
        float sum = 0.0f, square = 0.0f;
        int n = 0;
        for (int row = w.row; row < w.end; row += w.step) {
            float d = x[(size_t)row * p.c + w.channel] - shift;
            sum += d;
            square += d * d;
            n++;
        }
        m = shifted_moments((float)n, shift, sum, square);
    }
    ns[t] = m.n;
    means[t] = m.mean;
    m2s[t] = m.m2;
    __syncthreads();
    for (int half = 128; half >= p.lanes; half /= 2) {
        if (t < half) {
            Moments a = {ns[t], means[t], m2s[t]};
            Moments b = {ns[t + half], means[t + half], m2s[t + half]};
            a = merge(a, b);
            ns[t] = a.n;
            means[t] = a.mean;
            m2s[t] = a.m2;
        }
        __syncthreads();
    }
    return {ns[t], means[t], m2s[t]};
}
