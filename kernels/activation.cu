// Activations (src/ops/activation/mod.rs), a and b being their numbers: kind 0 relu, 1 leaky relu (slope), 2 tanh, 3 clip (low,
// high); of the smooth kernels 4 sigmoid, 5 hard sigmoid (alpha, beta), 6 silu, 7 hard swish (alpha, beta), 8 elu (alpha), 9 gelu,
// 10 gelu by tanh, 11 mish, 12 softplus.
//
// mapping   four elements per thread
// traffic   fwd 8 bytes per element; bwd 12
// order     no reductions
#include "include/quads.cuh"

// `unused` keeps forward and backward launches alike.
KERNEL activation_fwd_f32(const float* __restrict__ x, const float* __restrict__ unused, float* __restrict__ y, int n,
                          int kind, float a, float b) {
    quads_map(x, y, n, [=](float v) {
        if (kind == 2) return tanhf(v);
        if (kind == 3) {
            v = v <= a ? a : v;
            return v >= b ? b : v;
        }
        if (v <= 0.0f) return kind == 1 ? v * a : 0.0f;
        return v;
    });
}

KERNEL activation_bwd_f32(const float* __restrict__ y, const float* __restrict__ dy, float* __restrict__ dx, int n,
                          int kind, float a, float b) {
    quads_map(y, dy, dx, n, [=](float v, float up) {
        float d = v > 0.0f ? 1.0f : (kind == 1 ? a : 0.0f);
        if (kind == 2) d = 1.0f - v * v;
        if (kind == 3) d = v > a && v < b ? 1.0f : 0.0f;
        return up * d;
    });
}

DEV float sigmoid(float x) {
    float e = expf(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// 0 .. 1; NaN stays NaN.
DEV float unit(float v) {
    v = v <= 0.0f ? 0.0f : v;
    return v >= 1.0f ? 1.0f : v;
}

// P(X < x) of a standard normal X.
DEV float normal_below(float x) { return 0.5f * erfcf(x * -0.70710678f); }

// tanh(softplus(x)) and the derivative of x times it (curves.rs).
struct Gate {
    float value, slope;
};
DEV Gate mish(float x) {
    float e = expf(-fabsf(x));
    bool negative = x < 0.0f;
    float above = negative ? e * (e + 2.0f) : 1.0f + 2.0f * e;
    float below = negative ? above + 2.0f : above + 2.0f * e * e;
    float sigmoid = (negative ? e : 1.0f) / (1.0f + e);
    float root = 2.0f * (1.0f + e) * (negative ? 1.0f : e) / below;
    Gate g;
    g.value = above / below;
    g.slope = g.value + x * sigmoid * root * root;
    return g;
}
// (1 + tanh u) / 2 of the tangent form of GELU, and the derivative of x times it (curves.rs).
DEV Gate gelu_tanh(float x) {
    float v = x < -16.0f ? -16.0f : x;
    v = v > 16.0f ? 16.0f : v;
    float square = v * v;
    Gate g;
    float u = 1.5957691f * v * (1.0f + 0.044715f * square);
    g.value = sigmoid(u);
    g.slope = g.value + v * g.value * sigmoid(-u) * (1.5957691f * (1.0f + 3.0f * 0.044715f * square));
    return g;
}

DEV float smooth_value(int kind, float v, float a, float b) {
    switch (kind) {
        case 4: return sigmoid(v);
        case 5: return unit(__fadd_rn(__fmul_rn(v, a), b));
        case 6: return v * sigmoid(v);
        case 7: return v * unit(__fadd_rn(__fmul_rn(v, a), b));
        case 8: return v > 0.0f ? v : a * expm1f(v);
        case 9: return v * normal_below(v);
        case 10: return v * gelu_tanh(v).value;
        case 11: return v * mish(v).value;
        default: return (v < 0.0f ? 0.0f : v) + log1pf(expf(-fabsf(v)));
    }
}

// v: the input of kinds 6, 7, 9, 10 and 11, the output of the others.
DEV float smooth_slope(int kind, float v, float a, float b) {
    switch (kind) {
        case 4: return v * (1.0f - v);
        case 5: return v > 0.0f && v < 1.0f ? a : 0.0f;
        case 6: {
            float s = sigmoid(v);
            return s + v * s * sigmoid(-v);
        }
        case 7: {
            float gate = __fadd_rn(__fmul_rn(v, a), b);
            return gate <= 0.0f ? 0.0f : gate >= 1.0f ? 1.0f : gate + v * a;
        }
        case 8: return v > 0.0f ? 1.0f : v + a;
        case 9: return normal_below(v) + v * 0.3989423f * expf(-0.5f * v * v);
        case 10: return gelu_tanh(v).slope;
        case 11: return mish(v).slope;
        default: return -expm1f(-v);
    }
}

KERNEL activation_smooth_fwd_f32(const float* __restrict__ x, const float* __restrict__ unused, float* __restrict__ y,
                                 int n, int kind, float a, float b) {
    quads_map(x, y, n, [=](float v) { return smooth_value(kind, v, a, b); });
}

KERNEL activation_smooth_bwd_f32(const float* __restrict__ saved, const float* __restrict__ dy, float* __restrict__ dx,
                                 int n, int kind, float a, float b) {
    quads_map(saved, dy, dx, n, [=](float v, float up) { return up * smooth_slope(kind, v, a, b); });
}
