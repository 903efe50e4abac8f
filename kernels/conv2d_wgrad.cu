// Weight gradient of a convolution (src/ops/conv2d): dw[k,r,s,c] = beta * dw + sum over n,p,q of
//   dy[n,p,q,k] * x[n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, c]
// and column sums of dy, the bias gradient: on the way, or by themselves.
//
// layout    x NHWC f32, or 8-bit codes of one range (`codes`); dy NPQK, dw KRSC, f32; partial sums [splits][k*r*s*c], [splits][k]
// mapping   implicit GEMM (include/conv_tile.cuh): rows = (r, s, c), columns = k, depth = output pixels. The result is
//           small, so the depth is cut into gridDim.z parts whose sums go to a workspace, and conv2d_sum_f32 adds
//           them. VEC needs c % 4 == 0, k % 4 == 0 and 16-byte aligned x and dy; `any` takes every shape.
//           Column sums on the way: blocks of the first tile of rows add up what they store to shared memory. By themselves: a
//           block sums all k of a range of pixels, 32 columns x 8 rows of threads, and the last of them adds up the parts.
// traffic   from DRAM 4 bytes * (x + dy + dw * (1 + 2 * parts)), 1 byte of x where it is codes; x is read r*s times from L2
// order     pixels ascending within a part, parts ascending within each of 8 groups, groups ascending; the number of
//           parts follows from the shape alone. Column sums on the way: a thread's pixels ascending, lanes, warps, parts. No
//           atomics but those that count blocks.
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_tile.cuh"
#include "include/last_block.cuh"

// Table entries: x = offset of the window's start in x, y, z = its row and column, w = offset of the pixel in dy.
template <ConvMath MATH_, int COLS_, bool VEC, typename X>
struct WgradSource {
    static constexpr ConvMath MATH = MATH_;
    static constexpr int COLS = COLS_, SLICE = Word<MATH>::SLICE;
    typedef RowMajor<MATH, CONV_ROWS, VEC> Inputs;
    typedef RowMajor<MATH, COLS, VEC> Grads;
    Inputs inputs;
    Grads grads;
    const ConvInput<X>& x;
    const float* __restrict__ dy;
    const ConvShape& z;
    float total[Grads::V];   // of this thread's columns of dy
    int dh, dw, tap;         // this thread's (r, s, c): offsets from the window's start
    int col;                 // this thread's k, CONV_OUTSIDE beyond the last
    int n, p, q, pixel, end;  // this thread's table entry

    METHOD WgradSource(const ConvShape& shape, const ConvInput<X>& x_, const float* dy_, int first_row, int first_col,
                       int begin, int end_)
        : x(x_), dy(dy_), z(shape), total(), col(first_col + Grads::row()), pixel(begin + (int)threadIdx.x), end(end_) {
        int row = first_row + Inputs::row(), c = row % z.c, s = row / z.c % z.s, r = row / z.c / z.s;
        dw = s * z.dilation_w;
        tap = (r * z.dilation_h * z.w + dw) * z.c + c;
        dh = r < z.r ? r * z.dilation_h : CONV_OUTSIDE;
        if (col >= z.k) col = CONV_OUTSIDE;
        q = pixel % z.q, p = pixel / z.q % z.p, n = pixel / z.q / z.p;
    }
    METHOD void next(int4* table) {
        if (threadIdx.x >= SLICE) return;
        int h0 = p * z.stride_h - z.pad_h, w0 = q * z.stride_w - z.pad_w;
        bool valid = pixel < end;
        table[threadIdx.x] = make_int4(valid ? ((n * z.h + h0) * z.w + w0) * z.c : 0, valid ? h0 : CONV_OUTSIDE, w0,
                                       valid ? pixel * z.k : CONV_OUTSIDE);
        pixel += SLICE, q += SLICE;
        while (q >= z.q) {
            q -= z.q;
            if (++p == z.p) p = 0, n++;
        }
    }
    METHOD void load(const int4* table) {
#pragma unroll
        for (int pass = 0; pass < Inputs::PASSES; pass++) {
#pragma unroll
            for (int i = 0; i < Inputs::DEPTH; i++) {
                int4 at = table[Inputs::depth(pass, i)];
                bool inside = (unsigned)(at.y + dh) < (unsigned)z.h && (unsigned)(at.z + dw) < (unsigned)z.w;
                x.template fetch<Inputs::V>(inputs.v[pass][i], at.x + tap, inside);
            }
        }
#pragma unroll
        for (int pass = 0; pass < Grads::PASSES; pass++) {
            if (!Grads::busy(pass)) continue;
#pragma unroll
            for (int i = 0; i < Grads::DEPTH; i++) {
                int at = table[Grads::depth(pass, i)].w;
                conv_fetch<Grads::V>(grads.v[pass][i], dy + at + col, at >= 0 && col >= 0);
            }
        }
    }
    METHOD void store(uint32_t (*a)[CONV_ROWS + 8], uint32_t (*b)[COLS + 8]) {
        inputs.store(a);
        grads.store(b);
        // Not where they are loaded: nobody waits for them there.
#pragma unroll
        for (int pass = 0; pass < Grads::PASSES; pass++) {
            if (!Grads::busy(pass)) continue;
#pragma unroll
            for (int i = 0; i < Grads::DEPTH; i++) {
#pragma unroll
                for (int v = 0; v < Grads::V; v++) total[v] += grads.v[pass][i][v];
            }
        }
    }
};

template <ConvMath MATH, int COLS, bool VEC, typename X>
DEV void wgrad(const ConvShape& z, const ConvInput<X>& x, const float* dy, float* dw, float* columns, int per_part,
               float beta) {
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS;
    int begin = blockIdx.z * per_part, end = min(begin + per_part, z.n * z.p * z.q);
    typedef WgradSource<MATH, COLS, VEC, X> Source;
    Source source(z, x, dy, first_row, first_col, begin, end);
    Accumulator<MATH, COLS> sums;
    conv_run(source, (end - begin + Word<MATH>::SLICE - 1) / Word<MATH>::SLICE, sums);
    if (columns != nullptr && blockIdx.x == 0) {
        conv_column_sums<Source::Grads::GROUPS, Source::Grads::V>(source.total, columns + (size_t)blockIdx.z * z.k + first_col,
                                                                  z.k - first_col);
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

// Pixels [blockIdx.z * per_part, + per_part) to dw + blockIdx.z * (elements of dw), and to columns + blockIdx.z * k if that is
// not null. Of values, or of codes of the range lo[0], hi[0].
#define WGRAD(name, MATH, COLS, VEC)                                                                                  \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                         \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dw,          \
             float* __restrict__ columns, int per_part, float beta) {                                                 \
        wgrad<MATH, COLS, VEC, float>(z, ConvInput<float>(x, nullptr, nullptr, 0), dy, dw, columns, per_part, beta);  \
    }
#define WGRAD_CODES(name, MATH, COLS)                                                                                 \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                         \
        name(ConvShape z, const signed char* __restrict__ x, const float* __restrict__ lo,                            \
             const float* __restrict__ hi, const float* __restrict__ dy, float* __restrict__ dw,                      \
             float* __restrict__ columns, int bits, int per_part, float beta) {                                       \
        wgrad<MATH, COLS, true, signed char>(z, ConvInput<signed char>(x, lo, hi, bits), dy, dw, columns, per_part,   \
                                             beta);                                                                   \
    }

WGRAD(conv2d_wgrad_f32_n16, F32, 16, true)
WGRAD(conv2d_wgrad_f32_n32, F32, 32, true)
WGRAD(conv2d_wgrad_f32_n64, F32, 64, true)
WGRAD(conv2d_wgrad_f32_any, F32, 32, false)
WGRAD(conv2d_wgrad_tf32_n16, TF32, 16, true)
WGRAD(conv2d_wgrad_tf32_n32, TF32, 32, true)
WGRAD(conv2d_wgrad_tf32_n64, TF32, 64, true)
WGRAD(conv2d_wgrad_tf32_any, TF32, 32, false)
WGRAD(conv2d_wgrad_bf16_n16, BF16, 16, true)
WGRAD(conv2d_wgrad_bf16_n32, BF16, 32, true)
WGRAD(conv2d_wgrad_bf16_n64, BF16, 64, true)
WGRAD(conv2d_wgrad_bf16_any, BF16, 32, false)
WGRAD_CODES(conv2d_wgrad_codes_f32_n16, F32, 16)
WGRAD_CODES(conv2d_wgrad_codes_f32_n32, F32, 32)
WGRAD_CODES(conv2d_wgrad_codes_f32_n64, F32, 64)
WGRAD_CODES(conv2d_wgrad_codes_tf32_n16, TF32, 16)
WGRAD_CODES(conv2d_wgrad_codes_tf32_n32, TF32, 32)
WGRAD_CODES(conv2d_wgrad_codes_tf32_n64, TF32, 64)
WGRAD_CODES(conv2d_wgrad_codes_bf16_n16, BF16, 16)
WGRAD_CODES(conv2d_wgrad_codes_bf16_n32, BF16, 32)
WGRAD_CODES(conv2d_wgrad_codes_bf16_n64, BF16, 64)

// The sum over parts of partial[part][i], of which group g = threadIdx.x / 32 of eight takes its own; in the threads of group 0.
DEV float add_parts(const float* partial, int n, int parts, int i) {
    SMEM(float, group, [8][33]);
    int lane = threadIdx.x % 32, g = threadIdx.x / 32;
    int per_group = (parts + 7) / 8, begin = g * per_group, end = min(begin + per_group, parts);
    float sum = 0.0f;
    if (i < n) {
#pragma unroll 4
        for (int part = begin; part < end; part++) sum += __ldcg(partial + (size_t)part * n + i);
    }
    group[g][lane] = sum;
    __syncthreads();
#pragma unroll
    for (int j = 1; j < 8; j++) sum += group[j][lane];
    return sum;
}

// y[i] = beta * y[i] + sum over parts of partial[part][i]. Block: 32 elements x 8 groups of consecutive parts.
KERNEL __launch_bounds__(256) conv2d_sum_f32(const float* __restrict__ partial, float* __restrict__ y, int n, int parts,
                                             float beta) {
    int i = blockIdx.x * 32 + threadIdx.x % 32;
    float sum = add_parts(partial, n, parts, i);
    if (threadIdx.x >= 32 || i >= n) return;
    y[i] = beta != 0.0f ? beta * y[i] + sum : sum;
}

// partial[part][k] = sum over the part's pixels of dy[pixel][k]; y[k] = beta * y[k] + sum over parts, by the last block of a
// column tile, unless y is null. Block: 32 columns x 8 rows; grid: column tiles, with a counter each, and parts.
KERNEL __launch_bounds__(256) conv2d_bias_grad_f32(const float* __restrict__ dy, float* partial, float* __restrict__ y,
                                                   unsigned* arrivals, int pixels, int k, int per_part, float beta) {
    SMEM(float, group, [8][33]);
    int lane = threadIdx.x % 32, g = threadIdx.x / 32, col = blockIdx.x * 32 + lane;
    int begin = blockIdx.y * per_part, end = min(begin + per_part, pixels);
    float sum = 0.0f;
    if (col < k) {
#pragma unroll 4
        for (int m = begin + g; m < end; m += 8) sum += dy[(size_t)m * k + col];
    }
    group[g][lane] = sum;
    __syncthreads();
    if (g == 0 && col < k) {
#pragma unroll
        for (int j = 1; j < 8; j++) sum += group[j][lane];
        partial[(size_t)blockIdx.y * k + col] = sum;
    }
    if (y == nullptr || !last_block(arrivals + blockIdx.x, gridDim.y)) return;
    sum = add_parts(partial, k, gridDim.y, col);
    if (g == 0 && col < k) y[col] = beta != 0.0f ? beta * y[col] + sum : sum;
}
