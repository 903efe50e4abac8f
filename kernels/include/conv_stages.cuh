// Forward and data gradient of convolutions with many channels on tensor cores: the implicit GEMM of conv_tile.cuh with its
// operands copied to shared memory by cp.async, several slices ahead. For conv2d_stages.cu, which says how and why, and for
// kernels that go on with what it computes.
//
// layout    a slice is 32 channels of one tap, in f32 as they come from memory. Operands that are contiguous along the depth
//           lie as [row][8 quads], quad q of row r at q ^ r % 8: the eight rows that one matrix of ldmatrix gathers fall into
//           different banks. The data gradient's filter is contiguous along the columns and lies as [depth][COLS / 4 quads],
//           quad q of depth d at q ^ 2 (d % 4): a fragment's load of 4 depths x 8 columns touches 32 banks.
// depth     taps, then slices of their channels: tap and channel of a slice are the same for a whole block, so nothing is
//           divided and no table is kept. Channels beyond the last are zeros, in both operands.
// operands  rounded when they are fragments. BF16: ldmatrix gives lane q the words q, 4 + q, 8 + q, 12 + q of sixteen; they
//           become the pairs (q, 4 + q) and (8 + q, 12 + q) in both operands, which permutes terms of a sum.
#pragma once
#include "async_copy.cuh"
#include "conv_gather.cuh"
#include "conv_output.cuh"

constexpr int STAGE_DEPTH = 32, STAGE_QUADS = STAGE_DEPTH / 4;
// Rows that the threads of a block copy at once.
constexpr int STAGE_STEP = CONV_THREADS / STAGE_QUADS;

// Shared memory: three stages of 128 columns or four of 64, 96 KiB (mirrors SMEM of src/ops/conv2d/stages.rs).
template <int COLS>
struct Stages {
    static constexpr int COUNT = COLS == 128 ? 3 : 4;
    static constexpr int PIXELS = CONV_ROWS * STAGE_DEPTH, WORDS = PIXELS + COLS * STAGE_DEPTH;
};

template <ConvMath MATH>
DEV uint32_t stage_word(uint32_t first, uint32_t second) {
    return conv_word<MATH>(__uint_as_float(first), __uint_as_float(second));
}

// The slice that is copied next.
struct SliceWalk {
    int c, i, j;  // first channel, tap

    METHOD SliceWalk() : c(0), i(0), j(0) {}
    METHOD void advance(const Window& g) {
        c += STAGE_DEPTH;
        if (c < g.c) return;
        c = 0;
        if (++j == g.taps_w) j = 0, i++;
    }
    // What StagedPixels::inside must hold of this tap.
    METHOD unsigned bits() const { return 1u << i | 0x10000u << j; }
};
constexpr int STAGE_TAPS = 15;  // at most, in each direction (src/ops/conv2d/stages.rs)

DEV int slices_of(const Window& g) { return g.taps_h * g.taps_w * ((g.c + STAGE_DEPTH - 1) / STAGE_DEPTH); }

// Quad and row of the thread in a [row][STAGE_QUADS] tile; STAGE_STEP rows further its quad lies STAGE_STEP rows further.
DEV int stage_quad() { return threadIdx.x % STAGE_QUADS; }
DEV int stage_row() { return threadIdx.x / STAGE_QUADS; }
DEV int stage_at() { return stage_row() * STAGE_DEPTH + (stage_quad() ^ stage_row() % 8) * 4; }

// 16 bytes, or zeros; then the offset may be anything.
DEV void stage_copy(float* to, const float* from, int offset, bool valid) {
    cp_async<16>(to, from + (unsigned)offset, valid ? 16 : 0);
}

// The rows: windows of an image.
struct StagedPixels {
    static constexpr int PASSES = CONV_ROWS / STAGE_STEP;
    const float* __restrict__ x;
    // Of each row: offset of the thread's quad in the first tap; which rows (low half) and columns of taps the image has: a
    // register each, where coordinates would take two and a comparison per copy more.
    int base[PASSES];
    unsigned inside[PASSES];

    METHOD StagedPixels(const Window& g, const float* from, int first_row) : x(from) {
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            int row = first_row + stage_row() + pass * STAGE_STEP;
            int b = row % g.rows_w, rest = row / g.rows_w, a = rest % g.rows_h, n = rest / g.rows_h;
            int h = a * g.scale + g.start_h, w = b * g.scale + g.start_w;
            base[pass] = ((n * g.h + h) * g.w + w) * g.c + stage_quad() * 4;
            inside[pass] = 0;
            if (n >= g.n) continue;
            for (int i = 0; i < g.taps_h; i++) inside[pass] |= (unsigned)(h + i * g.step_h) < (unsigned)g.h ? 1u << i : 0u;
            for (int j = 0; j < g.taps_w; j++) {
                inside[pass] |= (unsigned)(w + j * g.step_w) < (unsigned)g.w ? 0x10000u << j : 0u;
            }
        }
    }
    METHOD void copy(float* to, const Window& g, const SliceWalk& at) const {
        int offset = (at.i * g.step_h * g.w + at.j * g.step_w) * g.c + at.c;
        // No row has the bit of a tap too many.
        unsigned bits = at.bits() | (at.c + stage_quad() * 4 < g.c ? 0u : 1u << STAGE_TAPS);
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            stage_copy(to + stage_at() + pass * (STAGE_STEP * STAGE_DEPTH), x, base[pass] + offset,
                       (~inside[pass] & bits) == 0);
        }
    }
};

// The columns of forward: filters, contiguous along the depth.
template <ConvMath MATH, int COLS>
struct StagedFilters {
    static constexpr int PASSES = COLS / STAGE_STEP;
    const float* __restrict__ w;
    int base, per_k, left;  // offset of the thread's quad; elements of a filter; filters from the thread's first one on

    METHOD StagedFilters(const float* w_, const ConvShape& z, int first_col) : w(w_), per_k(z.r * z.s * z.c) {
        base = (first_col + stage_row()) * per_k + stage_quad() * 4;
        left = z.k - first_col - stage_row();
    }
    METHOD void copy(float* to, const Window& g, const SliceWalk& at) const {
        int offset = base + (at.i * g.taps_w + at.j) * g.c + at.c;
        int filters = at.c + stage_quad() * 4 < g.c ? left : 0;
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            stage_copy(to + stage_at() + pass * (STAGE_STEP * STAGE_DEPTH), w, offset + pass * STAGE_STEP * per_k,
                       pass * STAGE_STEP < filters);
        }
    }
    // Where a thread whose warp's columns start at `first` reads its fragments, and for lane (g, q): depth q and 4 + q of
    // [step * 8, + 8) in columns g and 8 + g of sixteen.
    static METHOD int at(int first) {
        int lane = threadIdx.x % 32;
        return (first + lane / 16 * 8 + lane % 8) * STAGE_DEPTH + (lane / 8 % 2 ^ lane % 8) * 4;
    }
    static METHOD void words(uint32_t (&words)[4], const float* from, int at, int sixteen, int step) {
        ldmatrix_x4(words, from + (at ^ step * 8) + sixteen * 16 * STAGE_DEPTH);
    }
};

// The columns of the data gradient: channels of the filters, which are the depth.
template <ConvMath MATH, int COLS>
struct StagedChannels {
    static constexpr int QUADS = COLS / 4, STEP = CONV_THREADS / QUADS, PASSES = STAGE_DEPTH / STEP;
    const float* __restrict__ w;
    int base, per_k, row_r, row_s;  // offset of the thread's quad; elements of a filter; between taps of the class
    int left;                       // depths from the thread's first one on, 0 beyond the last column

    METHOD StagedChannels(const float* w_, const ConvShape& z, int first_r, int first_s, int every, int first_col)
        : w(w_), per_k(z.r * z.s * z.c), row_r(every * z.s * z.c), row_s(every * z.c) {
        int col = first_col + quad() * 4;
        base = depth() * per_k + (first_r * z.s + first_s) * z.c + col;
        left = col < z.c ? z.k - depth() : 0;
    }
    static METHOD int quad() { return threadIdx.x % QUADS; }
    static METHOD int depth() { return threadIdx.x / QUADS; }
    METHOD void copy(float* to, const Window&, const SliceWalk& at) const {
        to += depth() * COLS + (quad() ^ depth() % 4 * 2) * 4;
        int offset = base + at.c * per_k + at.i * row_r + at.j * row_s;
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            stage_copy(to + pass * STEP * COLS, w, offset + pass * STEP * per_k, at.c + pass * STEP < left);
        }
    }
    // As those of StagedFilters; `first` is a multiple of 32.
    static METHOD int at(int first) {
        int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
        return q * COLS + first + (g / 4 ^ q * 2) * 4 + g % 4;
    }
    static METHOD void words(uint32_t (&words)[4], const float* from, int at, int sixteen, int step) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int eight = sixteen * 2 + i / 2;
            words[i] = __float_as_uint(from[(at ^ eight % 4 * 8) + eight / 4 * 32 + (step * 8 + i % 2 * 4) * COLS]);
        }
    }
};

// D += A * B over one slice.
template <class Columns, ConvMath MATH, int COLS>
DEV void multiply_slice(Accumulator<MATH, COLS>& sums, const float* words, int stage) {
    typedef Accumulator<MATH, COLS> Sums;
    constexpr int HALVES = Word<MATH>::DEPTH;
    int lane = threadIdx.x % 32;
    int a_at = (Sums::first_row() + lane % 16) * STAGE_DEPTH + (lane / 16 ^ lane % 8) * 4;
    int b_at = Columns::at(Sums::first_col()) + Stages<COLS>::PIXELS;
    // Hidden from the compiler, which would keep an address per step in registers.
    a_at = opaque(stage + a_at), b_at = opaque(stage + b_at);
    // BF16 as a loop of two rounds: unrolled, forward spills ten registers.
#pragma unroll(MATH == BF16 ? 1 : 4)
    for (int step = 0; step < STAGE_DEPTH / 8; step += HALVES) {
        uint32_t a[Sums::MS][4];
#pragma unroll
        for (int m = 0; m < Sums::MS; m++) {
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                uint32_t r[4];
                ldmatrix_x4(r, words + (a_at ^ (step + half) * 8) + m * 16 * STAGE_DEPTH);
                if constexpr (MATH == BF16) {
                    a[m][half * 2] = stage_word<MATH>(r[0], r[2]), a[m][half * 2 + 1] = stage_word<MATH>(r[1], r[3]);
                } else {
#pragma unroll
                    for (int i = 0; i < 4; i++) a[m][i] = stage_word<MATH>(r[i], 0);
                }
            }
        }
#pragma unroll
        for (int pair = 0; pair < Sums::NS / 2; pair++) {
            uint32_t b[4];
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                uint32_t r[4];
                Columns::words(r, words, b_at, pair, step + half);
                if constexpr (MATH == BF16) {
                    b[half] = stage_word<MATH>(r[0], r[1]), b[2 + half] = stage_word<MATH>(r[2], r[3]);
                } else {
#pragma unroll
                    for (int i = 0; i < 4; i++) b[i] = stage_word<MATH>(r[i], 0);
                }
            }
#pragma unroll
            for (int m = 0; m < Sums::MS; m++) {
                conv_mma<MATH>(sums.d[m][pair * 2], a[m], b[0], b[1]);
                conv_mma<MATH>(sums.d[m][pair * 2 + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// Runs the slices of one block. One barrier per slice: what it orders is both that all threads' copies of a slice are there
// and that the stage copied to next is no longer read.
template <class Columns, ConvMath MATH, int COLS>
DEV void run_stages(const Window& g, const StagedPixels& pixels, const Columns& columns, Accumulator<MATH, COLS>& sums) {
    typedef Stages<COLS> S;
    DYN_SMEM(float, words);
    SliceWalk walk;
    int slices = slices_of(g), copied = 0, reads = 0, writes = 0;
    auto copy = [&] {
        if (copied < slices) {
            pixels.copy(words + writes, g, walk);
            columns.copy(words + writes + S::PIXELS, g, walk);
            walk.advance(g);
        }
        // Also without a copy: the wait below counts groups.
        cp_async_commit();
        copied++;
        writes = writes == (S::COUNT - 1) * S::WORDS ? 0 : writes + S::WORDS;
    };
#pragma unroll
    for (int stage = 0; stage < S::COUNT - 1; stage++) copy();
    for (int i = 0; i < slices; i++) {
        cp_async_wait<S::COUNT - 2>();
        __syncthreads();
        copy();
        multiply_slice<Columns>(sums, words, reads);
        reads = reads == (S::COUNT - 1) * S::WORDS ? 0 : reads + S::WORDS;
    }
}

// Forward; rows and columns as in conv_fprop.cuh, `out` as in conv_output.cuh.
template <ConvMath MATH, int COLS, class Output>
DEV void fprop_stages(const ConvShape& z, const float* x, const float* w, Output out) {
    Window g = {z.n, z.p, z.q, z.h, z.w, z.c, z.stride, -z.pad, -z.pad, z.dilation, z.dilation, z.r, z.s};
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS, rows = z.n * z.p * z.q;
    StagedPixels pixels(g, x, first_row);
    StagedFilters<MATH, COLS> filters(w, z, first_col);
    Accumulator<MATH, COLS> sums;
    run_stages(g, pixels, filters, sums);
    out.start(first_col);
    sums.give([&](int row) { return first_row + row < rows ? first_row + row : -1; }, out);
    out.finish();
}
