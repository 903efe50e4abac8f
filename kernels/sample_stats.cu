// Mean and biased variance per sample and channel (src/ops/sample_stats.rs).
//
// mapping   fwd as stage 1 of include/row_stages.cuh with one chunk of rows per sample; bwd one thread per element
// traffic   fwd 4 bytes per element, bwd 8
// order     fixed: rows of a thread, tree over a block's threads
// numbers   see include/moments.cuh
#include "include/device.cuh"
#include "include/moments.cuh"
#include "include/row_stages.cuh"

// mean, var: [n][c]; p.chunks = n, p.rows_per_chunk = pixels.
KERNEL sample_stats_fwd_f32(const float* __restrict__ x, float* __restrict__ mean, float* __restrict__ var,
                            RowStages p) {
    RowWalk w = row_walk(p);
    Moments m = block_moments(x, p, w);
    if ((int)threadIdx.x < p.lanes && w.channel < p.c) {
        mean[w.slot] = m.mean;
        var[w.slot] = m.m2 / (float)p.rows_per_chunk;
    }
}

// dmean or dvar may be null: nothing flowed back to it.
KERNEL sample_stats_bwd_f32(const float* __restrict__ x, const float* __restrict__ mean,
                            const float* __restrict__ dmean, const float* __restrict__ dvar, float* __restrict__ dx,
                            int size, int pixels, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    int at = i / (pixels * c) * c + i % c;
    float inverse = 1.0f / (float)pixels;
    float g = dmean ? dmean[at] * inverse : 0.0f;
    if (dvar) g += 2.0f * dvar[at] * inverse * (x[i] - mean[at]);
    dx[i] = g;
}
