// 3x3 convolutions of stride 1 and padding 1 with 16 or 32 channels on both sides (src/ops/conv2d), where the general
// kernels would read every input nine times from L2: all three passes, TF32 and BF16.
//
// layout    x NHWC, w KRSC, y NPQK, all f32; 16-byte aligned; wgrad also takes x as 8-bit codes of one range (`codes`), and
//           hands out the column sums of dy, the bias gradient
// mapping   persistent blocks of 8 warps walk over tiles of 16 columns and 8 or 16 rows of one image. A tile with its border of
//           one pixel is converted and stored to shared memory once; a tap is then an offset of the addresses that ldmatrix
//           reads. fprop, dgrad: a warp owns one or two rows of 16 pixels and all columns k; the filter stays in shared
//           memory for the block's life, for dgrad flipped and transposed. wgrad: a warp owns 16 k x 8 c of all nine taps,
//           warps beyond C * K / 128 take other rows of the tile; the block's sum is one part for conv2d_sum_f32.
// traffic   from DRAM 4 bytes * (x + y), x 1.27 times (8 rows: 1.41 times) through L2
// pitch     shared rows of pixels are padded so that the eight rows of an ldmatrix, or the words of a fragment read one by
//           one, fall into different banks
// order     fprop, dgrad: taps, then channels, ascending. wgrad: tiles of the block, rows, pixels; then warps, then parts;
//           column sums: tiles, pixels of a thread, lanes, warps, parts
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_halo.cuh"
#include "include/grad_output.cuh"

// One part of dw[k 3 3 c] per block, to dw + blockIdx.x * (its elements), and of dy's column sums, to columns + blockIdx.x * C.
template <ConvMath MATH, int C, typename X>
DEV void halo_wgrad(const ConvShape& z, const ConvInput<X>& x, const float* dy, float* dw, float* columns, float beta,
                    int tiles) {
    constexpr int ROWS = 8, PITCH = Halo<MATH, C>::ALONG, WIDE = HALO_COLS + 2;
    constexpr int OWNERS = C / 16 * (C / 8), GROUPS = 8 / OWNERS;  // warps for one copy of dw, copies
    DYN_SMEM(uint32_t, words);
    uint32_t* grads = words + (ROWS + 2) * WIDE * PITCH;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
    int first_k = warp % OWNERS / (C / 8) * 16, first_c = warp % (C / 8) * 8, group = warp / OWNERS;
    float d[9][4] = {}, total[4] = {};
    ConvInput<float> gradient(dy, nullptr, nullptr, 0);
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        HaloTile at(tile, ROWS, z);
        __syncthreads();
        float unused[4] = {};
        halo_load<MATH, C, PITCH, ROWS + 2, WIDE>(words, x, z, at.n, at.h - 1, at.w - 1, unused);
        halo_load<MATH, C, PITCH, ROWS, HALO_COLS>(grads, gradient, z, at.n, at.h, at.w, total);
        __syncthreads();
        for (int row = group; row < ROWS; row += GROUPS) {
            if constexpr (MATH == BF16) {
                // Sixteen pixels are the depth of one product: transposed on the way to registers.
                uint32_t a[4];
                const uint32_t* from = grads + row * HALO_COLS * PITCH + first_k / 2;
                ldmatrix_x4_trans(a, from + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 4);
#pragma unroll
                for (int tap = 0; tap < 9; tap++) {
                    uint32_t b[2];
                    const uint32_t* window = words + ((row + tap / 3) * WIDE + tap % 3) * PITCH + first_c / 2;
                    ldmatrix_x2_trans(b, window + lane % 16 * PITCH);
                    mma_bf16(d[tap], a, b[0], b[1]);
                }
            } else {
#pragma unroll
                for (int step = 0; step < HALO_COLS / 8; step++) {
                    const uint32_t* from = grads + (row * HALO_COLS + step * 8 + t) * PITCH + first_k + g;
                    uint32_t a[4] = {from[0], from[8], from[4 * PITCH], from[4 * PITCH + 8]};
#pragma unroll
                    for (int tap = 0; tap < 9; tap++) {
                        const uint32_t* window =
                            words + ((row + tap / 3) * WIDE + tap % 3 + step * 8 + t) * PITCH + first_c + g;
                        mma_tf32(d[tap], a, window[0], window[4 * PITCH]);
                    }
                }
            }
        }
    }
    if (columns != nullptr) conv_column_sums<C / 4, 4>(total, columns + (size_t)blockIdx.x * C, C);
    // The copies of other warps, through shared memory, added in order.
    float* copies = reinterpret_cast<float*>(words);  // [copy][k][tap][c]
    constexpr int ELEMENTS = C * 9 * C;
    if constexpr (GROUPS > 1) {
        __syncthreads();
    }
    float* out = dw + (size_t)blockIdx.x * ELEMENTS;
#pragma unroll
    for (int tap = 0; tap < 9; tap++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int at = ((first_k + g + i / 2 * 8) * 9 + tap) * C + first_c + t * 2 + i % 2;
            if constexpr (GROUPS > 1) {
                copies[group * ELEMENTS + at] = d[tap][i];
            } else {
                // Not beta * out: it may be uninitialised memory when beta is 0.
                out[at] = beta != 0.0f ? beta * out[at] + d[tap][i] : d[tap][i];
            }
        }
    }
    if constexpr (GROUPS > 1) {
        __syncthreads();
        for (int i = threadIdx.x; i < ELEMENTS; i += CONV_THREADS) {
            float sum = copies[i];
#pragma unroll
            for (int copy = 1; copy < GROUPS; copy++) sum += copies[copy * ELEMENTS + i];
            out[i] = beta != 0.0f ? beta * out[i] + sum : sum;
        }
    }
}

#define HALO(MATH, math, C, MS)                                                                                       \
    KERNEL __launch_bounds__(CONV_THREADS, 2) conv2d_fprop_##math##_halo##C(                                          \
        ConvShape z, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,        \
        float* __restrict__ y, float beta, int tiles) {                                                               \
        halo<MATH, C, MS, false>(z, x, w, PlainOutput<HaloColumns<C>>(y, bias, beta, C), tiles);                      \
    }                                                                                                                 \
    KERNEL __launch_bounds__(CONV_THREADS, 2) conv2d_dgrad_##math##_halo##C(                                          \
        ConvShape z, const float* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias,       \
        float* __restrict__ dx, float beta, GradFinish f, int tiles) {                                                \
        halo<MATH, C, MS, true>(z, dy, w, GradColumns<HaloColumns<C>>(dx, bias, beta, C, f), tiles);                  \
    }                                                                                                                 \
    KERNEL __launch_bounds__(CONV_THREADS, 2) conv2d_wgrad_##math##_halo##C(                                          \
        ConvShape z, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dw,               \
        float* __restrict__ columns, float beta, int tiles) {                                                         \
        halo_wgrad<MATH, C, float>(z, ConvInput<float>(x, nullptr, nullptr, 0), dy, dw, columns, beta, tiles);        \
    }                                                                                                                 \
    KERNEL __launch_bounds__(CONV_THREADS, 2) conv2d_wgrad_codes_##math##_halo##C(                                    \
        ConvShape z, const signed char* __restrict__ x, const float* __restrict__ lo, const float* __restrict__ hi,   \
        const float* __restrict__ dy, float* __restrict__ dw, float* __restrict__ columns, int bits, float beta,      \
        int tiles) {                                                                                                  \
        halo_wgrad<MATH, C, signed char>(z, ConvInput<signed char>(x, lo, hi, bits), dy, dw, columns, beta, tiles);   \
    }

HALO(TF32, tf32, 16, 2)
HALO(TF32, tf32, 32, 1)
HALO(BF16, bf16, 16, 2)
HALO(BF16, bf16, 32, 1)
