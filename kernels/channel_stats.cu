// Mean and biased variance per channel (src/ops/channel_stats.rs).
//
// mapping   see include/row_stages.cuh
// traffic   fwd 4 bytes per element, bwd 8
// order     fixed: rows of a thread, tree over a block's threads, chunks of a lane, tree over lanes
// numbers   see include/moments.cuh
#include "include/device.cuh"
#include "include/moments.cuh"
#include "include/reduce.cuh"
#include "include/row_stages.cuh"

// partial: [2][chunks][c], means then sums of squared differences
KERNEL channel_stats_fwd_partial_f32(const float* __restrict__ x, float* __restrict__ partial, RowStages p) {
    RowWalk w = row_walk(p);
    Moments m = block_moments(x, p, w);
    if ((int)threadIdx.x < p.lanes && w.channel < p.c) {
        partial[w.slot] = m.mean;
        partial[p.chunks * p.c + w.slot] = m.m2;
    }
}

KERNEL channel_stats_fwd_final_f32(const float* __restrict__ partial, float* __restrict__ mean, float* __restrict__ var,
                                   RowStages p) {
    int channel = blockIdx.x;
    int lane = threadIdx.x;
    Moments m = {0.0f, 0.0f, 0.0f};
    for (int chunk = lane; chunk < p.chunks; chunk += 32) {
        Moments b;
        b.n = (float)min(p.rows_per_chunk, p.rows - chunk * p.rows_per_chunk);
        b.mean = partial[chunk * p.c + channel];
        b.m2 = partial[(p.chunks + chunk) * p.c + channel];
        m = merge(m, b);
    }
    m = warp_moments(m, 1);
    if (lane == 0) {
        mean[channel] = m.mean;
        var[channel] = m.m2 / (float)p.rows;
    }
}

// sums[2][c] = over chunks of partial[2][chunks][c]: second stage of any pair of sums.
KERNEL channel_stats_bwd_final_f32(const float* __restrict__ partial, float* __restrict__ sums, RowStages p) {
    int channel = blockIdx.x;
    float a = 0.0f, b = 0.0f;
    for (int chunk = threadIdx.x; chunk < p.chunks; chunk += 32) {
        a += partial[chunk * p.c + channel];
        b += partial[(p.chunks + chunk) * p.c + channel];
    }
    a = warp_sum(a);
    b = warp_sum(b);
    if (threadIdx.x == 0) {
        sums[channel] = a;
        sums[p.c + channel] = b;
    }
}

// dmean or dvar may be null: nothing flowed back to it.
KERNEL channel_stats_bwd_f32(const float* __restrict__ x, const float* __restrict__ mean,
                             const float* __restrict__ dmean, const float* __restrict__ dvar, float* __restrict__ dx,
                             int n, int c, float inverse_rows) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int channel = i % c;
    float g = dmean ? dmean[channel] * inverse_rows : 0.0f;
    if (dvar) g += 2.0f * dvar[channel] * inverse_rows * (x[i] - mean[channel]);
    dx[i] = g;
}
