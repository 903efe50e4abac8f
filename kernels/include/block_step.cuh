// What follows a student's convolution (src/ops/conv_block), for the kernel that does this alone and those that do it with the
// convolution: equal bits.
//
//   v = (z - mean) * scale + shift  [+ residual]     u = relu(v)     q = code(u)     every operation rounded, none fused
#pragma once
#include "column_groups.cuh"
#include "conv_output.cuh"
#include "normal.cuh"
#include "quant.cuh"

// Mirrors Params of src/ops/conv_block/gpu.rs. mask and values may be null.
struct ConvBlock {
    const float *mean, *var, *gamma, *beta;
    const void* residual;
    const float *residual_lo, *residual_hi, *lo, *hi;
    signed char* codes;
    unsigned char* mask;
    float* values;
    int rows, row, k, bits, residual_bits, flags;
    float eps;
};
enum { BLOCK_RELU = 1, BLOCK_CLIP = 2, BLOCK_RESIDUAL = 4, BLOCK_RESIDUAL_CODES = 8, BLOCK_MASK = 16, BLOCK_VALUES = 32 };

struct BlockStep {
    // An output channel.
    struct Column {
        float mean, scale, shift;
    };
    const ConvBlock& p;
    Affine to, from;
    int flags;

    METHOD explicit BlockStep(const ConvBlock& p_) : p(p_), to(affine_of(p.lo[0], p.hi[0], p.bits)), from(to) {
        flags = opaque(p.flags);
        if (flags & BLOCK_RESIDUAL_CODES) from = affine_of(p.residual_lo[0], p.residual_hi[0], p.residual_bits);
    }
    METHOD Column column(int c) const {
        float scale = norm_scale(p.var[c], p.gamma ? p.gamma + c : nullptr, p.eps);
        return {p.mean[c], scale, p.beta ? p.beta[c] : 0.0f};
    }
    // From z to u of element `at`, in place, and its code; whether the gradient passes.
    METHOD bool apply(const Column& c, float& v, int at, signed char& code) const {
        v = normalized(v, c.mean, c.scale, c.shift);
        if (flags & BLOCK_RESIDUAL_CODES) {
            v = __fadd_rn(v, affine_value(from, (float)static_cast<const signed char*>(p.residual)[at]));
        } else if (flags & BLOCK_RESIDUAL) {
            v = __fadd_rn(v, static_cast<const float*>(p.residual)[at]);
        }
        bool relu = flags & BLOCK_RELU, pass = !relu || v > 0.0f;
        if (relu && v <= 0.0f) v = 0.0f;
        float level = affine_level(to, v);
        if (flags & BLOCK_CLIP) pass = pass && affine_inside(to, level);
        code = code_byte(affine_clamp(to, level));
        return pass;
    }

    // All of it for W columns from `col` on of the output pixel `row`. k is a multiple of 8; whole warps call it, what they are
    // given may lie outside.
    template <int W>
    METHOD void put(const Column (&c)[W], int row, int col, bool inside, float (&v)[W]) const {
        int at = row * p.k + col;
        unsigned passes = 0, codes = 0;
        if (inside) {
#pragma unroll
            for (int e = 0; e < W; e++) {
                signed char code;
                passes |= (apply(c[e], v[e], at + e, code) ? 1u : 0u) << e;
                codes |= (unsigned)(unsigned char)code << 8 * e;
            }
            if constexpr (W == 4) *reinterpret_cast<unsigned*>(p.codes + at) = codes;
            else *reinterpret_cast<unsigned short*>(p.codes + at) = (unsigned short)codes;
            if (flags & BLOCK_VALUES) store_columns<W>(p.values + at, v);
        }
        if (flags & BLOCK_MASK) {
            passes = eight_bits<W>(passes, col);
            if (inside && col % 8 == 0) p.mask[at / 8] = (unsigned char)passes;
        }
    }
};

// Behind a convolution of values, whose sums these are without the bias (which may be null).
template <class Columns>
struct BlockOutput {
    static constexpr int W = Columns::WIDTH, GROUPS = Columns::GROUPS;
    BlockStep step;
    const float* bias;
    int first;
    BlockStep::Column channels[GROUPS][W];
    float added[GROUPS][W];

    METHOD BlockOutput(const ConvBlock& p, const float* bias_) : step(p), bias(bias_), first(0) {}
    METHOD int column(int group) const { return first + Columns::first(group); }
    METHOD void start(int col) {
        first = col;
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            if (column(i) >= step.p.k) continue;
#pragma unroll
            for (int e = 0; e < W; e++) {
                channels[i][e] = step.column(column(i) + e);
                added[i][e] = bias ? bias[column(i) + e] : 0.0f;
            }
        }
    }
    METHOD void put(int group, int pixel, float (&v)[W]) const {
        bool inside = pixel >= 0 && column(group) < step.p.k;
#pragma unroll
        for (int e = 0; e < W; e++) {
            if (bias && inside) v[e] += added[group][e];
        }
        step.put<W>(channels[group], pixel, column(group), inside, v);
    }
    METHOD void finish() const {}
};
