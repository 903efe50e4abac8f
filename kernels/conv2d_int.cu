// Convolution of 8-bit codes (src/ops/conv2d_int): with the zero points zx and zw[k], over the taps inside the image,
//
//   acc = sum (qx + zx)(qw + zw) = sum qx qw + zw sum qx + zx sum (qw + zw)
//   y   = f32(acc) * (1 / (sx * sw[k])) + bias[k]             every operation rounded, none fused
//
// layout    x NHWC and w KRSC, signed bytes; y NPQK f32
// mapping   include/conv_int.cuh: column tiles of 16, 32 or 64 (the suffix); `c4` and `any` where channels do not come in
//           sixteens. Each block adds up the taps of its own filters, which it reads once more for it: no launch before.
//           `wgmma64` and `wgmma128`: include/conv_int_wgmma.cuh, many channels on sm_90
// traffic   bytes of x + w, 4 bytes * y; x is read r*s times from L2
// order     exact integers
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_int_wgmma.cuh"
#include "include/int_value.cuh"

// taps[k][r s] = sum over c of (qw + zw), for filters of more taps than a block of the convolution has room for.
KERNEL conv2d_int_taps(const signed char* __restrict__ w, Quantizers q, Wide* __restrict__ taps, int k, int rs, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < k * rs) taps[i] = sum_tap<1>(w, q, i, rs, c);
}

struct ValueSink {
    const ConvShape& z;
    IntValues values;
    IntValues::Column at[2];
    float* y;

    METHOD ValueSink(const ConvShape& z_, const IntValues& values_, float* y_) : z(z_), values(values_), y(y_) {}
    template <int COLS, int V>
    METHOD void prepare(int first_col, Wide* room) {
        values.prepare<COLS, V>(first_col, room);
    }
    METHOD void columns(int col) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (col + e < z.k) at[e] = values.column(col + e);
        }
    }
    METHOD void put(const IntPixel& pixel, int col, const int (&dots)[2], int ones) const {
        if (!pixel.inside) return;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (col + e < z.k) y[pixel.row * z.k + col + e] = values.value(at[e], pixel, dots[e], ones);
        }
    }
};

#define CONV_INT(name, COLS, V, BLOCKS)                                                                                \
    KERNEL __launch_bounds__(CONV_THREADS, BLOCKS)                                                                     \
        name(ConvShape z, const signed char* __restrict__ x, const signed char* __restrict__ w, Quantizers q,          \
             const Wide* __restrict__ taps, const float* __restrict__ bias, float* __restrict__ y) {                   \
        conv_int<COLS, V, false>(z, x, w, ValueSink(z, IntValues(z, w, q, taps, bias), y));                               \
    }

#define CONV_INT_WGMMA(name, COLS)                                                                                     \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                          \
        name(ConvShape z, const signed char* __restrict__ x, const signed char* __restrict__ w, Quantizers q,          \
             const Wide* __restrict__ taps, const float* __restrict__ bias, float* __restrict__ y) {                   \
        conv_int_wgmma<COLS, false>(z, x, w, ValueSink(z, IntValues(z, w, q, taps, bias), y));                         \
    }

CONV_INT(conv2d_int_n16, 16, 16, 2)
CONV_INT(conv2d_int_n32, 32, 16, 2)
CONV_INT(conv2d_int_n64, 64, 16, 2)
CONV_INT(conv2d_int_c4, 32, 4, 2)
CONV_INT(conv2d_int_any, 32, 1, 1)
CONV_INT_WGMMA(conv2d_int_wgmma64, 64)
CONV_INT_WGMMA(conv2d_int_wgmma128, 128)
