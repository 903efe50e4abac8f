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
        m.n = (float)n;
        float mean = sum / m.n;
        m.mean = shift + mean;
        m.m2 = square - sum * mean;
        if (m.m2 < 0.0f) m.m2 = 0.0f;
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
