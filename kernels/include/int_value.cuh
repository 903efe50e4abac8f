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

// Sum of c neighbouring codes, V bytes at a time.
template <int V>
DEV int sum_codes(const signed char* w, int c) {
    int sum = 0;
    for (int i = 0; i < c; i += V) {
        if constexpr (V == 16) {
            uint4 u = load_uint4(w + i);
            sum = __dp4a((int)u.x, 0x01010101, sum), sum = __dp4a((int)u.y, 0x01010101, sum);
            sum = __dp4a((int)u.z, 0x01010101, sum), sum = __dp4a((int)u.w, 0x01010101, sum);
        } else if constexpr (V == 4) {
            sum = __dp4a(*reinterpret_cast<const int*>(w + i), 0x01010101, sum);
        } else {
            sum += w[i];
        }
    }
    return sum;
}

// sum over c of (qw + zw) for tap i % rs of filter i / rs.
template <int V>
DEV Wide sum_tap(const signed char* w, const Quantizers& q, int i, int rs, int c) {
    int row = i / rs, zero = zero_of(affine_of(q.w_lo[row], q.w_hi[row], q.w_bits), MAX_W_ZERO);
    return (Wide)sum_codes<V>(w + (size_t)i * c, c) + (Wide)c * zero;
}

struct IntValues {
    // An output channel.
    struct Column {
        TapSums taps;
        int zw;
        float unit, bias;
    };
    const ConvShape& z;
    const signed char* w;
    const Quantizers& q;
    const Wide* taps;  // [k - first][r s]
    const float* bias;
    Affine ax;
    int zx, first;

    METHOD IntValues(const ConvShape& z_, const signed char* w_, const Quantizers& q_, const Wide* taps_, const float* bias_)
        : z(z_), w(w_), q(q_), taps(taps_), bias(bias_), ax(affine_of(q.x_lo[0], q.x_hi[0], q.x_bits)), first(0) {
        zx = zero_of(ax, MAX_X_ZERO);
    }
    // Without sums per tap, those of the block's columns are put into `room`.
    template <int COLS, int V>
    METHOD void prepare(int first_col, Wide* room) {
        if (taps) return;
        int rs = z.r * z.s;
        for (int i = threadIdx.x; i < min(COLS, z.k - first_col) * rs; i += CONV_THREADS) {
            room[i] = sum_tap<V>(w, q, first_col * rs + i, rs, z.c);
        }
        taps = room, first = first_col;
    }
    METHOD Column column(int col) const {
        Affine aw = affine_of(q.w_lo[col], q.w_hi[col], q.w_bits);
        int rs = z.r * z.s;
        float unit = __fdiv_rn(1.0f, __fmul_rn(ax.scale, aw.scale));
        return {TapSums(taps + (col - first) * rs, rs), zero_of(aw, MAX_W_ZERO), unit, bias ? bias[col] : 0.0f};
    }
    METHOD float value(const Column& c, const IntPixel& at, int dot, int ones) const {
        Wide acc = (Wide)dot + (Wide)c.zw * ones + (Wide)zx * c.taps.inside(z, at);
        float v = __fmul_rn(__ll2float_rn(acc), c.unit);
        return bias ? __fadd_rn(v, c.bias) : v;
    }
};
