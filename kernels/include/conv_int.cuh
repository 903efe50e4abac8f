// Convolution of 8-bit codes in a block tile, for conv2d_int.cu and integer_layer.cu: with the zero points zx and zw[k], over
// the taps inside the image,
//
//   sum (qx + zx)(qw + zw) = sum qx qw + zw sum qx + zx sum (qw + zw)
//
// conv_int computes the first sum and sum qx, which is a product with a column of ones, and hands both to a sink; the third sum
// comes from a table of sums per tap, of which pixels at the border add up those inside.
//
// layout    x NHWC and w KRSC, signed bytes. Shared words of four bytes of neighbouring depth, laid out as in conv_tile.cuh:
//           the fragments of mma.m16n8k32.s8 are the same words as those of the other maths. PACKED: w holds two codes of 4
//           bits to a byte and is unpacked between global and shared memory, in registers
// mapping   implicit GEMM: rows = output pixels, columns = k, depth = (r, s, c) in slices of 64. Grid: row tiles of 128, column
//           tiles of COLS. V bytes are read at once: 16 need c % 16 == 0 and 16-byte aligned x and w (PACKED: 8), 4 need
//           c % 4 == 0 and 4-byte alignment, 1 takes every shape
// order     exact integers
#pragma once
#include "conv_gather.cuh"

constexpr int INT_SLICE = 64;
typedef long long Wide;
// What the pixels' slices leave to a sink, in sums of 8 bytes.
constexpr int INT_ROOM = 2 * CONV_WORDS * (CONV_ROWS + 8) / 2;

// Eight codes of 4 bits as bytes, in order.
DEV void unpack_int4(uint32_t packed, uint32_t& first, uint32_t& second) {
    uint32_t even = packed & 0x0f0f0f0fu, odd = packed >> 4 & 0x0f0f0f0fu;
    // (x ^ 8) - 8 per byte; the high bit keeps each byte from borrowing.
    even = (((even ^ 0x08080808u) | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
    odd = (((odd ^ 0x08080808u) | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
    first = __byte_perm(even, odd, 0x5140);
    second = __byte_perm(even, odd, 0x7362);
}

// One slice of an operand in registers; V bytes (16, 4, 1) are read at once.
template <int ROWS, int V>
struct ByteRows {
    static constexpr int WORDS = V == 16 ? 4 : 1;
    static constexpr int GROUPS = CONV_WORDS / WORDS;
    static constexpr int STEP = CONV_THREADS / GROUPS;
    static constexpr int PASSES = (ROWS + STEP - 1) / STEP;
    uint32_t v[PASSES][WORDS];

    // The thread's first depth word of the slice.
    static METHOD int word() { return (int)threadIdx.x % GROUPS * WORDS; }
    static METHOD int row(int pass) { return (int)threadIdx.x / GROUPS + pass * STEP; }
    static METHOD bool busy(int pass) { return STEP <= ROWS || row(pass) < ROWS; }

    METHOD void zero(int pass) {
#pragma unroll
        for (int i = 0; i < WORDS; i++) v[pass][i] = 0;
    }
    METHOD void fetch(int pass, const signed char* from) {
        if constexpr (V == 16) {
            uint4 u = load_uint4(from);
            v[pass][0] = u.x, v[pass][1] = u.y, v[pass][2] = u.z, v[pass][3] = u.w;
        } else {
            v[pass][0] = *reinterpret_cast<const uint32_t*>(from);
        }
    }
    // 16 codes of 4 bits, the first in the low half of the first byte.
    METHOD void fetch_packed(int pass, const signed char* from) {
        uint2 u = *reinterpret_cast<const uint2*>(from);
        unpack_int4(u.x, v[pass][0], v[pass][1]);
        unpack_int4(u.y, v[pass][2], v[pass][3]);
    }
    METHOD void byte(int pass, int i, signed char value) { v[pass][0] |= (uint32_t)(unsigned char)value << 8 * i; }
    METHOD void store(uint32_t (*words)[ROWS + 8]) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            if (!busy(pass)) continue;
#pragma unroll
            for (int i = 0; i < WORDS; i++) {
                words[word() + i][row(pass) ^ conv_swizzle<ROWS>(word() + i)] = v[pass][i];
            }
        }
    }
};

// Both operands of a block. Table entries as in conv_gather.cuh: x = offset of (tap, channel) from a window's start, y and
// z = rows and columns from it, w = the filter's.
template <int COLS, int V, bool PACKED>
struct IntSource {
    typedef ByteRows<CONV_ROWS, V> Pixels;
    typedef ByteRows<COLS, V> Filters;
    Window g;
    TapWalk<INT_SLICE> walk;
    Pixels pixels;
    Filters filters;
    const signed char *__restrict__ x, *__restrict__ w;
    int base[Pixels::PASSES], h0[Pixels::PASSES], w0[Pixels::PASSES];
    int filter[Filters::PASSES];  // start of the filter, -1 beyond the last
    int depth;                    // of this thread's table entry

    METHOD IntSource(const Window& window, const signed char* x_, const signed char* w_, int k, int first_row, int first_col)
        : g(window), walk(g), x(x_), w(w_), depth(threadIdx.x) {
#pragma unroll
        for (int pass = 0; pass < Pixels::PASSES; pass++) {
            int row = first_row + Pixels::row(pass), b = row % g.rows_w, rest = row / g.rows_w;
            int a = rest % g.rows_h, n = rest / g.rows_h;
            h0[pass] = n < g.n ? a * g.scale_h + g.start_h : CONV_OUTSIDE;
            w0[pass] = b * g.scale_w + g.start_w;
            base[pass] = n < g.n ? ((n * g.h + h0[pass]) * g.w + w0[pass]) * g.c : 0;
        }
#pragma unroll
        for (int pass = 0; pass < Filters::PASSES; pass++) {
            int col = first_col + Filters::row(pass);
            filter[pass] = col < k && Filters::busy(pass) ? col * (g.taps_h * g.taps_w * g.c) : -1;
        }
    }
    METHOD void next(int4* table) {
        if (threadIdx.x >= INT_SLICE) return;
        int dh = walk.i * g.step_h, dw = walk.j * g.step_w;
        bool valid = walk.valid(g);
        table[threadIdx.x] =
            make_int4((dh * g.w + dw) * g.c + walk.c, valid ? dh : CONV_OUTSIDE, dw, valid ? depth : -1);
        walk.advance(g);
        depth += INT_SLICE;
    }
    METHOD bool inside(int pass, int4 at) const {
        return (unsigned)(h0[pass] + at.y) < (unsigned)g.h && (unsigned)(w0[pass] + at.z) < (unsigned)g.w;
    }
    METHOD void load(const int4* table) {
#pragma unroll
        for (int pass = 0; pass < Pixels::PASSES; pass++) pixels.zero(pass);
#pragma unroll
        for (int pass = 0; pass < Filters::PASSES; pass++) filters.zero(pass);
#pragma unroll
        for (int e = 0; e < (V == 1 ? 4 : 1); e++) {
            int4 at = table[Pixels::word() * 4 + e];
#pragma unroll
            for (int pass = 0; pass < Pixels::PASSES; pass++) {
                if (!inside(pass, at)) continue;
                const signed char* from = x + base[pass] + at.x;
                if constexpr (V == 1) pixels.byte(pass, e, *from);
                else pixels.fetch(pass, from);
            }
#pragma unroll
            for (int pass = 0; pass < Filters::PASSES; pass++) {
                if (filter[pass] < 0 || at.w < 0) continue;
                const signed char* from = w + (filter[pass] + at.w) / (PACKED ? 2 : 1);
                if constexpr (PACKED) filters.fetch_packed(pass, from);
                else if constexpr (V == 1) filters.byte(pass, e, *from);
                else filters.fetch(pass, from);
            }
        }
    }
};

// The block's sums: qx qw, and qx alone in every column of `ones`.
template <int COLS>
struct IntSums {
    static constexpr int WARPS_N = COLS >= 32 ? 2 : 1;
    static constexpr int WARP_M = CONV_ROWS / (8 / WARPS_N);
    static constexpr int MS = WARP_M / 16, NS = COLS / WARPS_N / 8;
    int d[MS][NS][4] = {}, ones[MS][4] = {};

    static METHOD int first_row() { return (int)threadIdx.x / 32 / WARPS_N * WARP_M; }
    static METHOD int first_col() { return (int)threadIdx.x / 32 % WARPS_N * (NS * 8); }
    // Of two columns in row m * 16 + half * 8 of the thread's; n need not be known to the compiler.
    METHOD void dots(int m, int n, int half, int (&to)[2]) const {
        // Static indices: the sums stay in registers.
        to[0] = to[1] = 0;
#pragma unroll
        for (int j = 0; j < NS; j++) {
            if (j == n) to[0] = d[m][j][half * 2], to[1] = d[m][j][half * 2 + 1];
        }
    }
    METHOD int one(int m, int half) const { return ones[m][half * 2]; }

    METHOD void multiply(const uint32_t (*a)[CONV_ROWS + 8], const uint32_t (*b)[COLS + 8]) {
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int step = 0; step < CONV_WORDS / 8; step++) {
            uint32_t fa[MS][4], fb[NS][2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int word = step * 8 + i * 4, turn = conv_swizzle<CONV_ROWS>(word);
#pragma unroll
                for (int m = 0; m < MS; m++) {
                    fa[m][i * 2] = a[word + t][(first_row() + m * 16 + g) ^ turn];
                    fa[m][i * 2 + 1] = a[word + t][(first_row() + m * 16 + 8 + g) ^ turn];
                }
                turn = conv_swizzle<COLS>(word);
#pragma unroll
                for (int n = 0; n < NS; n++) fb[n][i] = b[word + t][(first_col() + n * 8 + g) ^ turn];
            }
#pragma unroll
            for (int m = 0; m < MS; m++) {
                mma_s8(ones[m], fa[m], 0x01010101u, 0x01010101u);
#pragma unroll
                for (int n = 0; n < NS; n++) mma_s8(d[m][n], fa[m], fb[n][0], fb[n][1]);
            }
        }
    }
};

// An output pixel.
struct IntPixel {
    int row;
    bool inside;  // the output
    bool whole;   // its window lies inside the image
    METHOD IntPixel() {}
    METHOD IntPixel(const ConvShape& z, int row_) : row(row_), inside(row_ < z.n * z.p * z.q) {
        int h0 = row / z.q % z.p * z.stride_h - z.pad_h, w0 = row % z.q * z.stride_w - z.pad_w;
        whole = h0 >= 0 && w0 >= 0 && h0 + (z.r - 1) * z.dilation_h < z.h && w0 + (z.s - 1) * z.dilation_w < z.w;
    }
};

// A filter's sums per tap, and the sum of these.
struct TapSums {
    const Wide* tap;
    Wide all;
    METHOD TapSums() {}
    METHOD TapSums(const Wide* tap_, int count) : tap(tap_), all(0) {
        for (int i = 0; i < count; i++) all += tap[i];
    }
    // Over the taps inside the image.
    METHOD Wide inside(const ConvShape& z, const IntPixel& at) const {
        if (at.whole) return all;
        int h0 = at.row / z.q % z.p * z.stride_h - z.pad_h, w0 = at.row % z.q * z.stride_w - z.pad_w;
        Wide sum = 0;
        for (int i = 0; i < z.r * z.s; i++) {
            int h = h0 + i / z.s * z.dilation_h, v = w0 + i % z.s * z.dilation_w;
            if ((unsigned)h < (unsigned)z.h && (unsigned)v < (unsigned)z.w) sum += tap[i];
        }
        return sum;
    }
};

// A sink is handed the sums (of IntSums, or what has its members). First, by the whole block, prepare<COLS, V>(its first column, room for INT_ROOM sums in shared
// memory); then, by whole warps, columns(col) before the pixels of columns col and col + 1, and put(pixel, col, their sums
// qx qw, sum qx) for each. Columns and pixels may lie outside of the output.
template <class Sums, class Sink>
DEV void give_sums(const ConvShape& z, const Sums& sums, int first_row, int first_col, Sink& sink) {
    int lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
    IntPixel at[Sums::MS][2];
#pragma unroll
    for (int m = 0; m < Sums::MS; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            at[m][half] = IntPixel(z, first_row + Sums::first_row() + m * 16 + half * 8 + group);
        }
    }
#pragma unroll 1
    for (int n = 0; n < Sums::NS; n++) {
        int tile = first_col + Sums::first_col() + n * 8, col = tile + t * 2;
        if (tile >= z.k) break;
        sink.columns(col);
#pragma unroll
        for (int m = 0; m < Sums::MS; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int dots[2];
                sums.dots(m, n, half, dots);
                sink.put(at[m][half], col, dots, sums.one(m, half));
            }
        }
    }
}

template <int COLS, int V, bool PACKED, class Sink>
DEV void conv_int(const ConvShape& z, const signed char* x, const signed char* w, Sink sink) {
    SMEM(uint32_t, a, [2][CONV_WORDS][CONV_ROWS + 8]);
    SMEM(uint32_t, b, [2][CONV_WORDS][COLS + 8]);
    SMEM(int4, table, [2][INT_SLICE]);
    Window g = forward_window(z);
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS;
    IntSource<COLS, V, PACKED> source(g, x, w, z.k, first_row, first_col);
    IntSums<COLS> sums;
    int slices = (z.r * z.s * z.c + INT_SLICE - 1) / INT_SLICE;
    source.next(table[0]);
    __syncthreads();
    source.load(table[0]);
    source.next(table[1]);
    source.pixels.store(a[0]);
    source.filters.store(b[0]);
    __syncthreads();
    for (int i = 0; i < slices; i++) {
        int now = i & 1;
        bool more = i + 1 < slices;
        if (more) source.load(table[now ^ 1]);
        // Slice i was loaded from this table before the last barrier.
        source.next(table[now]);
        sums.multiply(a[now], b[now]);
        if (more) {
            source.pixels.store(a[now ^ 1]);
            source.filters.store(b[now ^ 1]);
        }
        __syncthreads();
    }

    // Nobody reads the slices any more.
    sink.template prepare<COLS, V>(first_col, reinterpret_cast<Wide*>(&a[0][0][0]));
    __syncthreads();
    give_sums(z, sums, first_row, first_col, sink);
}
