// Filter gradients of convolutions with many channels (src/ops/conv2d) in TF32 and BF16: what conv2d_wgrad.cu computes, with
// operands copied to shared memory by cp.async, several slices ahead.
//
// layout    x NHWC f32, c % 4 == 0, or 8-bit codes of one range of at most 5 bits, c % 16 == 0; dy NPQK f32, k % 4 == 0; 16-byte
//           aligned; partial sums [parts][k*r*s*c], column sums [parts][k]
// mapping   rows = (r, s, c), columns = k, depth = output pixels: both operands are contiguous across the depth. Row tiles of 128,
//           column tiles of 64 or 128 (the suffix); 8 warps with warp tiles of 32x32 or 32x64. Grid: row tiles, column tiles,
//           parts of the pixels. Column sums: blocks of the first tile of rows add them up from shared memory.
// pipeline  slices of 32 pixels in three stages of 24 or 32 KiB; of codes four of 12 or 20 KiB. A small table of pixels runs a
//           slice ahead of the copies. Copies of padding are zeros without a branch (cp.async of 0 bytes). Codes stay bytes until
//           they are fragments, whose values they look up; padding is code -128, which 5 bits do not have and which stands for 0.
// traffic   as conv2d_wgrad.cu; fewer parts or x read less often. Shared memory bounds it, as it does conv2d_stages.cu: 1024 cycles for a
//           slice of 128 columns, 704 of 64. Codes: 4 KiB written and 64 read (a byte and a value for each element of a fragment)
//           instead of 16 and 32, 1184 and 864 cycles; values of 5 bits lie in 32 banks.
// order     pixels ascending within a part, in TF32 as in conv2d_wgrad.cu; BF16: the same groups of sixteen terms. Column sums: a
//           thread's pixels ascending, lanes, warps, parts. No atomics
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_stages.cuh"

// Pixels of the slices that are copied next, a table each: x = offset of the window's start in x, y, z = its row and column.
template <int COUNT>
struct PixelTables {
    const ConvShape& z;
    int4 (*tables)[STAGE_DEPTH];
    int pixel, end;  // of the next entry of this thread, if it is below STAGE_DEPTH; of the part
    int slice, at;   // copied next, and its table

    // Tables of the first slices. A barrier must follow.
    METHOD PixelTables(const ConvShape& shape, int begin, int end_)
        : z(shape), pixel(begin + (int)threadIdx.x), end(end_), slice(0), at(0) {
        SMEM(int4, room, [COUNT][STAGE_DEPTH]);
        tables = room;
        if (threadIdx.x < COUNT * STAGE_DEPTH) fill(threadIdx.x / STAGE_DEPTH);
        pixel += COUNT * STAGE_DEPTH;
    }
    METHOD void fill(int table) const {
        int q = pixel % z.q, rest = pixel / z.q, p = rest % z.p, n = rest / z.p;
        int h = p * z.stride_h - z.pad_h, w = q * z.stride_w - z.pad_w;
        bool valid = pixel < end;
        tables[table][threadIdx.x % STAGE_DEPTH] =
            make_int4(valid ? ((n * z.h + h) * z.w + w) * z.c : 0, valid ? h : CONV_OUTSIDE, w, 0);
    }
    METHOD const int4* next() const { return tables[at]; }
    // A slice further. The table that is filled was read before the last barrier.
    METHOD void advance() {
        at = at == COUNT - 1 ? 0 : at + 1;
        if (++slice < COUNT || threadIdx.x >= STAGE_DEPTH) return;
        fill(at);
        pixel += STAGE_DEPTH;
    }
};

// A thread's (r, s, c) and those behind it.
struct TapOffset {
    int dh, dw, offset;  // from the window's start

    METHOD TapOffset(const ConvShape& z, int row) {
        int c = row % z.c, s = row / z.c % z.s, r = row / z.c / z.s;
        dw = s * z.dilation_w;
        offset = (r * z.dilation_h * z.w + dw) * z.c + c;
        dh = r < z.r ? r * z.dilation_h : CONV_OUTSIDE;
    }
    METHOD bool inside(const ConvShape& z, int4 at) const {
        return (unsigned)(at.y + dh) < (unsigned)z.h && (unsigned)(at.z + dw) < (unsigned)z.w;
    }
};

// The rows.
template <typename X>
struct StagedTaps;

template <>
struct StagedTaps<float> : Across<CONV_ROWS> {
    const float* __restrict__ x;
    TapOffset tap;

    METHOD StagedTaps(const ConvShape& z, const float* from, const float*, int first_row)
        : x(from), tap(z, first_row + quad() * 4) {}
    METHOD void copy(float* to, const ConvShape& z, const int4* table) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            int4 at = table[depth() + pass * STEP];
            stage_copy(to + quad_at() + pass * STEP * CONV_ROWS, x, at.x + tap.offset, tap.inside(z, at));
        }
    }
    METHOD void words(uint32_t (&words)[4], const float* from, int at, int sixteen, int step) const {
#pragma unroll
        for (int i = 0; i < 4; i++) words[i] = word(from, at, sixteen * 2 + i % 2, step * 8 + i / 2 * 4);
    }
};

// Codes, sixteen of a pixel at once: [pixel][8 groups of sixteen bytes], group i of pixel d at i ^ 2 (d % 4).
template <>
struct StagedTaps<signed char> {
    static constexpr int WORDS = CONV_ROWS * STAGE_DEPTH / 4, GROUPS = CONV_ROWS / 16;
    const signed char* __restrict__ x;
    const float* values;  // of code -128 on
    TapOffset tap;

    METHOD StagedTaps(const ConvShape& z, const signed char* from, const float* values_, int first_row)
        : x(from), values(values_), tap(z, first_row + (int)threadIdx.x % GROUPS * 16) {}
    METHOD void copy(float* to, const ConvShape& z, const int4* table) const {
        static_assert(CONV_THREADS == GROUPS * STAGE_DEPTH, "a group of codes per thread");
        int d = threadIdx.x / GROUPS;
        int4 at = table[d];
        float* group = to + d * (CONV_ROWS / 4) + ((int)threadIdx.x % GROUPS ^ d % 4 * 2) * 4;
        if (tap.inside(z, at)) {
            cp_async<16>(group, x + (unsigned)(at.x + tap.offset));
        } else {
            constexpr uint32_t OUTSIDE = 0x80808080u;
            store_uint4(group, make_uint4(OUTSIDE, OUTSIDE, OUTSIDE, OUTSIDE));
        }
    }
    static METHOD int at(int tile, int first) {
        int g = threadIdx.x % 32 / 4, q = threadIdx.x % 4;
        return tile * 4 + q * CONV_ROWS + (first / 16 ^ q * 2) * 16 + g;
    }
    METHOD void words(uint32_t (&words)[4], const float* from, int at, int sixteen, int step) const {
        const signed char* codes = reinterpret_cast<const signed char*>(from) + at + sixteen * 16;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            words[i] = __float_as_uint(values[codes[i % 2 * 8 + (step * 8 + i / 2 * 4) * CONV_ROWS] + 128]);
        }
    }
};

// The columns: dy.
template <int COLS>
struct StagedGrads : Across<COLS> {
    typedef Across<COLS> Tile;
    const float* __restrict__ dy;
    int k, base, left;  // base, left: of the thread's quad, offset and pixels to the part's end, 0 beyond the last column
    float total[4];     // of its columns

    METHOD StagedGrads(const ConvShape& z, const float* dy_, int first_col, int begin, int end) : dy(dy_), k(z.k), total() {
        int col = first_col + Tile::quad() * 4;
        base = (begin + Tile::depth()) * k + col;
        left = col < k ? end - begin - Tile::depth() : 0;
    }
    METHOD void copy(float* to) {
#pragma unroll
        for (int pass = 0; pass < Tile::PASSES; pass++) {
            stage_copy(to + Tile::quad_at() + pass * Tile::STEP * COLS, dy, base + pass * Tile::STEP * k,
                       pass * Tile::STEP < left);
        }
        base += STAGE_DEPTH * k, left -= STAGE_DEPTH;
    }
    // What this thread copied.
    METHOD void add(const float* slice) {
#pragma unroll
        for (int pass = 0; pass < Tile::PASSES; pass++) {
            float4 v = load_float4(slice + Tile::quad_at() + pass * Tile::STEP * COLS);
            total[0] += v.x, total[1] += v.y, total[2] += v.z, total[3] += v.w;
        }
    }
};

template <ConvMath MATH, int COLS, int COUNT, typename X>
DEV void wgrad_stages(const ConvShape& z, const X* x, const float* values, const float* dy, float* dw, float* columns,
                      int per_part, float beta) {
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS;
    int begin = blockIdx.z * per_part, end = min(begin + per_part, z.n * z.p * z.q);
    typedef StagedTaps<X> Taps;
    typedef StagedGrads<COLS> Grads;
    PixelTables<COUNT> pixels(z, begin, end);
    Taps taps(z, x, values, first_row);
    Grads grads(z, dy, first_col, begin, end);
    Accumulator<MATH, COLS> sums;
    __syncthreads();
    auto copy = [&](float* to) {
        taps.copy(to, z, pixels.next());
        grads.copy(to + Taps::WORDS);
        pixels.advance();
    };
    bool add = columns != nullptr && blockIdx.x == 0;
    run_slices<COUNT, Grads>((end - begin + STAGE_DEPTH - 1) / STAGE_DEPTH, taps, sums, copy, [&](const float* slice) {
        if (add) grads.add(slice + Taps::WORDS);
    });
    if (add) {
        // Where the slices were: static shared memory for it would be more than a block of sm_86 may have.
        DYN_SMEM(float, warps);
        __syncthreads();
        conv_column_sums<Grads::QUADS, 4>(grads.total, warps, columns + (size_t)blockIdx.z * z.k + first_col, z.k - first_col);
    }
    int rows = z.r * z.s * z.c;
    float* out = dw + (size_t)blockIdx.z * rows * z.k;
    auto put = [&](int row, int col, float v) {
        if (col >= z.k) return;
        int at = col * rows + row;
        // Not beta * out: it may be uninitialised memory when beta is 0.
        if (beta != 0.0f) v += beta * out[at];
        out[at] = v;
    };
    sums.drain([&](int row) { return first_row + row < rows ? first_row + row : -1; },
               [&](int row, int col, float v0, float v1) {
                   if (row < 0) return;
                   put(row, first_col + col, v0);
                   put(row, first_col + col + 1, v1);
               });
}

// What codes stand for, from -128 on, which is padding. A barrier must follow.
DEV const float* code_values(const float* lo, const float* hi, int bits) {
    SMEM(float, values, [CONV_THREADS]);
    int code = (int)threadIdx.x - 128;
    values[threadIdx.x] = code > -128 ? affine_value(affine_of(lo[0], hi[0], bits), (float)code) : 0.0f;
    return values;
}

// Arguments as those of conv2d_wgrad.cu.
#define STAGES(name, MATH, COLS)                                                                                      \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                         \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dw,          \
             float* __restrict__ columns, int per_part, float beta) {                                                 \
        wgrad_stages<MATH, COLS, 3>(z, x, nullptr, dy, dw, columns, per_part, beta);                                  \
    }
#define STAGES_CODES(name, MATH, COLS)                                                                                \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                         \
        name(ConvShape z, const signed char* __restrict__ x, const float* __restrict__ lo,                            \
             const float* __restrict__ hi, const float* __restrict__ dy, float* __restrict__ dw,                      \
             float* __restrict__ columns, int bits, int per_part, float beta) {                                       \
        wgrad_stages<MATH, COLS, 4>(z, x, code_values(lo, hi, bits), dy, dw, columns, per_part, beta);                \
    }

STAGES(conv2d_wgrad_tf32_stages64, TF32, 64)
STAGES(conv2d_wgrad_tf32_stages128, TF32, 128)
STAGES(conv2d_wgrad_bf16_stages128, BF16, 128)
STAGES_CODES(conv2d_wgrad_codes_tf32_stages64, TF32, 64)
STAGES_CODES(conv2d_wgrad_codes_tf32_stages128, TF32, 128)
