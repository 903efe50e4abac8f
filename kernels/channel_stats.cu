// Mean and biased variance per channel (src/ops/channel_stats.rs).
//
// mapping   see include/row_stages.cuh
// traffic   fwd 4 bytes per element, bwd 8
// order     fixed: rows of a thread, tree over a block's threads, chunks of a lane, tree over lanes
// numbers   see include/moments.cuh
#include "include/device.cuh"
#include "include/last_block.cuh"
#include "include/moments.cuh"
#include "include/row_stages.cuh"

// partial: [2][chunks][c], means then sums of squared differences. arrivals: a counter per column of blocks, whose last block
// merges the chunks, a warp per channel.
KERNEL channel_stats_fwd_f32(const float* __restrict__ x, float* partial, float* __restrict__ mean, float* __restrict__ var,
                             unsigned* arrivals, RowStages p) {
    RowWalk w = row_walk(p);
    Moments m = block_moments(x, p, w);
    if ((int)threadIdx.x < p.lanes && w.channel < p.c) {
        partial[w.slot] = m.mean;
        partial[p.chunks * p.c + w.slot] = m.m2;
    }
    if (!last_block(arrivals + blockIdx.x, p.chunks)) return;
    for (ChannelWalk of(p); of.more(); of.next()) {
        m = {0.0f, 0.0f, 0.0f};
#pragma unroll 4
        for (int chunk = threadIdx.x % 32; chunk < p.chunks; chunk += 32) {
            Moments b;
            b.n = (float)min(p.rows_per_chunk, p.rows - chunk * p.rows_per_chunk);
            b.mean = __ldcg(partial + chunk * p.c + of.channel);
            b.m2 = __ldcg(partial + (p.chunks + chunk) * p.c + of.channel);
            m = merge(m, b);
        }
        m = warp_moments(m, 1);
        if (threadIdx.x % 32 == 0) {
            mean[of.channel] = m.mean;
            var[of.channel] = m.m2 / (float)p.rows;
        }
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
