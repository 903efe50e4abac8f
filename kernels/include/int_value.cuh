// What integer sums of codes stand for (src/ops/conv2d_int), for kernels that find the quantizers on the device:
//
//   value = f32(acc) * (1 / (sx * sw[k])) + bias[k]      every operation rounded, none fused
//
// with acc = sum (qx + zx)(qw + zw), put together from the sums of conv_int.cuh.
#pragma once
#include "conv_int.cuh"
#include "quant.cuh"

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

struct IntValues {
    // An output channel.
    struct Column {
        TapSums taps;
        int zw;
        float unit, bias;
    };
    const Quantizers& q;
    const Wide* taps;
    const float* bias;
    Affine ax;
    int zx, rs;

    METHOD IntValues(const ConvShape& z, const Quantizers& q_, const Wide* taps_, const float* bias_)
        : q(q_), taps(taps_), bias(bias_), ax(affine_of(q.x_lo[0], q.x_hi[0], q.x_bits)), rs(z.r * z.s) {
        zx = zero_of(ax, MAX_X_ZERO);
    }
    METHOD Column column(int col) const {
        Affine aw = affine_of(q.w_lo[col], q.w_hi[col], q.w_bits);
        float unit = __fdiv_rn(1.0f, __fmul_rn(ax.scale, aw.scale));
        return {TapSums(taps + col * rs, rs), zero_of(aw, MAX_W_ZERO), unit, bias ? bias[col] : 0.0f};
    }
    METHOD float value(const ConvShape& z, const Column& c, const IntPixel& at, int dot, int ones) const {
        Wide acc = (Wide)dot + (Wide)c.zw * ones + (Wide)zx * c.taps.inside(z, at);
        float v = __fmul_rn(__ll2float_rn(acc), c.unit);
        return bias ? __fadd_rn(v, c.bias) : v;
    }
};
