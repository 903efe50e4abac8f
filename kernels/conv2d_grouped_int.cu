// Grouped convolution of 8-bit codes (src/ops/conv2d_grouped_int): with the zero points zx and zw[k], over the taps inside the
// image and the channels of the output channel's group,
//
//   acc = sum (qx + zx)(qw + zw) = sum qx qw + zw sum qx + zx (sum qw + zw terms)
//   y   = f32(acc) * (1 / (sx * sw[k])) + bias[k]              every operation rounded, none fused
//
// layout    x NHWC, signed bytes; filters packed to [tap][group_c / V][k][V]; y NPQK f32
// mapping   a thread computes one pixel of one output channel, neighbours serve neighbouring channels; vec4: V = 4 channels of the
//           group at once, in words that a warp reads side by side (filters) or together (x)
// traffic   bytes of x, r*s times through the caches; 4 bytes * y
// order     exact integers
// tried     -
// measured  not yet measured on a GPU
#include "include/grouped_shape.cuh"
#include "include/int_value.cuh"

// packed, zero[k + 1] (that of x last), unit[k] of w[k][tap][group_c] and the quantizers.
KERNEL conv2d_grouped_int_prepare(const signed char* __restrict__ w, Quantizers q, signed char* __restrict__ packed,
                                  int* __restrict__ zero, float* __restrict__ unit, GroupedShape g, int v) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, taps = g.r * g.s;
    if (at >= g.k * taps * g.group_c) return;
    int k = at / v % g.k, words = g.group_c / v, word = at / v / g.k;
    packed[at] = w[(k * taps + word / words) * g.group_c + word % words * v + at % v];
    // One thread for each output channel.
    if (at >= g.k) return;
    Affine ax = affine_of(q.x_lo[0], q.x_hi[0], q.x_bits);
    Affine aw = affine_of(q.w_lo[at], q.w_hi[at], q.w_bits);
    zero[at] = zero_of(aw, MAX_W_ZERO);
    unit[at] = __fdiv_rn(1.0f, __fmul_rn(ax.scale, aw.scale));
    if (at == 0) zero[g.k] = zero_of(ax, MAX_X_ZERO);
}

template <int V>
DEV void grouped_int(const GroupedShape& g, const signed char* __restrict__ x, const signed char* __restrict__ w,
                     const int* __restrict__ zero, const float* __restrict__ unit, const float* __restrict__ bias,
                     float* __restrict__ y) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= g.n * g.p * g.q * g.k) return;
    int k = at % g.k, pixel = at / g.k;
    int q = pixel % g.q, p = pixel / g.q % g.p, n = pixel / (g.q * g.p);
    const signed char* group = x + k / g.group_k * g.group_c;
    int dots = 0, ones = 0, sums = 0, terms = 0;
    for (int r = 0; r < g.r; r++) {
        int row = grouped_meets<false>(grouped_rows(g), p, r, g.h);
        if (row < 0) continue;
        for (int s = 0; s < g.s; s++) {
            int col = grouped_meets<false>(grouped_cols(g), q, s, g.w);
            if (col < 0) continue;
            terms += g.group_c;
            const signed char* from = group + ((n * g.h + row) * g.w + col) * g.c;
            const signed char* filter = w + ((r * g.s + s) * g.group_c * g.k + k * V);
            for (int i = 0; i < g.group_c; i += V, filter += g.k * V) {
                if constexpr (V == 4) {
                    int a = *reinterpret_cast<const int*>(from + i), b = *reinterpret_cast<const int*>(filter);
                    dots = __dp4a(a, b, dots), ones = __dp4a(a, 0x01010101, ones), sums = __dp4a(b, 0x01010101, sums);
                } else {
                    int a = from[i], b = *filter;
                    dots += a * b, ones += a, sums += b;
                }
            }
        }
    }
    Wide zx = zero[g.k], zw = zero[k];
    Wide acc = dots + zw * ones + zx * (sums + zw * terms);
    float v = __fmul_rn(__ll2float_rn(acc), unit[k]);
    y[at] = bias ? __fadd_rn(v, bias[k]) : v;
}

#define GROUPED_INT(name, V)                                                                                           \
    KERNEL name(GroupedShape g, const signed char* __restrict__ x, const signed char* __restrict__ w,                  \
                const int* __restrict__ zero, const float* __restrict__ unit, const float* __restrict__ bias,          \
                float* __restrict__ y) {                                                                               \
        grouped_int<V>(g, x, w, zero, unit, bias, y);                                                                  \
    }

GROUPED_INT(conv2d_grouped_int_fprop, 1)
GROUPED_INT(conv2d_grouped_int_fprop_vec4, 4)
