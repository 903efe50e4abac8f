// CUDA's built-in vector types and the 16-bit floating point types.
#pragma once

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define SIMT_VECTOR_TYPES(T, name)                                                              \
  struct name##1 {                                                                              \
    T x;                                                                                        \
  };                                                                                            \
  struct __attribute__((aligned(sizeof(T) * 2))) name##2 {                                      \
    T x, y;                                                                                     \
  };                                                                                            \
  struct __attribute__((aligned(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4))) name##4 {            \
    T x, y, z, w;                                                                               \
  };                                                                                            \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                             \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define SIMT_VECTOR_TYPE3(T, name)                                                              \
  struct name##3 {                                                                              \
    T x, y, z;                                                                                  \
  };                                                                                            \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }

SIMT_VECTOR_TYPES(float, float)
SIMT_VECTOR_TYPES(double, double)
SIMT_VECTOR_TYPES(int, int)
SIMT_VECTOR_TYPES(unsigned, uint)
SIMT_VECTOR_TYPES(signed char, char)
SIMT_VECTOR_TYPES(unsigned char, uchar)
SIMT_VECTOR_TYPES(short, short)
SIMT_VECTOR_TYPES(unsigned short, ushort)
SIMT_VECTOR_TYPES(long long, longlong)
SIMT_VECTOR_TYPES(unsigned long long, ulonglong)
SIMT_VECTOR_TYPE3(float, float)
SIMT_VECTOR_TYPE3(double, double)
SIMT_VECTOR_TYPE3(int, int)
SIMT_VECTOR_TYPE3(signed char, char)
SIMT_VECTOR_TYPE3(unsigned char, uchar)
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

namespace simt {
template <class To, class From>
static inline To bits(From v) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To r;
  std::memcpy(&r, &v, sizeof r);
  return r;
}
}  // namespace simt

// ---------------------------------------------------------------- half and bfloat16
struct __half {
  uint16_t u;
  __half() = default;
  __half(float f);
  operator float() const;
};
struct __nv_bfloat16 {
  uint16_t u;
  __nv_bfloat16() = default;
  __nv_bfloat16(float f);
  operator float() const;
};
struct __attribute__((aligned(4))) __half2 {
  __half x, y;
};
struct __attribute__((aligned(4))) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
typedef __half half;
typedef __half2 half2;
typedef __nv_bfloat16 nv_bfloat16;
typedef __nv_bfloat162 nv_bfloat162;

static inline float __bfloat162float(__nv_bfloat16 h) {
  return simt::bits<float>((uint32_t)h.u << 16);
}
static inline __nv_bfloat16 __float2bfloat16(float f) {  // to nearest even, quiet NaN
  uint32_t b = simt::bits<uint32_t>(f);
  __nv_bfloat16 h;
  bool nan = (b & 0x7fffffff) > 0x7f800000;
  h.u = nan ? 0x7fff : (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
  return h;
}
static inline float __half2float(__half h) {
  uint32_t sign = (h.u & 0x8000u) << 16, exponent = h.u >> 10 & 31, mantissa = h.u & 0x3ff;
  if (exponent == 31) return simt::bits<float>(sign | 0x7f800000 | mantissa << 13);
  if (exponent) return simt::bits<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  float subnormal = (float)mantissa * 5.9604644775390625e-8f;  // 2^-24
  return simt::bits<float>(simt::bits<uint32_t>(subnormal) | sign);
}
static inline __half __float2half(float f) {  // to nearest even
  __half h;
  uint32_t b = simt::bits<uint32_t>(f), sign = b >> 16 & 0x8000;
  b &= 0x7fffffff;
  if (b > 0x7f800000) {
    h.u = 0x7fff;
  } else if (b >= 0x477ff000) {
    h.u = (uint16_t)(sign | 0x7c00);
  } else if (b >= 0x38800000) {
    b += 0xfff + (b >> 13 & 1);
    h.u = (uint16_t)(sign | (b - 0x38000000) >> 13);
  } else {  // subnormal: adding 0.5 rounds at the right bit
    uint32_t r = simt::bits<uint32_t>(simt::bits<float>(b) + 0.5f);
    h.u = (uint16_t)(sign | (r - 0x3f000000));
  }
  return h;
}
inline __half::__half(float f) : u(__float2half(f).u) {}
inline __half::operator float() const { return __half2float(*this); }
inline __nv_bfloat16::__nv_bfloat16(float f) : u(__float2bfloat16(f).u) {}
inline __nv_bfloat16::operator float() const { return __bfloat162float(*this); }

#define __float2half_rn __float2half
#define __float2bfloat16_rn __float2bfloat16
static inline __half2 __floats2half2_rn(float a, float b) { return {__half(a), __half(b)}; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) {
  return {__nv_bfloat16(a), __nv_bfloat16(b)};
}
static inline float2 __half22float2(__half2 h) { return {(float)h.x, (float)h.y}; }
static inline float2 __bfloat1622float2(__nv_bfloat162 h) { return {(float)h.x, (float)h.y}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 h) { return h.u; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short u) {
  __nv_bfloat16 h;
  h.u = u;
  return h;
}
static inline unsigned short __half_as_ushort(__half h) { return h.u; }
static inline __half __ushort_as_half(unsigned short u) {
  __half h;
  h.u = u;
  return h;
}
#define SIMT_PAIR_OP(Pair, T, name, op)                                  \
  static inline Pair name(Pair a, Pair b) {                              \
    return {T((float)a.x op(float) b.x), T((float)a.y op(float) b.y)};   \
  }
SIMT_PAIR_OP(__half2, __half, __hadd2, +)
SIMT_PAIR_OP(__half2, __half, __hmul2, *)
SIMT_PAIR_OP(__nv_bfloat162, __nv_bfloat16, __hadd2, +)
SIMT_PAIR_OP(__nv_bfloat162, __nv_bfloat16, __hmul2, *)
