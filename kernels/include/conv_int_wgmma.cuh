// conv_int.cuh for sm_90 and many channels: the same sums by products of warpgroups (wgmma.cuh), whose operands come to shared
// memory by cp.async, several slices ahead.
//
// layout    x and w as there, c % 16 == 0, 16-byte aligned. A slice is 128 bytes of depth (r, s, c), in sixteens that each lie in one
//           tap; each thread copies one sixteen of four rows of pixels and of up to four filters. PACKED filters, two codes to
//           a byte, pass through registers. After the filters come 16 rows of ones, whose products are the sums of the pixels
// mapping   rows and columns as there; row tiles of 128, column tiles of COLS = 64 or 128. A warpgroup has 64 rows and all columns.
//           Grid: row tiles, column tiles
// pipeline  four stages (64 columns) or three (128): 103 or 105 KiB, two blocks share a multiprocessor. While a slice is multiplied
//           the one two or three further on is asked for; one barrier per slice
// traffic   from L2 every input r*s times per column tile, every filter once per row tile. Shared memory, of a slice of 128 columns:
//           32 KiB written, 52 KiB read (the filters by each warpgroup), 672 cycles at 128 bytes, for 2097152 multiply-adds
//           of codes; of 64 columns 24 and 36 KiB, 480 cycles for half of them
// order     exact integers: bit for bit what conv_int gives
#pragma once
#include "async_copy.cuh"
#include "conv_int.cuh"
#include "wgmma.cuh"

constexpr int GROUP_SLICE = WGMMA_ROW, GROUP_CHUNKS = GROUP_SLICE / 16, GROUP_STEP = CONV_THREADS / GROUP_CHUNKS;
constexpr int GROUP_TAPS = 15;  // at most, in each direction (src/ops/conv2d_int/wgmma.rs)

// Bytes of shared memory (mirrored there, with WGMMA_ALIGN for where they begin).
template <int COLS>
struct GroupStages {
    static constexpr int COUNT = COLS == 128 ? 3 : 4, COLUMNS = COLS + 16;
    static constexpr int PIXELS = CONV_ROWS * GROUP_SLICE, BYTES = PIXELS + COLUMNS * GROUP_SLICE;
};

DEV int group_chunk() { return threadIdx.x % GROUP_CHUNKS; }
DEV int group_row() { return threadIdx.x / GROUP_CHUNKS; }
// Of the thread's sixteen in the first rows; GROUP_STEP rows further it lies GROUP_STEP rows further.
DEV int group_at() { return group_row() * GROUP_SLICE + (group_chunk() ^ group_row() % 8) * 16; }

// The thread's sixteen of the slice that is copied next.
struct GroupWalk {
    int c, i, j, depth;  // first channel, tap; from the start of a filter

    METHOD explicit GroupWalk(const Window& g) : c(group_chunk() * 16), i(0), j(0), depth(c) { settle(g); }
    METHOD void settle(const Window& g) {
        while (c >= g.c) {
            c -= g.c;
            if (++j == g.taps_w) j = 0, i++;
        }
    }
    METHOD void advance(const Window& g) {
        c += GROUP_SLICE, depth += GROUP_SLICE;
        settle(g);
    }
};

struct GroupPixels {
    static constexpr int PASSES = CONV_ROWS / GROUP_STEP;
    const signed char* __restrict__ x;
    // Of each row: its first tap; which rows (low half) and columns of taps the image has. No row has one of a tap too many.
    int base[PASSES];
    unsigned inside[PASSES];

    METHOD GroupPixels(const Window& g, const signed char* from, int first_row) : x(from) {
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            int row = first_row + group_row() + pass * GROUP_STEP;
            int b = row % g.rows_w, rest = row / g.rows_w, a = rest % g.rows_h, n = rest / g.rows_h;
            int h = a * g.scale_h + g.start_h, w = b * g.scale_w + g.start_w;
            base[pass] = ((n * g.h + h) * g.w + w) * g.c;
            inside[pass] = 0;
            if (n >= g.n) continue;
            for (int i = 0; i < g.taps_h; i++) inside[pass] |= (unsigned)(h + i * g.step_h) < (unsigned)g.h ? 1u << i : 0u;
            for (int j = 0; j < g.taps_w; j++) {
                inside[pass] |= (unsigned)(w + j * g.step_w) < (unsigned)g.w ? 0x10000u << j : 0u;
            }
        }
    }
    METHOD void copy(unsigned char* to, const Window& g, const GroupWalk& at) const {
        int offset = (at.i * g.step_h * g.w + at.j * g.step_w) * g.c + at.c;
        unsigned bits = 1u << at.i | 0x10000u << at.j;
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            // 16 bytes, or zeros; then the offset may be anything.
            cp_async<16>(to + pass * (GROUP_STEP * GROUP_SLICE), x + (unsigned)(base[pass] + offset),
                         (~inside[pass] & bits) == 0 ? 16 : 0);
        }
    }
};

template <int COLS, bool PACKED>
struct GroupFilters {
    static constexpr int PASSES = COLS / GROUP_STEP;
    const signed char* __restrict__ w;
    int base, per_k, left;  // start of the thread's first filter; codes of a filter; filters from there on
    uint2 held[PACKED ? PASSES : 1];

    METHOD GroupFilters(const ConvShape& z, const signed char* w_, int first_col) : w(w_), per_k(z.r * z.s * z.c) {
        base = (first_col + group_row()) * per_k;
        left = z.k - first_col - group_row();
    }
    METHOD bool inside(int pass, int depth) const { return depth < per_k && pass * GROUP_STEP < left; }
    METHOD void copy(unsigned char* to, int depth) {
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            int from = base + depth + pass * GROUP_STEP * per_k;
            bool valid = inside(pass, depth);
            if constexpr (PACKED) {
                held[pass] = make_uint2(0, 0);
                if (valid) held[pass] = *reinterpret_cast<const uint2*>(w + from / 2);
            } else {
                cp_async<16>(to + pass * (GROUP_STEP * GROUP_SLICE), w + (unsigned)from, valid ? 16 : 0);
            }
        }
    }
    // What `copy` read, where it has not arrived by itself.
    METHOD void store(unsigned char* to) const {
        if constexpr (PACKED) {
#pragma unroll
            for (int pass = 0; pass < PASSES; pass++) {
                uint4 v;
                unpack_int4(held[pass].x, v.x, v.y);
                unpack_int4(held[pass].y, v.z, v.w);
                store_uint4(to + pass * (GROUP_STEP * GROUP_SLICE), v);
            }
        }
    }
};

// The sums of a warpgroup.
template <int COLS>
struct GroupSums {
    static constexpr int COUNT = (COLS + 16) / 2;
    int d[COUNT] = {};

    // Over a slice; a group that is not waited for here.
    METHOD void multiply(unsigned stage) {
        uint64_t a = wgmma_matrix(stage + threadIdx.x / 128 * (64 * GROUP_SLICE));
        uint64_t b = wgmma_matrix(stage + GroupStages<COLS>::PIXELS);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < GROUP_SLICE / 32; step++) wgmma_s8(d, a + step * WGMMA_STEP, b + step * WGMMA_STEP);
        wgmma_commit();
    }
};

// The same in shared memory, a thread's own: what is done with them needs the registers. IntSums' members.
template <int COLS>
struct LeftSums {
    static constexpr int MS = 1, NS = COLS / 8;
    const int* d;  // [register][CONV_THREADS]

    METHOD LeftSums(const GroupSums<COLS>& sums, int* room) : d(room + threadIdx.x) {
#pragma unroll
        for (int i = 0; i < GroupSums<COLS>::COUNT; i++) room[i * CONV_THREADS + threadIdx.x] = sums.d[i];
    }
    static METHOD int first_row() { return (int)threadIdx.x / 32 * 16; }
    static METHOD int first_col() { return 0; }
    METHOD void dots(int, int n, int half, int (&to)[2]) const {
        to[0] = d[(n * 4 + half * 2) * CONV_THREADS], to[1] = d[(n * 4 + half * 2 + 1) * CONV_THREADS];
    }
    METHOD int one(int, int half) const { return d[(NS * 4 + half * 2) * CONV_THREADS]; }
};

// As conv_int.
template <int COLS, bool PACKED, class Sink>
DEV void conv_int_wgmma(const ConvShape& z, const signed char* x, const signed char* w, Sink sink) {
    typedef GroupStages<COLS> S;
    DYN_SMEM(unsigned char, dynamic);
    unsigned char* stages = dynamic + (0u - smem_address(dynamic)) % WGMMA_ALIGN;
    unsigned address = smem_address(stages);
    Window g = forward_window(z);
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS;
    GroupPixels pixels(g, x, first_row);
    GroupFilters<COLS, PACKED> filters(z, w, first_col);
    GroupWalk walk(g);
    GroupSums<COLS> sums;
#pragma unroll
    for (int stage = 0; stage < S::COUNT; stage++) {
        unsigned char* ones = stages + stage * S::BYTES + S::PIXELS + COLS * GROUP_SLICE;
        if (threadIdx.x < 128) store_uint4(ones + threadIdx.x * 16, make_uint4(0x01010101u, 0x01010101u, 0x01010101u, 0x01010101u));
    }

    int slices = (z.r * z.s * z.c + GROUP_SLICE - 1) / GROUP_SLICE, copied = 0, reads = 0, writes = 0;
    auto copy = [&] {
        if (copied < slices) {
            pixels.copy(stages + writes + group_at(), g, walk);
            filters.copy(stages + writes + S::PIXELS + group_at(), walk.depth);
            walk.advance(g);
        }
        // Also without a copy: the wait below counts groups.
        cp_async_commit();
    };
    auto copied_one = [&] {
        if (copied < slices) filters.store(stages + writes + S::PIXELS + group_at());
        copied++;
        writes = writes == (S::COUNT - 1) * S::BYTES ? 0 : writes + S::BYTES;
    };
#pragma unroll 1
    for (int stage = 0; stage < S::COUNT - 1; stage++) copy(), copied_one();
    for (int i = 0; i < slices; i++) {
        cp_async_wait<S::COUNT - 2>();
        proxy_fence();
        __syncthreads();
        sums.multiply(address + reads);
        // Into the stage that was multiplied last: every warpgroup had waited for that before the barrier.
        copy();
        wgmma_wait<0>(sums.d);
        copied_one();
        reads = reads == (S::COUNT - 1) * S::BYTES ? 0 : reads + S::BYTES;
    }

    cp_async_wait<0>();
    __syncthreads();
    constexpr int ROOM = INT_ROOM * sizeof(Wide);
    static_assert(ROOM + GroupSums<COLS>::COUNT * CONV_THREADS * sizeof(int) <= S::COUNT * S::BYTES, "sums do not fit");
    LeftSums<COLS> left(sums, reinterpret_cast<int*>(stages + ROOM));
    sink.template prepare<COLS, 16>(first_col, reinterpret_cast<Wide*>(stages));
    __syncthreads();
    give_sums(z, left, first_row, first_col, sink);
}
