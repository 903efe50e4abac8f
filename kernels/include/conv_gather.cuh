// The operand of forward and data gradient whose rows are pixels and whose depth is (tap, channel): each row is a window
// of an NHWC tensor, and moving by a tap moves the window.
//
//   source pixel of row (n, a, b) and tap (i, j) = (a * scale_h + start_h + i * step_h, b * scale_w + start_w + j * step_w)
#pragma once
#include "conv_tile.cuh"

struct Window {
    int n, rows_h, rows_w;    // rows are n x rows_h x rows_w
    int h, w, c;              // source image
    int scale_h, scale_w;     // source pixels per row pixel
    int start_h, start_w;     // of tap (0, 0)
    int step_h, step_w;       // between taps
    int taps_h, taps_w;
};

// That of forward.
DEV Window forward_window(const ConvShape& z) {
    return {z.n, z.p, z.q, z.h, z.w, z.c, z.stride_h, z.stride_w, -z.pad_h, -z.pad_w, z.dilation_h, z.dilation_w, z.r, z.s};
}

// Walks the depth: thread t < SLICE owns position t of every slice.
template <int SLICE>
struct TapWalk {
    int c, i, j;

    METHOD explicit TapWalk(const Window& g) {
        int d = threadIdx.x;
        c = d % g.c;
        j = g.taps_w > 0 ? d / g.c % g.taps_w : 0;
        i = g.taps_w > 0 ? d / g.c / g.taps_w : 0;
    }
    METHOD bool valid(const Window& g) const { return i < g.taps_h; }
    METHOD void advance(const Window& g) {
        c += SLICE;
        while (c >= g.c) {
            c -= g.c;
            if (++j == g.taps_w) j = 0, i++;
        }
    }
};

// Table entries: x = offset of (tap, channel) from the window's start, y, z = rows and columns from it, w = the filter's.
template <ConvMath MATH, bool VEC>
struct WindowRows {
    typedef DepthMajor<MATH, CONV_ROWS, VEC> Held;
    Held held;
    const float* __restrict__ x;
    int base[Held::PASSES], h0[Held::PASSES], w0[Held::PASSES];
    int h, w;

    METHOD WindowRows(const Window& g, const float* from, int first_row) : x(from), h(g.h), w(g.w) {
#pragma unroll
        for (int pass = 0; pass < Held::PASSES; pass++) {
            int row = first_row + Held::row(pass), b = row % g.rows_w, rest = row / g.rows_w;
            int a = rest % g.rows_h, n = rest / g.rows_h;
            h0[pass] = n < g.n ? a * g.scale_h + g.start_h : CONV_OUTSIDE;
            w0[pass] = b * g.scale_w + g.start_w;
            // Only used for pixels that exist, so the overflow of an outside row does not matter.
            base[pass] = n < g.n ? ((n * g.h + h0[pass]) * g.w + w0[pass]) * g.c : 0;
        }
    }
    METHOD void load(const int4* table) {
#pragma unroll
        for (int e = 0; e < (VEC ? 1 : Held::V); e++) {
            int4 at = table[Held::depth() + e];
#pragma unroll
            for (int pass = 0; pass < Held::PASSES; pass++) {
                bool inside = (unsigned)(h0[pass] + at.y) < (unsigned)h && (unsigned)(w0[pass] + at.z) < (unsigned)w;
                if constexpr (VEC) {
                    conv_fetch<4>(held.v[pass], x + base[pass] + at.x, inside);
                } else {
                    held.v[pass][e] = inside ? x[base[pass] + at.x] : 0.0f;
                }
            }
        }
    }
};
