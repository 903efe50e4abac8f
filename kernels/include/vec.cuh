// 16-byte loads and stores (addresses 16-byte aligned), and bf16 packed in registers.
#pragma once
#include "device.cuh"

DEV float4 load_float4(const float* p) { return *reinterpret_cast<const float4*>(p); }
DEV void store_float4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
DEV uint4 load_uint4(const void* p) { return *reinterpret_cast<const uint4*>(p); }
DEV void store_uint4(void* p, uint4 v) { *reinterpret_cast<uint4*>(p) = v; }
DEV int4 load_int4(const void* p) { return *reinterpret_cast<const int4*>(p); }
DEV void store_int4(void* p, int4 v) { *reinterpret_cast<int4*>(p) = v; }

// Two bf16 in a register, the first in the low half.
DEV float bf16_low(uint32_t v) { return __uint_as_float(v << 16); }
DEV float bf16_high(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }
DEV uint32_t pack_bf16(float low, float high) {
  return (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(low)) |
         (uint32_t)__bfloat16_as_ushort(__float2bfloat16_rn(high)) << 16;
}
