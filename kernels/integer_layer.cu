// A layer of a deployed network (src/ops/integer_layer): a convolution of codes and what follows it, per output
//
//   v = f32(acc) * unit[k]                        acc = sum (qx + zx)(qw + zw), exact
//   v = v + bias[k]
//   v = (v - mean[k]) * scale[k] + shift[k]
//   v = v + residual                              of codes: (q + zero) / scale
//   v = v <= 0 ? 0 : v                            ReLU
//   q = clamp(round(s v - z))
//
// every operation rounded, none fused, each one where its flag is set. `finish` is the same from the bias on, of
// values or codes that are there already.
//
// layout    x NHWC and y NPQK, signed bytes (y f32 without a quantizer); w KRSC, signed bytes, or two codes to a byte (`w4`)
// mapping   include/conv_int.cuh: column tiles of 16, 32 or 64 (the suffix), `c4` and `any` where channels do not come in
//           sixteens; `wgmma*`: include/conv_int_wgmma.cuh; `finish`: a thread per value
// traffic   bytes of x + w, of the residual, of y
// order     exact integers, then one output per thread
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_int_wgmma.cuh"
#include "include/quant.cuh"

// Mirrors Weights of src/ops/integer_layer/gpu.rs: per channel; taps[k][r s] = sum over c of (qw + zw).
struct Weights {
    const float* unit;
    const int* zero;
    const Wide* taps;
    int x_zero;
};

// Mirrors StepArgs there.
struct StepArgs {
    const float *bias, *mean, *scale, *shift;
    const void* residual;
    Affine from;  // of the residual's codes
    Affine to;
    int flags;
};
enum { BIAS = 1, NORM = 2, RESIDUAL = 4, RESIDUAL_CODES = 8, RELU = 16, TO_CODES = 32 };

DEV float branch(const void* v, bool codes, const Affine& a, int i) {
    if (!codes) return static_cast<const float*>(v)[i];
    return affine_value(a, (float)static_cast<const signed char*>(v)[i]);
}

// Output i, of channel col, from its value before all steps.
DEV void finish(const StepArgs& s, float v, int i, int col, void* y) {
    int flags = opaque(s.flags);
    if (flags & BIAS) v = __fadd_rn(v, s.bias[col]);
    if (flags & NORM) v = __fadd_rn(__fmul_rn(__fsub_rn(v, s.mean[col]), s.scale[col]), s.shift[col]);
    if (flags & RESIDUAL) v = __fadd_rn(v, branch(s.residual, flags & RESIDUAL_CODES, s.from, i));
    if (flags & RELU) v = v <= 0.0f ? 0.0f : v;
    if (flags & TO_CODES) static_cast<signed char*>(y)[i] = code_byte(affine_code(s.to, v));
    else static_cast<float*>(y)[i] = v;
}

struct LayerSink {
    struct Column {
        TapSums taps;
        int zw;
        float unit;
    };
    const ConvShape& z;
    const Weights& w;
    const StepArgs& s;
    void* y;
    Column at[2];

    METHOD LayerSink(const ConvShape& z_, const Weights& w_, const StepArgs& s_, void* y_) : z(z_), w(w_), s(s_), y(y_) {}
    template <int COLS, int V>
    METHOD void prepare(int, Wide*) {}
    METHOD void columns(int col) {
        int rs = z.r * z.s;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int c = col + e;
            if (c < z.k) at[e] = {TapSums(w.taps + c * rs, rs), w.zero[c], w.unit[c]};
        }
    }
    METHOD void put(const IntPixel& pixel, int col, const int (&dots)[2], int ones) const {
        if (!pixel.inside) return;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int c = col + e;
            if (c >= z.k) continue;
            Wide acc = (Wide)dots[e] + (Wide)at[e].zw * ones + (Wide)w.x_zero * at[e].taps.inside(z, pixel);
            finish(s, __fmul_rn(__ll2float_rn(acc), at[e].unit), pixel.row * z.k + c, c, y);
        }
    }
};

#define INTEGER_LAYER(name, COLS, V, PACKED, BLOCKS)                                                                    \
    KERNEL __launch_bounds__(CONV_THREADS, BLOCKS)                                                                     \
        name(ConvShape z, const signed char* __restrict__ x, const signed char* __restrict__ filter, Weights w, StepArgs s,  \
             void* __restrict__ y) {                                                                                   \
        conv_int<COLS, V, PACKED>(z, x, filter, LayerSink(z, w, s, y));                                                     \
    }

#define INTEGER_LAYER_WGMMA(name, COLS, PACKED)                                                                         \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                          \
        name(ConvShape z, const signed char* __restrict__ x, const signed char* __restrict__ filter, Weights w, StepArgs s,  \
             void* __restrict__ y) {                                                                                   \
        conv_int_wgmma<COLS, PACKED>(z, x, filter, LayerSink(z, w, s, y));                                             \
    }

INTEGER_LAYER(integer_layer_n16, 16, 16, false, 2)
INTEGER_LAYER(integer_layer_n32, 32, 16, false, 2)
INTEGER_LAYER(integer_layer_n64, 64, 16, false, 2)
INTEGER_LAYER(integer_layer_n16_w4, 16, 16, true, 2)
INTEGER_LAYER(integer_layer_n32_w4, 32, 16, true, 2)
INTEGER_LAYER(integer_layer_n64_w4, 64, 16, true, 2)
INTEGER_LAYER(integer_layer_c4, 32, 4, false, 2)
INTEGER_LAYER(integer_layer_any, 32, 1, false, 1)
INTEGER_LAYER_WGMMA(integer_layer_wgmma64, 64, false)
INTEGER_LAYER_WGMMA(integer_layer_wgmma128, 128, false)
INTEGER_LAYER_WGMMA(integer_layer_wgmma64_w4, 64, true)
INTEGER_LAYER_WGMMA(integer_layer_wgmma128_w4, 128, true)

// x: f32, or codes of a; n values of k channels
KERNEL integer_layer_finish(const void* __restrict__ x, int codes, Affine a, StepArgs s, void* __restrict__ y, int n, int k) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) finish(s, branch(x, codes, a, i), i, i % k, y);
}
