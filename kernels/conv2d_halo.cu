// 3x3 convolutions of stride 1 and padding 1 with 16 or 32 channels on both sides (src/ops/conv2d), where the general
// kernels would read every input nine times from L2: all three passes, TF32 and BF16.
//
// layout    x NHWC, w KRSC, y NPQK, all f32; 16-byte aligned
// mapping   persistent blocks of 8 warps walk over tiles of 16 columns and 8 or 16 rows of one image. A tile with its border of
//           one pixel is converted and stored to shared memory once; a tap is then an offset of the addresses that ldmatrix
//           reads. fprop, dgrad: a warp owns one or two rows of 16 pixels and all columns k; the filter stays in shared
//           memory for the block's life, for dgrad flipped and transposed. wgrad: a warp owns 16 k x 8 c of all nine taps,
//           warps beyond C * K / 128 take other rows of the tile; the block's sum is one part for conv2d_sum_f32.
// traffic   from DRAM 4 bytes * (x + y), x 1.27 times (8 rows: 1.41 times) through L2
// pitch     shared rows of pixels are padded so that the eight rows of an ldmatrix, or the words of a fragment read one by
//           one, fall into different banks
// order     fprop, dgrad: taps, then channels, ascending. wgrad: tiles of the block, rows, pixels; then warps, then parts
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_tile.cuh"

constexpr int HALO_COLS = 16;

template <ConvMath MATH, int C>
struct Halo {
    static constexpr int WORDS = MATH == BF16 ? C / 2 : C;
    // Rows of 16 bytes that ldmatrix gathers: an odd multiple of four words apart.
    static constexpr int GATHERED = WORDS + 4;
    // TF32 fragments along pixels are read word by word, four pixels at once: a multiple of eight words, odd.
    static constexpr int ALONG = MATH == BF16 ? WORDS + 4 : WORDS + 8;
};

struct HaloTile {
    int n, h, w;  // image, first row and column
    METHOD HaloTile(int tile, int rows, const ConvShape& z) {
        int across = (z.w + HALO_COLS - 1) / HALO_COLS, down = (z.h + rows - 1) / rows;
        w = tile % across * HALO_COLS;
        h = tile / across % down * rows;
        n = tile / across / down;
    }
};

// Pixels [h0, h0 + ROWS) x [w0, w0 + COLS) of image n to words[pixel * PITCH], zeros outside of the image.
template <ConvMath MATH, int C, int PITCH, int ROWS, int COLS>
DEV void halo_load(uint32_t* words, const float* __restrict__ x, const ConvShape& z, int n, int h0, int w0) {
    constexpr int QUADS = C / 4;
    for (int i = threadIdx.x; i < ROWS * COLS * QUADS; i += CONV_THREADS) {
        int quad = i % QUADS, pixel = i / QUADS, h = h0 + pixel / COLS, w = w0 + pixel % COLS;
        bool inside = (unsigned)h < (unsigned)z.h && (unsigned)w < (unsigned)z.w;
        float v[4];
        conv_fetch<4>(v, x + (size_t)((n * z.h + h) * z.w + w) * C + quad * 4, inside);
        uint32_t* to = words + pixel * PITCH;
        if constexpr (MATH == BF16) {
            uint2 packed = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
            *reinterpret_cast<uint2*>(to + quad * 2) = packed;
        } else {
            uint4 packed;
            packed.x = to_tf32(v[0]), packed.y = to_tf32(v[1]), packed.z = to_tf32(v[2]), packed.w = to_tf32(v[3]);
            store_uint4(to + quad * 4, packed);
        }
    }
}

template <ConvMath MATH>
DEV void halo_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (MATH == BF16) {
        mma_bf16(d, a, b0, b1);
    } else {
        mma_tf32(d, a, b0, b1);
    }
}

// MS rows of pixels per warp. DGRAD: x is dy, y is dx.
template <ConvMath MATH, int C, int MS, bool DGRAD>
DEV void halo(const ConvShape& z, const float* x, const float* w, const float* bias, float* y, float beta, int tiles) {
    constexpr int ROWS = 8 * MS, PITCH = Halo<MATH, C>::GATHERED, WORDS = Halo<MATH, C>::WORDS, NS = C / 8;
    constexpr int WIDE = HALO_COLS + 2, DEPTH = Word<MATH>::DEPTH;
    DYN_SMEM(uint32_t, words);
    uint32_t* filter = words + (ROWS + 2) * WIDE * PITCH;  // [tap][column][word of depth]
    for (int i = threadIdx.x; i < 9 * C * WORDS; i += CONV_THREADS) {
        int word = i % WORDS, col = i / WORDS % C, tap = i / WORDS / C;
        auto at = [&](int depth) { return DGRAD ? (depth * 9 + 8 - tap) * C + col : (col * 9 + tap) * C + depth; };
        filter[(tap * C + col) * PITCH + word] = conv_word<MATH>(w[at(word * DEPTH)], w[at(word * DEPTH + DEPTH - 1)]);
    }
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, row = (int)threadIdx.x / 32 * MS;
    // What this lane tells ldmatrix: pixel and half of the depth for A, column and half for B.
    int a_at = (lane % 16) * PITCH + lane / 16 * 4;
    int b_at = (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 4;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        HaloTile at(tile, ROWS, z);
        __syncthreads();
        halo_load<MATH, C, PITCH, ROWS + 2, WIDE>(words, x, z, at.n, at.h - 1, at.w - 1);
        __syncthreads();
        float d[MS][NS][4] = {};
#pragma unroll
        for (int tap = 0; tap < 9; tap++) {
            const uint32_t* window = words + ((row + tap / 3) * WIDE + tap % 3) * PITCH + a_at;
            const uint32_t* columns = filter + tap * C * PITCH + b_at;
#pragma unroll
            for (int step = 0; step < WORDS / 8; step++) {
                uint32_t a[MS][4];
#pragma unroll
                for (int m = 0; m < MS; m++) ldmatrix_x4(a[m], window + m * WIDE * PITCH + step * 8);
#pragma unroll
                for (int pair = 0; pair < NS / 2; pair++) {
                    uint32_t b[4];
                    ldmatrix_x4(b, columns + pair * 16 * PITCH + step * 8);
#pragma unroll
                    for (int m = 0; m < MS; m++) {
                        halo_mma<MATH>(d[m][pair * 2], a[m], b[0], b[1]);
                        halo_mma<MATH>(d[m][pair * 2 + 1], a[m], b[2], b[3]);
                    }
                }
            }
        }
        ConvOutput out(y, bias, beta, C);
#pragma unroll
        for (int m = 0; m < MS; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int h = at.h + row + m, col = at.w + half * 8 + g;
                int to = h < z.h && col < z.w ? ((at.n * z.h + h) * z.w + col) * C : -1;
#pragma unroll
                for (int n = 0; n < NS; n++) out.pair(to, n * 8 + t * 2, d[m][n][half * 2], d[m][n][half * 2 + 1]);
            }
        }
    }
}

// One part of dw[k 3 3 c] per block, to dw + blockIdx.x * (its elements).
template <ConvMath MATH, int C>
DEV void halo_wgrad(const ConvShape& z, const float* x, const float* dy, float* dw, float beta, int tiles) {
    constexpr int ROWS = 8, PITCH = Halo<MATH, C>::ALONG, WIDE = HALO_COLS + 2;
    constexpr int OWNERS = C / 16 * (C / 8), GROUPS = 8 / OWNERS;  // warps for one copy of dw, copies
    DYN_SMEM(uint32_t, words);
    uint32_t* grads = words + (ROWS + 2) * WIDE * PITCH;
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, warp = threadIdx.x / 32;
    int first_k = warp % OWNERS / (C / 8) * 16, first_c = warp % (C / 8) * 8, group = warp / OWNERS;
    float d[9][4] = {};
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        HaloTile at(tile, ROWS, z);
        __syncthreads();
        halo_load<MATH, C, PITCH, ROWS + 2, WIDE>(words, x, z, at.n, at.h - 1, at.w - 1);
        halo_load<MATH, C, PITCH, ROWS, HALO_COLS>(grads, dy, z, at.n, at.h, at.w);
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
        halo<MATH, C, MS, false>(z, x, w, bias, y, beta, tiles);                                                      \
    }                                                                                                                 \
    KERNEL __launch_bounds__(CONV_THREADS, 2) conv2d_dgrad_##math##_halo##C(                                          \
        ConvShape z, const float* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias,       \
        float* __restrict__ dx, float beta, int tiles) {                                                              \
        halo<MATH, C, MS, true>(z, dy, w, bias, dx, beta, tiles);                                                     \
    }                                                                                                                 \
    KERNEL __launch_bounds__(CONV_THREADS, 2) conv2d_wgrad_##math##_halo##C(                                          \
        ConvShape z, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dw, float beta,   \
        int tiles) {                                                                                                  \
        halo_wgrad<MATH, C>(z, x, dy, dw, beta, tiles);                                                               \
    }

HALO(TF32, tf32, 16, 2)
HALO(TF32, tf32, 32, 1)
HALO(BF16, bf16, 16, 2)
HALO(BF16, bf16, 32, 1)
