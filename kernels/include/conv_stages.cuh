// Convolutions with many channels on tensor cores: the implicit GEMM of conv_tile.cuh with its operands copied to shared memory
// by cp.async, several slices ahead. For conv2d_stages.cu and conv2d_wgrad_stages.cu, which say how and why, and for kernels
// that go on with what they compute.
//
// layout    a slice is 32 deep (of forward and data gradient: channels of one tap), in f32 as they come from memory. Operands that are contiguous along the depth
//           lie as [row][8 quads], quad q of row r at q ^ r % 8: the eight rows that one matrix of ldmatrix gathers fall into
//           different banks. Operands that are contiguous across it (the data gradient's filter, those of the filter's gradient)
//           lie as [depth][WIDTH / 4 quads], quad q of depth d at q ^ 2 (d % 4): a fragment's load of 4 depths x 8 rows or
//           columns touches 32 banks.
// depth     of forward and data gradient: taps, then slices of their channels: tap and channel of a slice are the same for a
//           whole block, so nothing is divided and no table is kept. Channels beyond the last are zeros, in both operands.
// operands  rounded when they are fragments. BF16: ldmatrix gives lane q the words q, 4 + q, 8 + q, 12 + q of sixteen; they
//           become the pairs (q, 4 + q) and (8 + q, 12 + q) in both operands, which permutes terms of a sum.
#pragma once
#include "async_copy.cuh"
#include "conv_gather.cuh"
#include "conv_output.cuh"

constexpr int STAGE_DEPTH = 32, STAGE_QUADS = STAGE_DEPTH / 4;
// Rows that the threads of a block copy at once.
constexpr int STAGE_STEP = CONV_THREADS / STAGE_QUADS;

// Shared memory: a stage of 128 columns takes 32 KiB, one of 64 takes 24. As many as fill 96 KiB, unless an output needs some of it
// (mirrors StageKernels of src/ops/conv2d/stages.rs).
template <int COLS>
struct Stages {
    static constexpr int MOST = COLS == 128 ? 3 : 4;
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
    static constexpr int WORDS = CONV_ROWS * STAGE_DEPTH, PASSES = CONV_ROWS / STAGE_STEP;
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
            int h = a * g.scale_h + g.start_h, w = b * g.scale_w + g.start_w;
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
    // Where a thread whose warp's rows start at `first` reads its fragments, and for lane (g, q): rows g and 8 + g of sixteen at
    // depth q, then at 4 + q, of [step * 8, + 8).
    static METHOD int at(int tile, int first) {
        int lane = threadIdx.x % 32;
        return tile + (first + lane % 16) * STAGE_DEPTH + (lane / 16 ^ lane % 8) * 4;
    }
    METHOD void words(uint32_t (&words)[4], const float* from, int at, int sixteen, int step) const {
        ldmatrix_x4(words, from + (at ^ step * 8) + sixteen * 16 * STAGE_DEPTH);
    }
};

// The columns of forward: filters, contiguous along the depth.
template <ConvMath MATH, int COLS>
struct StagedFilters {
    static constexpr int WORDS = COLS * STAGE_DEPTH, PASSES = COLS / STAGE_STEP;
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
    static METHOD int at(int tile, int first) {
        int lane = threadIdx.x % 32;
        return tile + (first + lane / 16 * 8 + lane % 8) * STAGE_DEPTH + (lane / 8 % 2 ^ lane % 8) * 4;
    }
    static METHOD void words(uint32_t (&words)[4], const float* from, int at, int sixteen, int step) {
        ldmatrix_x4(words, from + (at ^ step * 8) + sixteen * 16 * STAGE_DEPTH);
    }
};

// A tile that is contiguous across the depth.
template <int WIDTH>
struct Across {
    static constexpr int WORDS = WIDTH * STAGE_DEPTH;
    // Depths that the threads of a block copy at once; its quad lies STEP * WIDTH further then.
    static constexpr int QUADS = WIDTH / 4, STEP = CONV_THREADS / QUADS, PASSES = STAGE_DEPTH / STEP;
    static METHOD int quad() { return threadIdx.x % QUADS; }
    static METHOD int depth() { return threadIdx.x / QUADS; }
    static METHOD int quad_at() { return depth() * WIDTH + (quad() ^ depth() % 4 * 2) * 4; }
    // Where a thread whose warp's part starts at `first`, a multiple of 32, reads its fragments; lane (g, q) has element g of
    // an eight at depth q.
    static METHOD int at(int tile, int first) {
        int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
        return tile + q * WIDTH + first + (g / 4 ^ q * 2) * 4 + g % 4;
    }
    static METHOD uint32_t word(const float* from, int at, int eight, int depth) {
        return __float_as_uint(from[(at ^ eight % 4 * 8) + eight / 4 * 32 + depth * WIDTH]);
    }
    // As those of StagedFilters.
    static METHOD void words(uint32_t (&words)[4], const float* from, int at, int sixteen, int step) {
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = word(from, at, sixteen * 2 + i / 2, step * 8 + i % 2 * 4);
    }
};

// The columns of the data gradient: channels of the filters, which are the depth.
template <ConvMath MATH, int COLS>
struct StagedChannels : Across<COLS> {
    typedef Across<COLS> Tile;
    const float* __restrict__ w;
    int base, per_k, row_r, row_s;  // offset of the thread's quad; elements of a filter; between taps of the class
    int left;                       // depths from the thread's first one on, 0 beyond the last column

    METHOD StagedChannels(const float* w_, const ConvShape& z, int first_r, int first_s, int every_h, int every_w,
                          int first_col)
        : w(w_), per_k(z.r * z.s * z.c), row_r(every_h * z.s * z.c), row_s(every_w * z.c) {
        int col = first_col + Tile::quad() * 4;
        base = Tile::depth() * per_k + (first_r * z.s + first_s) * z.c + col;
        left = col < z.c ? z.k - Tile::depth() : 0;
    }
    METHOD void copy(float* to, const Window&, const SliceWalk& at) const {
        int offset = base + at.c * per_k + at.i * row_r + at.j * row_s;
#pragma unroll
        for (int pass = 0; pass < Tile::PASSES; pass++) {
            stage_copy(to + Tile::quad_at() + pass * Tile::STEP * COLS, w, offset + pass * Tile::STEP * per_k,
                       at.c + pass * Tile::STEP < left);
        }
    }
};

// D += A * B over one slice, whose rows lie at `stage` and whose columns lie behind them.
template <class Columns, class Rows, ConvMath MATH, int COLS>
DEV void multiply_slice(Accumulator<MATH, COLS>& sums, const Rows& rows, const float* words, int stage) {
    typedef Accumulator<MATH, COLS> Sums;
    constexpr int HALVES = Word<MATH>::DEPTH;
    int a_at = Rows::at(stage, Sums::first_row()), b_at = Columns::at(stage + Rows::WORDS, Sums::first_col());
    // Hidden from the compiler, which would keep an address per step in registers.
    a_at = opaque(a_at), b_at = opaque(b_at);
    // BF16 as a loop of two rounds: unrolled, forward spills ten registers.
#pragma unroll(MATH == BF16 ? 1 : 4)
    for (int step = 0; step < STAGE_DEPTH / 8; step += HALVES) {
        uint32_t a[Sums::MS][4];
#pragma unroll
        for (int m = 0; m < Sums::MS; m++) {
#pragma unroll
            for (int half = 0; half < HALVES; half++) {
                uint32_t r[4];
                rows.words(r, words, a_at, m, step + half);
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

// Runs the slices of one block through COUNT stages. copy(stage) starts the copies of the next slice, look(stage) is called when
// one is there. One barrier per slice: what it orders is both that all threads' copies of a slice are there and that the stage
// copied to next is no longer read.
template <int COUNT, class Columns, class Rows, class Copy, class Look, ConvMath MATH, int COLS>
DEV void run_slices(int slices, const Rows& rows, Accumulator<MATH, COLS>& sums, Copy copy, Look look) {
    constexpr int WORDS = Rows::WORDS + Columns::WORDS;
    DYN_SMEM(float, words);
    int copied = 0, reads = 0, writes = 0;
    auto next = [&] {
        if (copied < slices) copy(words + writes);
        // Also without a copy: the wait below counts groups.
        cp_async_commit();
        copied++;
        writes = writes == (COUNT - 1) * WORDS ? 0 : writes + WORDS;
    };
#pragma unroll
    for (int stage = 0; stage < COUNT - 1; stage++) next();
    for (int i = 0; i < slices; i++) {
        cp_async_wait<COUNT - 2>();
        __syncthreads();
        next();
        look(words + reads);
        multiply_slice<Columns>(sums, rows, words, reads);
        reads = reads == (COUNT - 1) * WORDS ? 0 : reads + WORDS;
    }
}

// Those of forward and data gradient.
template <int COUNT, class Columns, ConvMath MATH, int COLS>
DEV void run_stages(const Window& g, const StagedPixels& pixels, const Columns& columns, Accumulator<MATH, COLS>& sums) {
    SliceWalk walk;
    auto copy = [&](float* to) {
        pixels.copy(to, g, walk);
        columns.copy(to + StagedPixels::WORDS, g, walk);
        walk.advance(g);
    };
    run_slices<COUNT, Columns>(slices_of(g), pixels, sums, copy, [](const float*) {});
}

// Forward; rows and columns as in conv_fprop.cuh. At the end give(sums, pixel, first column), with pixel(row) as Accumulator::give
// takes it.
template <ConvMath MATH, int COLS, int COUNT, class Give>
DEV void fprop_sums(const ConvShape& z, const float* x, const float* w, Give give) {
    Window g = forward_window(z);
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS, rows = z.n * z.p * z.q;
    StagedPixels pixels(g, x, first_row);
    StagedFilters<MATH, COLS> filters(w, z, first_col);
    Accumulator<MATH, COLS> sums;
    run_stages<COUNT>(g, pixels, filters, sums);
    give(sums, [&](int row) { return first_row + row < rows ? first_row + row : -1; }, first_col);
}

// `out` as in conv_output.cuh.
template <ConvMath MATH, int COLS, int COUNT, class Output>
DEV void fprop_stages(const ConvShape& z, const float* x, const float* w, Output out) {
    fprop_sums<MATH, COLS, COUNT>(z, x, w, [&](const auto& sums, auto pixel, int first_col) {
        out.start(first_col);
        sums.give(pixel, out);
        out.finish();
    });
}
