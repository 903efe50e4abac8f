// 3x3 convolutions of stride 1 and padding 1 with C channels on both sides, whose input lies in shared memory while it is used:
// forward, and the data gradient, which is the same with the filter flipped and transposed. For conv2d_halo.cu, which says how
// and why, and for kernels that go on with what is computed.
#pragma once
#include "conv_output.cuh"

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

// Pixels [h0, h0 + ROWS) x [w0, w0 + COLS) of image n to words[pixel * PITCH], zeros outside of the image. total gathers what
// this thread has loaded of its four channels, threadIdx.x % (C / 4) * 4 and on.
template <ConvMath MATH, int C, int PITCH, int ROWS, int COLS, typename X>
DEV void halo_load(uint32_t* words, const ConvInput<X>& x, const ConvShape& z, int n, int h0, int w0, float (&total)[4]) {
    constexpr int QUADS = C / 4;
    static_assert(CONV_THREADS % QUADS == 0, "a thread keeps its channels");
    // So many loads in flight; the compiler's own choice varies.
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * COLS * QUADS; i += CONV_THREADS) {
        int quad = i % QUADS, pixel = i / QUADS, h = h0 + pixel / COLS, w = w0 + pixel % COLS;
        bool inside = (unsigned)h < (unsigned)z.h && (unsigned)w < (unsigned)z.w;
        float v[4];
        x.template fetch<4>(v, ((n * z.h + h) * z.w + w) * C + quad * 4, inside);
#pragma unroll
        for (int e = 0; e < 4; e++) total[e] += v[e];
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

template <int C>
using HaloColumns = TensorColumns<C, 1>;

// MS rows of pixels per warp. DGRAD: x is dy, and dx goes out. `out` as in conv_output.cuh.
template <ConvMath MATH, int C, int MS, bool DGRAD, class Output>
DEV void halo(const ConvShape& z, const float* x, const float* w, Output out, int tiles) {
    constexpr int ROWS = 8 * MS, PITCH = Halo<MATH, C>::GATHERED, WORDS = Halo<MATH, C>::WORDS, NS = C / 8;
    constexpr int WIDE = HALO_COLS + 2, DEPTH = Word<MATH>::DEPTH;
    DYN_SMEM(uint32_t, words);
    ConvInput<float> input(x, nullptr, nullptr, 0);
    uint32_t* filter = words + (ROWS + 2) * WIDE * PITCH;  // [tap][column][word of depth]
    for (int i = threadIdx.x; i < 9 * C * WORDS; i += CONV_THREADS) {
        int word = i % WORDS, col = i / WORDS % C, tap = i / WORDS / C;
        auto at = [&](int depth) { return DGRAD ? (depth * 9 + 8 - tap) * C + col : (col * 9 + tap) * C + depth; };
        filter[(tap * C + col) * PITCH + word] = conv_word<MATH>(w[at(word * DEPTH)], w[at(word * DEPTH + DEPTH - 1)]);
    }
    int lane = threadIdx.x % 32, row = (int)threadIdx.x / 32 * MS;
    // What this lane tells ldmatrix: pixel and half of the depth for A, column and half for B.
    int a_at = (lane % 16) * PITCH + lane / 16 * 4;
    int b_at = (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 4;
    out.start(0);
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        HaloTile at(tile, ROWS, z);
        __syncthreads();
        float unused[4] = {};
        halo_load<MATH, C, PITCH, ROWS + 2, WIDE>(words, input, z, at.n, at.h - 1, at.w - 1, unused);
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
                        conv_mma<MATH>(d[m][pair * 2], a[m], b[0], b[1]);
                        conv_mma<MATH>(d[m][pair * 2 + 1], a[m], b[2], b[3]);
                    }
                }
            }
        }
#pragma unroll
        for (int m = 0; m < MS; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int h = at.h + row + m, col = at.w + half * 8 + lane / 4;
                int pixel = h < z.h && col < z.w ? (at.n * z.h + h) * z.w + col : -1;
#pragma unroll
                for (int n = 0; n < NS; n++) {
                    float v[2] = {d[m][n][half * 2], d[m][n][half * 2 + 1]};
                    out.put(n, pixel, v);
                }
            }
        }
    }
    out.finish();
}
