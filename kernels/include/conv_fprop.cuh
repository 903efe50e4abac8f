// Convolution forward as an implicit GEMM, for conv2d_fprop.cu and for kernels that go on with what it computes: rows = output
// pixels, columns = k, depth = (r, s, c). Grid: row tiles of 128, column tiles of COLS. VEC needs c % 4 == 0 and 16-byte
// aligned x and w.
#pragma once
#include "conv_gather.cuh"
#include "conv_output.cuh"

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

// `out` as in conv_output.cuh.
template <ConvMath MATH, int COLS, bool VEC, class Output>
DEV void fprop(const ConvShape& z, const float* x, const float* w, Output out) {
    Window g = forward_window(z);
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS;
    FpropSource<MATH, COLS, VEC> source(g, x, w, z.k, first_row, first_col);
    Accumulator<MATH, COLS> sums;
    int depth = z.r * z.s * z.c;
    conv_run(source, (depth + Word<MATH>::SLICE - 1) / Word<MATH>::SLICE, sums);
    out.start(first_col);
    int rows = z.n * z.p * z.q;
    sums.give([&](int row) { return first_row + row < rows ? first_row + row : -1; }, out);
    out.finish();
}
