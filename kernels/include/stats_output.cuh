// What follows a frozen network's convolution (src/ops/conv_stats) while its sums are in registers: statistics per channel,
// residual sum, ReLU with a bit per element.
//
//   y = sums + bias     mean, variance of y per channel     u = relu(y [+ residual])
#pragma once
#include "column_groups.cuh"
#include "conv_output.cuh"
#include "last_block.cuh"
#include "moments.cuh"

// Mirrors Params of src/ops/conv_stats/gpu.rs. What a flag does not ask for is null.
struct ConvStats {
    const float *bias, *residual;
    float *y, *u;
    unsigned char* mask;
    float* partial;  // [3][blocks][k]: counts, means, sums of squared differences
    float *mean, *var;
    unsigned* arrivals;  // a counter per column of blocks
    int k, flags;
};
enum { STATS_RESIDUAL = 1, STATS_RELU = 2, STATS_MASK = 4, STATS_Y = 8, STATS_U = 16, STATS_MOMENTS = 32 };

// From y to u in place; whether it is positive.
DEV bool stats_step(float& v, bool relu) {
    bool positive = v > 0.0f;
    if (relu && v <= 0.0f) v = 0.0f;
    return positive;
}

// k is a multiple of 8, and pointers are 16-byte aligned.
template <class Columns>
struct StatsOutput {
    static constexpr int W = Columns::WIDTH, GROUPS = Columns::GROUPS;
    const ConvStats& p;
    int flags, first;
    float bias[GROUPS][W];
    // Of this thread's values in each column: sums of differences from the first one, as in moments.cuh.
    float shift[GROUPS][W], sum[GROUPS][W], square[GROUPS][W];
    int count;

    METHOD explicit StatsOutput(const ConvStats& p_) : p(p_), flags(opaque(p_.flags)), first(0), count(0) {}
    METHOD int column(int group) const { return first + Columns::first(group); }
    METHOD void start(int col) {
        first = col;
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
#pragma unroll
            for (int e = 0; e < W; e++) {
                bias[i][e] = column(i) < p.k ? p.bias[column(i) + e] : 0.0f;
                shift[i][e] = sum[i][e] = square[i][e] = 0.0f;
            }
        }
    }
    METHOD void put(int group, int pixel, float (&v)[W]) {
        int col = column(group), at = pixel * p.k + col;
        bool inside = pixel >= 0 && col < p.k;
        unsigned passes = 0;
        if (inside) {
#pragma unroll
            for (int e = 0; e < W; e++) v[e] += bias[group][e];
            if (flags & STATS_MOMENTS) {
#pragma unroll
                for (int e = 0; e < W; e++) {
                    if (count == 0) shift[group][e] = v[e];
                    float d = v[e] - shift[group][e];
                    sum[group][e] += d;
                    square[group][e] += d * d;
                }
            }
            if (flags & STATS_Y) store_columns<W>(p.y + at, v);
            if (flags & STATS_RESIDUAL) {
                float r[W];
                load_columns<W>(r, p.residual + at);
#pragma unroll
                for (int e = 0; e < W; e++) v[e] = __fadd_rn(v[e], r[e]);
            }
#pragma unroll
            for (int e = 0; e < W; e++) passes |= (stats_step(v[e], flags & STATS_RELU) ? 1u : 0u) << e;
            if (flags & STATS_U) store_columns<W>(p.u + at, v);
        }
        if (pixel >= 0 && group == GROUPS - 1) count++;
        if (flags & STATS_MASK) {
            passes = eight_bits<W>(passes, col);
            if (inside && col % 8 == 0) p.mask[at / 8] = (unsigned char)passes;
        }
    }
    // Of every column of the block and each of its warps: counts, means, sums of squared differences.
    typedef float Stacked[3][Columns::STACKED][Columns::COLS];
    METHOD void finish() const {
        SMEM(Stacked, stacked, [1]);
        collect(stacked[0]);
        combine(p, first, stacked[0]);
    }
    // Those of these columns.
    METHOD void collect(Stacked& stacked) const {
        if (!(flags & STATS_MOMENTS)) return;
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
#pragma unroll
            for (int e = 0; e < W; e++) {
                Moments m = shifted_moments((float)count, shift[i][e], sum[i][e], square[i][e]);
                m = warp_moments(m, Columns::APART);
                if ((int)threadIdx.x % 32 < Columns::APART) {
                    int c = Columns::first(i) + e;
                    stacked[0][Columns::stack()][c] = m.n;
                    stacked[1][Columns::stack()][c] = m.mean;
                    stacked[2][Columns::stack()][c] = m.m2;
                }
            }
        }
    }
    // The block's statistics, and behind the last block's those of all, of columns from `first` on.
    static METHOD void combine(const ConvStats& p, int first, Stacked& stacked) {
        if (!(p.flags & STATS_MOMENTS)) return;
        __syncthreads();
        int c = threadIdx.x, blocks = gridDim.x, at = (int)blockIdx.x * p.k + first + c;
        if (c < Columns::COLS && first + c < p.k) {
            Moments m = {0.0f, 0.0f, 0.0f};
            for (int i = 0; i < Columns::STACKED; i++) m = merge(m, {stacked[0][i][c], stacked[1][i][c], stacked[2][i][c]});
            p.partial[at] = m.n;
            p.partial[blocks * p.k + at] = m.mean;
            p.partial[2 * blocks * p.k + at] = m.m2;
        }
        if (!last_block(p.arrivals + blockIdx.y, blocks)) return;
        // A warp per channel.
        for (int c = first + (int)threadIdx.x / 32; c < min(first + Columns::COLS, p.k); c += CONV_THREADS / 32) {
            Moments m = {0.0f, 0.0f, 0.0f};
#pragma unroll 4
            for (int i = threadIdx.x % 32; i < blocks; i += 32) {
                const float* from = p.partial + i * p.k + c;
                m = merge(m, {__ldcg(from), __ldcg(from + blocks * p.k), __ldcg(from + 2 * blocks * p.k)});
            }
            m = warp_moments(m, 1);
            if (threadIdx.x % 32 == 0) {
                p.mean[c] = m.mean;
                p.var[c] = m.m2 / m.n;
            }
        }
    }
};
