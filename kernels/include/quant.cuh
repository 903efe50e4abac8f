// The rounding rule, twin of src/quant/rule.rs: the same operations in the same order, none of them fused (the _rn
// intrinsics keep the compiler from contracting), so that both give the same bits.
//
//   n = 2^bits - 1   s = n / max(hi - lo, 1e-8)   z = round(s lo) + 2^(bits-1)
//   q = clamp(round(s x - z), -2^(bits-1), 2^(bits-1) - 1)   value = (q + z) / s      halves to even
#pragma once
#include "device.cuh"

struct Affine {
    float scale, zero, low, high;
};

DEV Affine affine_of(float lo, float hi, int bits) {
    float steps = (float)((1 << bits) - 1), half = (float)(1 << (bits - 1));
    float width = __fsub_rn(hi, lo);
    Affine a;
    a.scale = __fdiv_rn(steps, width < 1e-8f ? 1e-8f : width);
    a.zero = __fadd_rn(rintf(__fmul_rn(a.scale, lo)), half);
    a.low = -half;
    a.high = half - 1.0f;
    return a;
}

// The code before clamping.
DEV float affine_level(Affine a, float x) { return rintf(__fsub_rn(__fmul_rn(a.scale, x), a.zero)); }

// NaN stays NaN.
DEV float affine_clamp(Affine a, float level) {
    float v = level < a.low ? a.low : level;
    return v > a.high ? a.high : v;
}

DEV float affine_code(Affine a, float x) { return affine_clamp(a, affine_level(a, x)); }

DEV float affine_value(Affine a, float code) { return __fdiv_rn(__fadd_rn(code, a.zero), a.scale); }

DEV bool affine_inside(Affine a, float level) { return level >= a.low && level <= a.high; }

// A code as an integer; NaN gives 0.
DEV signed char code_byte(float code) { return (signed char)__float2int_rn(code); }
