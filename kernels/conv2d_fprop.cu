// Convolution forward (src/ops/conv2d): y[n,p,q,k] = bias[k] + sum over r,s,c of
//   x[n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, c] * w[k,r,s,c]
// (zero outside the image). Also the data gradient of upsample + convolution, which is a 4x4 convolution of stride 2.
//
// layout    x NHWC, w KRSC, y NPQK, all f32
// mapping   implicit GEMM (include/conv_tile.cuh): rows = output pixels, columns = k, depth = (r, s, c). Grid: row tiles
//           of 128, column tiles of 16, 32 or 64 (the suffix). VEC needs c % 4 == 0 and 16-byte aligned x and w; `any`
//           takes every shape.
// traffic   from DRAM 4 bytes * (x + w + y); x is read r*s times from L2
// order     depth ascending
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_gather.cuh"

template <ConvMath MATH_, int COLS_, bool VEC>
struct FpropSource {
    static constexpr ConvMath MATH = MATH_;
    static constexpr int COLS = COLS_, SLICE = Word<MATH>::SLICE;
    typedef DepthMajor<MATH, COLS, VEC> Filter;
    Window g;
    TapWalk<SLICE> walk;
    WindowRows<MATH, VEC> pixels;
    Filter filter;
    const float* __restrict__ w;
    int base[Filter::PASSES];  // of the filter's row, -1 beyond the last
    int depth;                 // of this thread's table entry

    METHOD FpropSource(const Window& window, const float* x, const float* w_, int k, int first_row, int first_col)
        : g(window), walk(g), pixels(g, x, first_row), w(w_), depth(threadIdx.x) {
#pragma unroll
        for (int pass = 0; pass < Filter::PASSES; pass++) {
            int col = first_col + Filter::row(pass);
            base[pass] = col < k ? col * (g.taps_h * g.taps_w * g.c) : -1;
        }
    }
    METHOD void next(int4* table) {
        if (threadIdx.x >= SLICE) return;
        int dh = walk.i * g.step_h, dw = walk.j * g.step_w;
        bool valid = walk.valid(g);
        table[threadIdx.x] =
            make_int4((dh * g.w + dw) * g.c + walk.c, valid ? dh : CONV_OUTSIDE, dw, valid ? depth : -1);
        walk.advance(g);
        depth += SLICE;
    }
    METHOD void load(const int4* table) {
        pixels.load(table);
#pragma unroll
        for (int e = 0; e < (VEC ? 1 : Filter::V); e++) {
            int at = table[Filter::depth() + e].w;
#pragma unroll
            for (int pass = 0; pass < Filter::PASSES; pass++) {
                bool valid = base[pass] >= 0 && at >= 0;
                if constexpr (VEC) {
                    conv_fetch<4>(filter.v[pass], w + base[pass] + at, valid);
                } else {
                    filter.v[pass][e] = valid ? w[base[pass] + at] : 0.0f;
                }
            }
        }
    }
    METHOD void store(uint32_t (*a)[CONV_ROWS + 8], uint32_t (*b)[COLS + 8]) const {
        pixels.held.store(a);
        filter.store(b);
    }
};

template <ConvMath MATH, int COLS, bool VEC>
DEV void fprop(const ConvShape& z, const float* x, const float* w, const float* bias, float* y, float beta) {
    Window g = {z.n, z.p,    z.q,    z.h,        z.w,        z.c, z.stride,
                -z.pad, -z.pad, z.dilation, z.dilation, z.r, z.s};
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS;
    FpropSource<MATH, COLS, VEC> source(g, x, w, z.k, first_row, first_col);
    Accumulator<MATH, COLS> sums;
    int depth = z.r * z.s * z.c;
    conv_run(source, (depth + Word<MATH>::SLICE - 1) / Word<MATH>::SLICE, sums);
    ConvOutput out(y, bias, beta, z.k);
    int rows = z.n * z.p * z.q;
    sums.drain([&](int row) { return first_row + row < rows ? (first_row + row) * z.k : -1; },
               [&](int at, int col, float v0, float v1) { out.pair(at, first_col + col, v0, v1); });
}

#define FPROP(name, MATH, COLS, VEC)                                                                             \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                    \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, \
             float* __restrict__ y, float beta) {                                                                \
        fprop<MATH, COLS, VEC>(z, x, w, bias, y, beta);                                                          \
    }

FPROP(conv2d_fprop_f32_n16, F32, 16, true)
FPROP(conv2d_fprop_f32_n32, F32, 32, true)
FPROP(conv2d_fprop_f32_n64, F32, 64, true)
FPROP(conv2d_fprop_f32_any, F32, 32, false)
FPROP(conv2d_fprop_tf32_n16, TF32, 16, true)
FPROP(conv2d_fprop_tf32_n32, TF32, 32, true)
FPROP(conv2d_fprop_tf32_n64, TF32, 64, true)
FPROP(conv2d_fprop_tf32_any, TF32, 32, false)
FPROP(conv2d_fprop_bf16_n16, BF16, 16, true)
FPROP(conv2d_fprop_bf16_n32, BF16, 32, true)
FPROP(conv2d_fprop_bf16_n64, BF16, 64, true)
FPROP(conv2d_fprop_bf16_any, BF16, 32, false)
