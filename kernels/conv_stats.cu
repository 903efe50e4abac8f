// A frozen network's layer (src/ops/conv_stats): statistics per channel of what its convolution computes, residual sum, ReLU
// with a bit per element; and the gradients of ReLU, sum and statistics. `fprop` is the convolution with all of it, whose
// last block puts the statistics together; `fwd` is residual sum and ReLU alone, behind conv2d_*.cu and channel_stats.cu.
//
// layout    y, u, residual NPQK as [rows = n p, row = q k]; mask [rows, ceil(row / 8)] bytes; vectors [k]; x NHWC, w KRSC
// mapping   fwd, bwd: one thread per eight elements of a row. fprop: include/conv_fprop.cuh, conv_halo.cuh and, for many channels,
//           conv_stages.cuh: of 64 columns in three stages of 24 KiB (four and the sums of the statistics are more than a
//           block of sm_86 may have), of 128 in three of 32 KiB, whose place those sums take; k in eights, so that a byte of
//           the mask is one group of columns; statistics at the end: a warp per channel
// traffic   fwd 8 bytes per element (+ 4 residual, + 1/8 mask); bwd 8 (+ 4 y, + 4 residual's gradient, + 1/8). fprop: x, w, and
//           4 per element (+ 4 u where y is kept, + 4 residual, + 1/8 mask)
// order     statistics: a thread's pixels, tree over lanes, warps, then blocks of a lane, tree over lanes
// numbers   see include/moments.cuh
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_fprop.cuh"
#include "include/conv_halo.cuh"
#include "include/conv_stages.cuh"
#include "include/stats_output.cuh"

// residual and mask may be null; u may be y.
KERNEL conv_stats_fwd_f32(const float* y, const float* __restrict__ residual, float* u, unsigned char* __restrict__ mask,
                          int rows, int row, int relu) {
    int bytes = (row + 7) / 8;
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= rows * bytes) return;
    int start = i / bytes * row, first = i % bytes * 8;
    unsigned passes = 0;
    for (int e = 0; e < 8 && first + e < row; e++) {
        int at = start + first + e;
        float v = y[at];
        if (residual) v = __fadd_rn(v, residual[at]);
        passes |= (stats_step(v, relu) ? 1u : 0u) << e;
        u[at] = v;
    }
    if (mask) mask[i] = (unsigned char)passes;
}

#define STATS(name, MATH, COLS, VEC)                                                                                  \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                         \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ w, ConvStats p) {                    \
        fprop<MATH, COLS, VEC>(z, x, w, StatsOutput<Accumulator<MATH, COLS>::Columns>(p));                            \
    }
#define STATS_HALO(name, MATH, C, MS)                                                                                 \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                         \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ w, ConvStats p, int tiles) {         \
        halo<MATH, C, MS, false>(z, x, w, StatsOutput<HaloColumns<C>>(p), tiles);                                     \
    }
// 128 columns in halves, whose statistics the registers have room for.
template <ConvMath MATH, int COUNT>
DEV void stats_halves(const ConvShape& z, const float* x, const float* w, const ConvStats& p) {
    fprop_sums<MATH, 128, COUNT>(z, x, w, [&](const auto& sums, auto pixel, int first_col) {
        typedef typename Accumulator<MATH, 128>::Columns Columns;
        typedef typename StatsOutput<Columns>::Stacked Stacked;
        constexpr int HALF = Columns::GROUPS / 2;
        // Where the slices were.
        DYN_SMEM(Stacked, stacked);
        __syncthreads();
        StatsOutput<SomeColumns<Columns, 0, HALF>> first(p);
        first.start(first_col);
        sums.template give<0, HALF - 1>(pixel, first);
        first.collect(stacked[0]);
        StatsOutput<SomeColumns<Columns, HALF, HALF>> second(p);
        second.start(first_col);
        sums.template give<HALF, 2 * HALF - 1>(pixel, second);
        second.collect(stacked[0]);
        StatsOutput<Columns>::combine(p, first_col, stacked[0]);
    });
}

#define STATS_STAGES(name, MATH, COLS, COUNT)                                                                         \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                         \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ w, ConvStats p) {                    \
        fprop_stages<MATH, COLS, COUNT>(z, x, w, StatsOutput<Accumulator<MATH, COLS>::Columns>(p));                   \
    }
#define STATS_HALVES(name, MATH)                                                                                      \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                         \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ w, ConvStats p) {                    \
        stats_halves<MATH, Stages<128>::MOST>(z, x, w, p);                                                            \
    }

STATS(conv_stats_fprop_f32_n16, F32, 16, true)
STATS(conv_stats_fprop_f32_n32, F32, 32, true)
STATS(conv_stats_fprop_f32_n64, F32, 64, true)
STATS(conv_stats_fprop_f32_any, F32, 32, false)
STATS(conv_stats_fprop_tf32_n16, TF32, 16, true)
STATS(conv_stats_fprop_tf32_n32, TF32, 32, true)
STATS(conv_stats_fprop_tf32_n64, TF32, 64, true)
STATS(conv_stats_fprop_tf32_any, TF32, 32, false)
STATS(conv_stats_fprop_bf16_n16, BF16, 16, true)
STATS(conv_stats_fprop_bf16_n32, BF16, 32, true)
STATS(conv_stats_fprop_bf16_n64, BF16, 64, true)
STATS(conv_stats_fprop_bf16_any, BF16, 32, false)
STATS_HALO(conv_stats_fprop_tf32_halo16, TF32, 16, 2)
STATS_HALO(conv_stats_fprop_tf32_halo32, TF32, 32, 1)
STATS_HALO(conv_stats_fprop_bf16_halo16, BF16, 16, 2)
STATS_HALO(conv_stats_fprop_bf16_halo32, BF16, 32, 1)
STATS_STAGES(conv_stats_fprop_tf32_stages64, TF32, 64, 3)
STATS_HALVES(conv_stats_fprop_tf32_stages128, TF32)
STATS_HALVES(conv_stats_fprop_bf16_stages128, BF16)

// mask may be null; y, mean, dmean and dvar are null together; dresidual may be null.
KERNEL conv_stats_bwd_f32(const float* __restrict__ du, const unsigned char* __restrict__ mask,
                          const float* __restrict__ y, const float* __restrict__ mean,
                          const float* __restrict__ dmean, const float* __restrict__ dvar, float* __restrict__ dy,
                          float* __restrict__ dresidual, int rows, int row, int k, float inverse_rows) {
    int bytes = (row + 7) / 8;
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= rows * bytes) return;
    int start = i / bytes * row, first = i % bytes * 8;
    unsigned passes = mask ? mask[i] : 0xffu;
    for (int e = 0; e < 8 && first + e < row; e++) {
        int at = start + first + e;
        float v = passes >> e & 1 ? du[at] : 0.0f;
        if (dresidual) dresidual[at] = v;
        if (y) {
            int c = (first + e) % k;
            v += dmean[c] * inverse_rows + 2.0f * dvar[c] * inverse_rows * (y[at] - mean[c]);
        }
        dy[at] = v;
    }
}
