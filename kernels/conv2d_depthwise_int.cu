// Depthwise convolution of 8-bit codes (src/ops/conv2d_depthwise_int): with the zero points zx and zw[c], over the taps
// inside the image,
//
//   acc = sum (qx + zx)(qw + zw) = sum qx qw + zw sum qx + zx (sum qw + zw taps)
//   y   = f32(acc) * (1 / (sx * sw[c])) + bias[c]              every operation rounded, none fused
//
// layout    x NHWC, filters packed to [r s c], signed bytes; y NPQC f32
// mapping   a thread computes one pixel of one channel (vec4: of four), neighbours serve neighbouring channels
// traffic   bytes of x, r*s times through the caches; 4 bytes * y
// order     exact integers
// tried     -
// measured  not yet measured on a GPU
#include "include/depthwise_shape.cuh"
#include "include/int_value.cuh"

// packed[r s][c], zero[c + 1] (that of x last), unit[c] of w[c][r s] and the quantizers.
KERNEL conv2d_depthwise_int_prepare(const signed char* __restrict__ w, Quantizers q, signed char* __restrict__ packed,
                                    int* __restrict__ zero, float* __restrict__ unit, int c, int rs) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c * rs) return;
    int channel = i % c;
    packed[i] = w[channel * rs + i / c];
    if (i >= c) return;
    Affine ax = affine_of(q.x_lo[0], q.x_hi[0], q.x_bits);
    Affine aw = affine_of(q.w_lo[channel], q.w_hi[channel], q.w_bits);
    zero[channel] = zero_of(aw, MAX_W_ZERO);
    unit[channel] = __fdiv_rn(1.0f, __fmul_rn(ax.scale, aw.scale));
    if (i == 0) zero[c] = zero_of(ax, MAX_X_ZERO);
}

template <int V>
DEV void load_codes(const signed char* __restrict__ from, int (&to)[V]) {
    if constexpr (V == 4) {
        unsigned word = *reinterpret_cast<const unsigned*>(from);
#pragma unroll
        for (int e = 0; e < 4; e++) to[e] = (signed char)(word >> (8 * e));
    } else {
        to[0] = *from;
    }
}

template <int V>
DEV void depthwise_int(const DepthwiseShape& g, const signed char* __restrict__ x, const signed char* __restrict__ w,
                       const int* __restrict__ zero, const float* __restrict__ unit, const float* __restrict__ bias,
                       float* __restrict__ y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, columns = g.c / V;
    if (i >= g.n * g.p * g.q * columns) return;
    int c = i % columns * V, pixel = i / columns;
    int q = pixel % g.q, p = pixel / g.q % g.p, n = pixel / (g.q * g.p);
    int dots[V] = {}, ones[V] = {}, sums[V] = {}, taps = 0;
    for (int r = 0; r < g.r; r++) {
        int row = p * g.stride_h + r * g.dilation_h - g.pad_h;
        if (row < 0 || row >= g.h) continue;
        for (int s = 0; s < g.s; s++) {
            int col = q * g.stride_w + s * g.dilation_w - g.pad_w;
            if (col < 0 || col >= g.w) continue;
            int a[V], b[V];
            load_codes<V>(x + ((n * g.h + row) * g.w + col) * g.c + c, a);
            load_codes<V>(w + (r * g.s + s) * g.c + c, b);
            taps++;
#pragma unroll
            for (int e = 0; e < V; e++) dots[e] += a[e] * b[e], ones[e] += a[e], sums[e] += b[e];
        }
    }
    int zx = zero[g.c];
#pragma unroll
    for (int e = 0; e < V; e++) {
        Wide zw = zero[c + e];
        Wide acc = dots[e] + zw * ones[e] + zx * (sums[e] + zw * taps);
        float v = __fmul_rn(__ll2float_rn(acc), unit[c + e]);
        y[pixel * g.c + c + e] = bias ? __fadd_rn(v, bias[c + e]) : v;
    }
}

#define DEPTHWISE_INT(name, V)                                                                                         \
    KERNEL name(DepthwiseShape g, const signed char* __restrict__ x, const signed char* __restrict__ w,                \
                const int* __restrict__ zero, const float* __restrict__ unit, const float* __restrict__ bias,          \
                float* __restrict__ y) {                                                                               \
        depthwise_int<V>(g, x, w, zero, unit, bias, y);                                                                \
    }

DEPTHWISE_INT(conv2d_depthwise_int_fprop, 1)
DEPTHWISE_INT(conv2d_depthwise_int_fprop_vec4, 4)
