// The block tile all convolution passes share: a 128 x COLS product summed over the depth in slices.
//
//   D[row][col] += sum over depth of A[row][depth] * B[col][depth]
//
// A pass says where A and B come from (a Source, see below) and where D goes. The math template parameter says how
// operands lie in shared memory and what multiplies them:
//
//   F32    one f32 per word, FMA on the CUDA cores
//   TF32   one f32 rounded to 10 mantissa bits per word, mma m16n8k8
//   BF16   two bf16 of neighbouring depth per word, mma m16n8k16
//
// layout    words[depth word][row], 16 depth words a slice (16 deep for F32 and TF32, 32 for BF16). The fragments of
//           mma.m16n8k8.tf32 and m16n8k16.bf16 are the same *words* of such a tile, so all maths share every line of
//           addressing. The pitch is 8 (or 24) mod 32 words, so a fragment load (4 depth words x 8 rows) touches 32
//           banks; rows are XORed with a multiple of 4 that depends on the depth word, so that stores of depth-major
//           sources do too and 16-byte groups of rows stay together.
// mapping   256 threads. Tensor cores: 8 warps in a grid, warp tiles of 32x32, 32x16 or 16x16 (COLS 64, 32, 16).
//           F32: 8x4, 4x4 or 4x2 outputs per thread.
// pipeline  registers and two shared buffers: while a slice is multiplied the next one is in flight from global memory;
//           one barrier per slice. Operands are converted when stored to shared memory, once per slice. A small table of
//           depth positions (filter tap or output pixel) runs one slice ahead of the loads, so that no thread divides in
//           the loop.
// order     depth ascending within a block, fixed by the shape alone
// tried     -
// measured  not yet measured on a GPU
#pragma once
#include "device.cuh"
#include "mma.cuh"
#include "quant.cuh"
#include "vec.cuh"

// Member functions cannot be `static`, which DEV is on the emulator.
#define METHOD __device__ __forceinline__

enum ConvMath { F32, TF32, BF16 };

constexpr int CONV_THREADS = 256;
constexpr int CONV_ROWS = 128;
constexpr int CONV_WORDS = 16;  // depth words of a slice
// A coordinate that no image has, also after a tap's offset is added.
constexpr int CONV_OUTSIDE = -(1 << 29);

// Mirrors Shape of src/ops/conv2d/launch.rs. Padding below and right shows in p and q alone.
struct ConvShape {
    int n, h, w, c;  // x
    int k, r, s;     // filter
    int p, q;        // y
    int stride_h, stride_w;
    int pad_h, pad_w;  // above, left
    int dilation_h, dilation_w;
};

// Depth elements per word.
template <ConvMath MATH>
struct Word {
    static constexpr int DEPTH = MATH == BF16 ? 2 : 1;
    static constexpr int SLICE = CONV_WORDS * DEPTH;
};

template <ConvMath MATH>
DEV uint32_t conv_word(float first, float second) {
    if constexpr (MATH == BF16) return pack_bf16(first, second);
    if constexpr (MATH == TF32) return to_tf32(first);
    return __float_as_uint(first);
}

template <ConvMath MATH>
DEV void conv_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    static_assert(MATH != F32, "tensor cores multiply TF32 and BF16");
    if constexpr (MATH == BF16) {
        mma_bf16(d, a, b0, b1);
    } else {
        mma_tf32(d, a, b0, b1);
    }
}

template <int ROWS>
DEV int conv_swizzle(int word) {
    return ((word / 4 % 4 * 8) ^ (word / 8 % 2 * 4)) & (ROWS - 1);
}

// One slice of an operand in registers, read from memory that is contiguous along the depth. VEC: 4 floats at once.
template <ConvMath MATH, int ROWS, bool VEC>
struct DepthMajor {
    static constexpr int DEPTH = Word<MATH>::DEPTH;
    static constexpr int V = VEC ? 4 : DEPTH;
    static constexpr int GROUPS = Word<MATH>::SLICE / V;
    static constexpr int STEP = CONV_THREADS / GROUPS;
    static constexpr int PASSES = (ROWS + STEP - 1) / STEP;
    float v[PASSES][V];

    // Position of the thread's first depth element in the slice.
    static METHOD int depth() { return (int)threadIdx.x % GROUPS * V; }
    static METHOD int row(int pass) { return (int)threadIdx.x / GROUPS + pass * STEP; }

    METHOD void store(uint32_t (*words)[ROWS + 8]) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            if (STEP > ROWS && row(pass) >= ROWS) continue;
#pragma unroll
            for (int j = 0; j < V / DEPTH; j++) {
                int word = depth() / DEPTH + j;
                words[word][row(pass) ^ conv_swizzle<ROWS>(word)] =
                    conv_word<MATH>(v[pass][j * DEPTH], v[pass][j * DEPTH + DEPTH - 1]);
            }
        }
    }
};

// One slice of an operand in registers, read from memory that is contiguous along the rows.
template <ConvMath MATH, int ROWS, bool VEC>
struct RowMajor {
    static constexpr int DEPTH = Word<MATH>::DEPTH;
    static constexpr int V = VEC ? 4 : 1;
    static constexpr int GROUPS = ROWS / V;
    static constexpr int STEP = CONV_THREADS / GROUPS;
    static constexpr int PASSES = (CONV_WORDS + STEP - 1) / STEP;
    float v[PASSES][DEPTH][V];

    // The thread's first row.
    static METHOD int row() { return (int)threadIdx.x % GROUPS * V; }
    // Depth position in the slice; beyond the slice for threads that have nothing to do.
    static METHOD int depth(int pass, int i) { return ((int)threadIdx.x / GROUPS + pass * STEP) * DEPTH + i; }
    static METHOD bool busy(int pass) { return STEP <= CONV_WORDS || depth(pass, 0) < CONV_WORDS * DEPTH; }

    METHOD void store(uint32_t (*words)[ROWS + 8]) const {
#pragma unroll
        for (int pass = 0; pass < PASSES; pass++) {
            if (!busy(pass)) continue;
            int word = depth(pass, 0) / DEPTH;
            uint32_t* to = &words[word][row() ^ conv_swizzle<ROWS>(word)];
            const float(*f)[V] = v[pass];
            if constexpr (VEC) {
                uint4 packed;
                packed.x = conv_word<MATH>(f[0][0], f[DEPTH - 1][0]);
                packed.y = conv_word<MATH>(f[0][1], f[DEPTH - 1][1]);
                packed.z = conv_word<MATH>(f[0][2], f[DEPTH - 1][2]);
                packed.w = conv_word<MATH>(f[0][3], f[DEPTH - 1][3]);
                store_uint4(to, packed);
            } else {
                *to = conv_word<MATH>(f[0][0], f[DEPTH - 1][0]);
            }
        }
    }
};

// V floats from memory, or zeros.
template <int V>
DEV void conv_fetch(float (&to)[V], const float* from, bool valid) {
    if constexpr (V == 4) {
        float4 f = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (valid) f = load_float4(from);
        to[0] = f.x, to[1] = f.y, to[2] = f.z, to[3] = f.w;
    } else {
        static_assert(V == 1, "one float or four");
        to[0] = valid ? *from : 0.0f;
    }
}

// V values of codes (include/quant.cuh) from memory, or zeros: values[code + 128] is what a code stands for.
template <int V>
DEV void conv_fetch(float (&to)[V], const signed char* from, bool valid, const float* values) {
    static_assert(V == 4, "codes are read four at once");
    char4 code = make_char4(0, 0, 0, 0);
    if (valid) code = *reinterpret_cast<const char4*>(from);
    to[0] = valid ? values[code.x + 128] : 0.0f, to[1] = valid ? values[code.y + 128] : 0.0f;
    to[2] = valid ? values[code.z + 128] : 0.0f, to[3] = valid ? values[code.w + 128] : 0.0f;
}

// Where values of type float or signed char come from: codes through a table in shared memory, which spares a division each.
template <typename X>
struct ConvInput;

template <>
struct ConvInput<float> {
    const float* x;
    METHOD ConvInput(const float* x_, const float*, const float*, int) : x(x_) {}
    template <int V>
    METHOD void fetch(float (&to)[V], int at, bool valid) const {
        conv_fetch<V>(to, x + at, valid);
    }
};

template <>
struct ConvInput<signed char> {
    const signed char* x;
    const float* values;
    // Every thread of the block calls it; a barrier must follow.
    METHOD ConvInput(const signed char* x_, const float* lo, const float* hi, int bits) : x(x_) {
        SMEM(float, table, [CONV_THREADS]);
        table[threadIdx.x] = affine_value(affine_of(lo[0], hi[0], bits), (float)((int)threadIdx.x - 128));
        values = table;
    }
    template <int V>
    METHOD void fetch(float (&to)[V], int at, bool valid) const {
        conv_fetch<V>(to, x + at, valid, values);
    }
};

// to[i] = sum of total over the threads that hold column i, of the first `cols`. Thread t holds V columns from t % GROUPS * V.
// Lanes of a warp pairwise, then warps in order, whose sums take GROUPS * V words of shared memory each. All threads call it.
template <int GROUPS, int V>
DEV void conv_column_sums(float (&total)[V], float* warps, float* to, int cols) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int v = 0; v < V; v++) {
#pragma unroll
        for (int lanes = GROUPS; lanes < 32; lanes *= 2) total[v] += __shfl_xor_sync(0xffffffffu, total[v], lanes);
        if (lane < GROUPS) warps[(int)threadIdx.x / 32 * (GROUPS * V) + lane * V + v] = total[v];
    }
    __syncthreads();
    if (threadIdx.x >= GROUPS * V || (int)threadIdx.x >= cols) return;
    float sum = warps[threadIdx.x];
#pragma unroll
    for (int i = 1; i < CONV_THREADS / 32; i++) sum += warps[i * (GROUPS * V) + threadIdx.x];
    to[threadIdx.x] = sum;
}

template <int GROUPS, int V>
DEV void conv_column_sums(float (&total)[V], float* to, int cols) {
    SMEM(float, warps, [CONV_THREADS / 32 * GROUPS * V]);
    conv_column_sums<GROUPS, V>(total, warps, to, cols);
}

// How the lanes of a block hold its columns: each has GROUPS groups of WIDTH neighbours, 8 / WIDTH neighbouring lanes have
// eight. Lanes APART (and multiples of it) hold other rows of the same columns, and so do STACKED warps.
template <int COLS_, int WARPS_N>
struct TensorColumns {
    static constexpr int COLS = COLS_, GROUPS = COLS / WARPS_N / 8, WIDTH = 2, APART = 4, STACKED = 8 / WARPS_N;
    static METHOD int first(int group) {
        return (int)threadIdx.x / 32 % WARPS_N * (GROUPS * 8) + group * 8 + (int)threadIdx.x % 4 * 2;
    }
    static METHOD int stack() { return (int)threadIdx.x / 32 / WARPS_N; }
};

// Some groups of them.
template <class Columns, int FIRST_, int GROUPS_>
struct SomeColumns : Columns {
    static constexpr int FIRST = FIRST_, GROUPS = GROUPS_;
    static METHOD int first(int group) { return Columns::first(FIRST + group); }
};

template <int COLS_, int WIDTH_>
struct CudaCoreColumns {
    static constexpr int COLS = COLS_, GROUPS = 1, WIDTH = WIDTH_, APART = COLS / WIDTH, STACKED = 8;
    static METHOD int first(int) { return (int)threadIdx.x % APART * WIDTH; }
    static METHOD int stack() { return (int)threadIdx.x / 32; }
};

// The block's sums: accumulation over a slice; draining to memory two columns at a time, or handing out while they are in
// registers.
template <ConvMath MATH, int COLS>
struct Accumulator {
    static constexpr int WARPS_N = COLS >= 32 ? 2 : 1;
    typedef TensorColumns<COLS, WARPS_N> Columns;
    static constexpr int WARP_M = CONV_ROWS / (8 / WARPS_N);
    static constexpr int MS = WARP_M / 16, NS = COLS / WARPS_N / 8;
    float d[MS][NS][4] = {};

    static METHOD int first_row() { return (int)threadIdx.x / 32 / WARPS_N * WARP_M; }
    static METHOD int first_col() { return (int)threadIdx.x / 32 % WARPS_N * (NS * 8); }

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
#pragma unroll
                for (int n = 0; n < NS; n++) conv_mma<MATH>(d[m][n], fa[m], fb[n][0], fb[n][1]);
            }
        }
    }

    // offset(row) is called once per row and its result handed to emit(offset, col, value, value of col + 1).
    template <typename Offset, typename Emit>
    METHOD void drain(Offset offset, Emit emit) const {
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
        for (int m = 0; m < MS; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int at = offset(first_row() + m * 16 + half * 8 + g);
#pragma unroll
                for (int n = 0; n < NS; n++) {
                    emit(at, first_col() + n * 8 + t * 2, d[m][n][half * 2], d[m][n][half * 2 + 1]);
                }
            }
        }
    }

    // out.put(group, pixel(row), value of each column) for groups of each row, FIRST to LAST, by whole warps.
    template <int FIRST = 0, int LAST = NS - 1, typename Pixel, typename Output>
    METHOD void give(Pixel pixel, Output& out) const {
        int g = threadIdx.x % 32 / 4;
#pragma unroll
        for (int m = 0; m < MS; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int at = pixel(first_row() + m * 16 + half * 8 + g);
#pragma unroll
                for (int n = FIRST; n <= LAST; n++) {
                    float v[2] = {d[m][n][half * 2], d[m][n][half * 2 + 1]};
                    out.put(n - FIRST, at, v);
                }
            }
        }
    }
};

template <int COLS>
struct Accumulator<F32, COLS> {
    // Rows come in groups of four, 128 / (MS / 4) apart, so that the group loads of a warp are neighbours.
    static constexpr int MS = COLS == 64 ? 8 : 4, NS = COLS == 16 ? 2 : 4;
    static constexpr int ACROSS = COLS / NS, APART = CONV_ROWS / (MS / 4);
    typedef CudaCoreColumns<COLS, NS> Columns;
    float d[MS][NS] = {};

    METHOD void multiply(const uint32_t (*a)[CONV_ROWS + 8], const uint32_t (*b)[COLS + 8]) {
        int row = (int)threadIdx.x / ACROSS * 4, col = (int)threadIdx.x % ACROSS * NS;
#pragma unroll
        for (int word = 0; word < CONV_WORDS; word++) {
            float fa[MS], fb[NS];
#pragma unroll
            for (int m = 0; m < MS; m += 4) {
                uint4 u = load_uint4(&a[word][(row + m / 4 * APART) ^ conv_swizzle<CONV_ROWS>(word)]);
                fa[m] = __uint_as_float(u.x), fa[m + 1] = __uint_as_float(u.y);
                fa[m + 2] = __uint_as_float(u.z), fa[m + 3] = __uint_as_float(u.w);
            }
            const uint32_t* from = &b[word][col ^ conv_swizzle<COLS>(word)];
            if constexpr (NS == 4) {
                uint4 u = load_uint4(from);
                fb[0] = __uint_as_float(u.x), fb[1] = __uint_as_float(u.y);
                fb[2] = __uint_as_float(u.z), fb[3] = __uint_as_float(u.w);
            } else {
                fb[0] = __uint_as_float(from[0]), fb[1] = __uint_as_float(from[1]);
            }
#pragma unroll
            for (int m = 0; m < MS; m++) {
#pragma unroll
                for (int n = 0; n < NS; n++) d[m][n] += fa[m] * fb[n];
            }
        }
    }

    template <typename Offset, typename Emit>
    METHOD void drain(Offset offset, Emit emit) const {
        int row = (int)threadIdx.x / ACROSS * 4, col = (int)threadIdx.x % ACROSS * NS;
#pragma unroll
        for (int m = 0; m < MS; m++) {
            int at = offset(row + m / 4 * APART + m % 4);
#pragma unroll
            for (int n = 0; n < NS; n += 2) emit(at, col + n, d[m][n], d[m][n + 1]);
        }
    }

    template <typename Pixel, typename Output>
    METHOD void give(Pixel pixel, Output& out) const {
        int row = (int)threadIdx.x / ACROSS * 4;
#pragma unroll
        for (int m = 0; m < MS; m++) {
            float v[NS];
#pragma unroll
            for (int n = 0; n < NS; n++) v[n] = d[m][n];
            out.put(0, pixel(row + m / 4 * APART + m % 4), v);
        }
    }
};

// Runs the slices of one block. A Source has
//   MATH, COLS
//   void next(int4* table)               fills the table of the next slice (every thread calls it, one entry per thread)
//   void load(const int4* table)         fetches the next slice to registers
//   void store(a words, b words)         puts them in shared memory
template <typename Source>
DEV void conv_run(Source& source, int slices, Accumulator<Source::MATH, Source::COLS>& sums) {
    SMEM(uint32_t, a, [2][CONV_WORDS][CONV_ROWS + 8]);
    SMEM(uint32_t, b, [2][CONV_WORDS][Source::COLS + 8]);
    SMEM(int4, table, [2][Word<Source::MATH>::SLICE]);
    if (slices == 0) return;
    source.next(table[0]);
    __syncthreads();
    source.load(table[0]);
    source.next(table[1]);
    source.store(a[0], b[0]);
    __syncthreads();
    for (int i = 0; i < slices; i++) {
        int now = i & 1;
        bool more = i + 1 < slices;
        if (more) source.load(table[now ^ 1]);
        // Slice i was loaded from this table before the last barrier.
        source.next(table[now]);
        sums.multiply(a[now], b[now]);
        if (more) source.store(a[now ^ 1], b[now ^ 1]);
        __syncthreads();
    }
}

// value, value + 1 to columns col, col + 1 of a row that starts at `row`: y = beta * y + value + bias.
struct ConvOutput {
    float* y;
    const float* bias;  // or null
    float beta;
    int cols;
    bool pairs;  // every pair of columns is whole and 8-byte aligned

    METHOD ConvOutput(float* y_, const float* bias_, float beta_, int cols_)
        : y(y_), bias(bias_), beta(beta_), cols(cols_), pairs(cols_ % 2 == 0 && (size_t)y_ % 8 == 0) {}
    METHOD void put(int row, int col, float v) const {
        if (col >= cols) return;
        if (bias) v += bias[col];
        // Not beta * y: y may be uninitialised memory when beta is 0.
        if (beta != 0.0f) v += beta * y[row + col];
        y[row + col] = v;
    }
    METHOD void pair(int row, int col, float v0, float v1) const {
        if (row < 0) return;
        if (pairs) {
            if (col >= cols) return;
            float2* to = reinterpret_cast<float2*>(y + row + col);
            if (bias) v0 += bias[col], v1 += bias[col + 1];
            if (beta != 0.0f) {
                float2 old = *to;
                v0 += beta * old.x, v1 += beta * old.y;
            }
            *to = make_float2(v0, v1);
            return;
        }
        put(row, col, v0);
        put(row, col + 1, v1);
    }
};
