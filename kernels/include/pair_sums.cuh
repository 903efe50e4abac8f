// Two sums per channel over the rows of a [rows, c] array, in the stages and the fixed order of row_stages.cuh.
#pragma once
#include "last_block.cuh"
#include "reduce.cuh"
#include "row_stages.cuh"

// sums: [2][c], of the first and second half of term(element, channel). partial: [2][chunks][c]. arrivals: a counter per column of
// blocks, whose last block adds up the chunks, a warp per channel.
template <class F>
DEV void pair_sums(float* partial, float* sums, unsigned* arrivals, RowStages p, F term) {
    SMEM(float, first, [256]);
    SMEM(float, second, [256]);
    RowWalk w = row_walk(p);
    int t = threadIdx.x;
    float a = 0.0f, b = 0.0f;
    if (w.channel < p.c) {
        for (int row = w.row; row < w.end; row += w.step) {
            float2 v = term((size_t)row * p.c + w.channel, w.channel);
            a += v.x;
            b += v.y;
        }
    }
    first[t] = a;
    second[t] = b;
    __syncthreads();
    for (int half = 128; half >= p.lanes; half /= 2) {
        if (t < half) {
            first[t] += first[t + half];
            second[t] += second[t + half];
        }
        __syncthreads();
    }
    if (t < p.lanes && w.channel < p.c) {
        partial[w.slot] = first[t];
        partial[p.chunks * p.c + w.slot] = second[t];
    }
    if (!last_block(arrivals + blockIdx.x, p.chunks)) return;
    for (ChannelWalk of(p); of.more(); of.next()) {
        a = b = 0.0f;
#pragma unroll 4
        for (int chunk = t % 32; chunk < p.chunks; chunk += 32) {
            a += __ldcg(partial + chunk * p.c + of.channel);
            b += __ldcg(partial + (p.chunks + chunk) * p.c + of.channel);
        }
        a = warp_sum(a);
        b = warp_sum(b);
        if (t % 32 == 0) {
            sums[of.channel] = a;
            sums[p.c + of.channel] = b;
        }
    }
}
