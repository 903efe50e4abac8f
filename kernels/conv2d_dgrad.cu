// Data gradient of a convolution (src/ops/conv2d): dx[n,h,w,c] = beta * dx + bias[c] + sum over k and the taps that hit of
//   dy[n, (h + pad - r*dilation) / stride, (w + pad - s*dilation) / stride, k] * w[k,r,s,c]
// (taps whose division leaves a rest do not hit). Also upsample + convolution forward, which is the transpose of a 4x4
// convolution of stride 2; bias exists for its sake and is null otherwise. What follows: include/grad_output.cuh.
//
// layout    dy NPQK, w KRSC, dx NHWC, all f32
// mapping   implicit GEMM in gather form (include/conv_tile.cuh) over classes of pixels (include/conv_classes.cuh), so that no
//           multiplication is wasted. Rows = pixels of a class, columns = c, depth = (taps of the class, k). Grid: row tiles of
//           128, column tiles of 16, 32 or 64 (the suffix), classes.
//           VEC needs k % 4 == 0, c % 4 == 0 and 16-byte aligned dy and w; `any` takes every shape.
// traffic   from DRAM 4 bytes * (dy + w + dx); dy is read up to r*s / (stride_h * stride_w) times from L2
// order     depth ascending
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_classes.cuh"
#include "include/grad_output.cuh"

template <ConvMath MATH_, int COLS_, bool VEC>
struct DgradSource {
    static constexpr ConvMath MATH = MATH_;
    static constexpr int COLS = COLS_, SLICE = Word<MATH>::SLICE;
    typedef RowMajor<MATH, COLS, VEC> Filter;
    Window g;
    TapWalk<SLICE> walk;
    WindowRows<MATH, VEC> pixels;
    Filter filter;
    const float* __restrict__ w;
    int c, per_k;            // filter dimensions: channels, elements of one k
    int first, row_r, row_s;  // offset of the class's first tap, offsets between taps
    int col;                 // of this thread, CONV_OUTSIDE beyond the last

    METHOD DgradSource(const Window& window, const float* dy, const float* w_, const ConvShape& z, int first_r, int first_s,
                       int every_h, int every_w, int first_row, int first_col)
        : g(window), walk(g), pixels(g, dy, first_row), w(w_), c(z.c), per_k(z.r * z.s * z.c),
          first((first_r * z.s + first_s) * z.c), row_r(every_h * z.s * z.c), row_s(every_w * z.c),
          col(first_col + Filter::row()) {
        if (col >= c) col = CONV_OUTSIDE;
    }
    METHOD void next(int4* table) {
        if (threadIdx.x >= SLICE) return;
        int dh = walk.i * g.step_h, dw = walk.j * g.step_w;
        bool valid = walk.valid(g);
        int at = walk.c * per_k + first + walk.i * row_r + walk.j * row_s;
        table[threadIdx.x] =
            make_int4((dh * g.w + dw) * g.c + walk.c, valid ? dh : CONV_OUTSIDE, dw, valid ? at : CONV_OUTSIDE);
        walk.advance(g);
    }
    METHOD void load(const int4* table) {
        pixels.load(table);
#pragma unroll
        for (int pass = 0; pass < Filter::PASSES; pass++) {
            if (!Filter::busy(pass)) continue;
#pragma unroll
            for (int i = 0; i < Filter::DEPTH; i++) {
                int at = table[Filter::depth(pass, i)].w;
                conv_fetch<Filter::V>(filter.v[pass][i], w + at + col, at >= 0 && col >= 0);
            }
        }
    }
    METHOD void store(uint32_t (*a)[CONV_ROWS + 8], uint32_t (*b)[COLS + 8]) const {
        pixels.held.store(a);
        filter.store(b);
    }
};

template <ConvMath MATH, int COLS, bool VEC>
DEV void dgrad(const ConvShape& z, const float* dy, const float* w, const float* bias, float* dx, float beta, int every_h,
               int every_w, const GradFinish& f) {
    PixelClass part(z, every_h, every_w);
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS;
    if (first_row >= part.rows()) return;
    DgradSource<MATH, COLS, VEC> source(part.window(every_h, every_w), dy, w, z, part.r.first, part.s.first, every_h, every_w,
                                        first_row, first_col);
    Accumulator<MATH, COLS> sums;
    int depth = part.r.count * part.s.count * z.k;
    conv_run(source, (depth + Word<MATH>::SLICE - 1) / Word<MATH>::SLICE, sums);
    // Computed again: kept, it would take registers that the products need.
    PixelClass again(z, opaque(every_h), opaque(every_w));
    int row = opaque(blockIdx.x) * CONV_ROWS, col = opaque(blockIdx.y) * COLS;
    GradOutput out(dx, bias, beta, z.c, f);
    sums.drain([&](int i) { return again.offset(row + i); },
               [&](int at, int i, float v0, float v1) { out.pair(at, col + i, v0, v1); });
}

// every_h, every_w: see conv_classes.cuh.
#define DGRAD(name, MATH, COLS, VEC)                                                                             \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                    \
        name(ConvShape z, const float* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias, \
             float* __restrict__ dx, float beta, GradFinish f, int every_h, int every_w) {                       \
        dgrad<MATH, COLS, VEC>(z, dy, w, bias, dx, beta, every_h, every_w, f);                                   \
    }

DGRAD(conv2d_dgrad_f32_n16, F32, 16, true)
DGRAD(conv2d_dgrad_f32_n32, F32, 32, true)
DGRAD(conv2d_dgrad_f32_n64, F32, 64, true)
DGRAD(conv2d_dgrad_f32_any, F32, 32, false)
DGRAD(conv2d_dgrad_tf32_n16, TF32, 16, true)
DGRAD(conv2d_dgrad_tf32_n32, TF32, 32, true)
DGRAD(conv2d_dgrad_tf32_n64, TF32, 64, true)
DGRAD(conv2d_dgrad_tf32_any, TF32, 32, false)
DGRAD(conv2d_dgrad_bf16_n16, BF16, 16, true)
DGRAD(conv2d_dgrad_bf16_n32, BF16, 32, true)
DGRAD(conv2d_dgrad_bf16_n64, BF16, 64, true)
DGRAD(conv2d_dgrad_bf16_any, BF16, 32, false)
