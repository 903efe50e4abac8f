// Results of a convolution while they are in registers: a lane holds W = 2 or 4 neighbouring columns of an output row, and
// 8 / W neighbouring lanes hold eight, which share a byte of a mask.
#pragma once
#include "conv_tile.cuh"

// The bits of eight columns, of which each lane has its own (the first column's lowest). Whole warps call it.
template <int W>
DEV unsigned eight_bits(unsigned bits, int col) {
    bits <<= col % 8;
#pragma unroll
    for (int lanes = 1; lanes < 8 / W; lanes *= 2) bits |= __shfl_xor_sync(0xffffffffu, bits, lanes);
    return bits;
}

// To W floats at `to`, aligned to as many.
template <int W>
DEV void store_columns(float* to, const float (&v)[W]) {
    if constexpr (W == 4) store_float4(to, make_float4(v[0], v[1], v[2], v[3]));
    else *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
}

template <int W>
DEV void load_columns(float (&v)[W], const float* from) {
    if constexpr (W == 4) {
        float4 f = load_float4(from);
        v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
    } else {
        float2 f = *reinterpret_cast<const float2*>(from);
        v[0] = f.x, v[1] = f.y;
    }
}
