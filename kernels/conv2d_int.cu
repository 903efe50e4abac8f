// Convolution of 8-bit codes (src/ops/conv2d_int): with the zero points zx and zw[k], over the taps inside the image,
//
//   acc = sum (qx + zx)(qw + zw) = sum qx qw + zw sum qx + zx sum (qw + zw)
//   y   = f32(acc) * (1 / (sx * sw[k])) + bias[k]             every operation rounded, none fused
//
// layout    x NHWC and w KRSC, signed bytes; y NPQK f32
// mapping   include/conv_int.cuh: column tiles of 16, 32 or 64 (the suffix); `c4` and `any` where channels do not come in
//           sixteens
// traffic   bytes of x + w, 4 bytes * y; x is read r*s times from L2
// order     exact integers
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_int.cuh"
#include "include/quant.cuh"

// Mirrors Quantizers of src/ops/conv2d_int/gpu.rs: ranges of x (1 value each) and w (k), and their bits.
struct Quantizers {
    const float *x_lo, *x_hi, *w_lo, *w_hi;
    int x_bits, w_bits;
};

// A zero point as an integer, MAX_ZERO of src/ops/conv2d_int/mod.rs; NaN gives 0.
DEV int zero_of(Affine a, int limit) {
    float z = a.zero != a.zero ? 0.0f : a.zero;
    return (int)fminf(fmaxf(z, -(float)limit), (float)limit);
}
constexpr int MAX_X_ZERO = 1 << 17, MAX_W_ZERO = 1 << 28;

// taps[k][r s] = sum over c of (qw + zw)
KERNEL conv2d_int_taps(const signed char* __restrict__ w, Quantizers q, Wide* __restrict__ taps, int k, int rs, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= k * rs) return;
    int row = i / rs, sum = 0;
    for (int j = 0; j < c; j++) sum += w[i * c + j];
    int zero = zero_of(affine_of(q.w_lo[row], q.w_hi[row], q.w_bits), MAX_W_ZERO);
    taps[i] = (Wide)sum + (Wide)c * zero;
}

struct ValueSink {
    const ConvShape& z;
    const Quantizers& q;
    const Wide* taps;
    const float* bias;
    float* y;
    Affine ax;
    int zx, zw;
    float unit;
    const Wide* tap;
    Wide all;

    METHOD ValueSink(const ConvShape& z_, const Quantizers& q_, const Wide* taps_, const float* bias_, float* y_)
        : z(z_), q(q_), taps(taps_), bias(bias_), y(y_), ax(affine_of(q.x_lo[0], q.x_hi[0], q.x_bits)) {
        zx = zero_of(ax, MAX_X_ZERO);
    }
    METHOD void column(int col) {
        Affine aw = affine_of(q.w_lo[col], q.w_hi[col], q.w_bits);
        zw = zero_of(aw, MAX_W_ZERO);
        unit = __fdiv_rn(1.0f, __fmul_rn(ax.scale, aw.scale));
        tap = taps + col * z.r * z.s;
        all = 0;
        for (int i = 0; i < z.r * z.s; i++) all += tap[i];
    }
    METHOD void put(int row, int col, int dot, int ones) const {
        Wide acc = (Wide)dot + (Wide)zw * ones + (Wide)zx * taps_inside(z, tap, all, row);
        float v = __fmul_rn(__ll2float_rn(acc), unit);
        y[row * z.k + col] = bias ? __fadd_rn(v, bias[col]) : v;
    }
};

#define CONV_INT(name, COLS, V, BLOCKS)                                                                                \
    KERNEL __launch_bounds__(CONV_THREADS, BLOCKS)                                                                     \
        name(ConvShape z, const signed char* __restrict__ x, const signed char* __restrict__ w, Quantizers q,          \
             const Wide* __restrict__ taps, const float* __restrict__ bias, float* __restrict__ y) {                   \
        conv_int<COLS, V, false>(z, x, w, ValueSink(z, q, taps, bias, y));                                                                  \
    }

CONV_INT(conv2d_int_n16, 16, 16, 2)
CONV_INT(conv2d_int_n32, 32, 16, 2)
CONV_INT(conv2d_int_n64, 64, 16, 2)
CONV_INT(conv2d_int_c4, 32, 4, 2)
CONV_INT(conv2d_int_any, 32, 1, 1)
