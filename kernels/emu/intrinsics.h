// Per-thread arithmetic and memory intrinsics, and atomics.
#pragma once

// ---------------------------------------------------------------- floating point
// Macros where glibc already has a function of the same name.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)
#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")

SIMT_INLINE void sincospif(float x, float* s, float* c) {
  *s = (float)sin(3.14159265358979323846 * (double)x);
  *c = (float)cos(3.14159265358979323846 * (double)x);
}
SIMT_INLINE float cospif(float x) { return (float)cos(3.14159265358979323846 * (double)x); }
SIMT_INLINE float sinpif(float x) { return (float)sin(3.14159265358979323846 * (double)x); }
SIMT_INLINE float __fdividef(float a, float b) { return a / b; }
SIMT_INLINE float __fdiv_rn(float a, float b) { return a / b; }
SIMT_INLINE float __frcp_rn(float x) { return 1.f / x; }
SIMT_INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
SIMT_INLINE float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
SIMT_INLINE float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
SIMT_INLINE double rsqrt(double x) { return 1.0 / sqrt(x); }
SIMT_INLINE float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
SIMT_INLINE float __fadd_rn(float a, float b) { return a + b; }
SIMT_INLINE float __fsub_rn(float a, float b) { return a - b; }
SIMT_INLINE float __fmul_rn(float a, float b) { return a * b; }
SIMT_INLINE double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
SIMT_INLINE double __dadd_rn(double a, double b) { return a + b; }
SIMT_INLINE double __dmul_rn(double a, double b) { return a * b; }
SIMT_INLINE double __ddiv_rn(double a, double b) { return a / b; }
SIMT_INLINE float __saturatef(float x) { return fminf(fmaxf(x, 0.f), 1.f); }

// ---------------------------------------------------------------- conversions
namespace simt {
// Conversions saturate, NaN becomes 0, as the hardware's do; a C++ cast would be undefined.
SIMT_INLINE int to_int(double x) {
  if (x != x) return 0;
  return x >= 2147483647.0 ? 2147483647 : x <= -2147483648.0 ? (-2147483647 - 1) : (int)x;
}
SIMT_INLINE unsigned to_uint(double x) {
  if (!(x > 0)) return 0;
  return x >= 4294967295.0 ? 4294967295u : (unsigned)x;
}
}  // namespace simt
SIMT_INLINE int __float2int_rn(float x) { return simt::to_int(nearbyintf(x)); }
SIMT_INLINE int __float2int_rd(float x) { return simt::to_int(floorf(x)); }
SIMT_INLINE int __float2int_ru(float x) { return simt::to_int(ceilf(x)); }
SIMT_INLINE int __float2int_rz(float x) { return simt::to_int(truncf(x)); }
SIMT_INLINE unsigned __float2uint_rn(float x) { return simt::to_uint(nearbyintf(x)); }
SIMT_INLINE unsigned __float2uint_rz(float x) { return simt::to_uint(truncf(x)); }
SIMT_INLINE int __double2int_rn(double x) { return simt::to_int(nearbyint(x)); }
SIMT_INLINE float __double2float_rn(double x) { return (float)x; }
SIMT_INLINE float __int2float_rn(int x) { return (float)x; }
SIMT_INLINE float __uint2float_rn(unsigned x) { return (float)x; }
SIMT_INLINE float __ll2float_rn(long long x) { return (float)x; }
SIMT_INLINE int __float_as_int(float f) { return simt::bits<int>(f); }
SIMT_INLINE unsigned __float_as_uint(float f) { return simt::bits<unsigned>(f); }
SIMT_INLINE float __int_as_float(int i) { return simt::bits<float>(i); }
SIMT_INLINE float __uint_as_float(unsigned i) { return simt::bits<float>(i); }
SIMT_INLINE long long __double_as_longlong(double d) { return simt::bits<long long>(d); }
SIMT_INLINE double __longlong_as_double(long long i) { return simt::bits<double>(i); }

// ---------------------------------------------------------------- integers
SIMT_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
SIMT_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
SIMT_INLINE int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
SIMT_INLINE int __ffs(int x) { return __builtin_ffs(x); }
SIMT_INLINE unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
  return r;
}
SIMT_INLINE unsigned __umulhi(unsigned a, unsigned b) {
  return (unsigned)((uint64_t)a * b >> 32);
}
SIMT_INLINE int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
SIMT_INLINE int __mul24(int a, int b) { return a * b; }
SIMT_INLINE int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
  return c;
}
SIMT_INLINE unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; i++) c += (a >> 8 * i & 255) * (b >> 8 * i & 255);
  return c;
}
SIMT_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  uint64_t v = (uint64_t)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= (unsigned)(v >> 8 * (s >> 4 * i & 7) & 255) << 8 * i;
  return r;
}
SIMT_INLINE unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned s) {
  return (unsigned)(((uint64_t)hi << 32 | lo) >> (s & 31));
}
SIMT_INLINE unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned s) {
  return (unsigned)(((uint64_t)hi << 32 | lo) << (s & 31) >> 32);
}

// CUDA's min and max take mixed arguments and return the other operand for a NaN.
SIMT_INLINE float max(float a, float b) { return fmaxf(a, b); }
SIMT_INLINE float min(float a, float b) { return fminf(a, b); }
SIMT_INLINE double max(double a, double b) { return fmax(a, b); }
SIMT_INLINE double min(double a, double b) { return fmin(a, b); }
#define SIMT_MIN_MAX(T)                                \
  SIMT_INLINE T max(T a, T b) { return a > b ? a : b; } \
  SIMT_INLINE T min(T a, T b) { return a < b ? a : b; }
SIMT_MIN_MAX(int)
SIMT_MIN_MAX(unsigned)
SIMT_MIN_MAX(long)
SIMT_MIN_MAX(unsigned long)
SIMT_MIN_MAX(long long)
SIMT_MIN_MAX(unsigned long long)
SIMT_INLINE unsigned max(unsigned a, int b) { return max(a, (unsigned)b); }
SIMT_INLINE unsigned max(int a, unsigned b) { return max((unsigned)a, b); }
SIMT_INLINE unsigned min(unsigned a, int b) { return min(a, (unsigned)b); }
SIMT_INLINE unsigned min(int a, unsigned b) { return min((unsigned)a, b); }

// ---------------------------------------------------------------- loads with cache hints
#define SIMT_LOAD(name) \
  template <class T>    \
  SIMT_INLINE T name(const T* p) { return *p; }
SIMT_LOAD(__ldg)
SIMT_LOAD(__ldcg)
SIMT_LOAD(__ldca)
SIMT_LOAD(__ldcs)
#define SIMT_STORE(name) \
  template <class T>     \
  SIMT_INLINE void name(T* p, T v) { *p = v; }
SIMT_STORE(__stcs)
SIMT_STORE(__stcg)
SIMT_STORE(__stwb)

// ---------------------------------------------------------------- atomics
namespace simt {
template <class T, class F>
SIMT_INLINE T read_modify_write(T* p, F f) {
  using U = std::conditional_t<sizeof(T) == 8, uint64_t,
                               std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  U old = __atomic_load_n((U*)p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n((U*)p, &old, bits<U>(f(bits<T>(old))), true,
                                      __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return bits<T>(old);
}
}  // namespace simt
SIMT_INLINE float atomicAdd(float* p, float v) {
  return simt::read_modify_write(p, [=](float a) { return a + v; });
}
SIMT_INLINE double atomicAdd(double* p, double v) {
  return simt::read_modify_write(p, [=](double a) { return a + v; });
}
#define SIMT_ATOMICS(T)                                                                       \
  SIMT_INLINE T atomicAdd(T* p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }    \
  SIMT_INLINE T atomicSub(T* p, T v) { return __atomic_fetch_sub(p, v, __ATOMIC_RELAXED); }    \
  SIMT_INLINE T atomicOr(T* p, T v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }      \
  SIMT_INLINE T atomicAnd(T* p, T v) { return __atomic_fetch_and(p, v, __ATOMIC_RELAXED); }    \
  SIMT_INLINE T atomicXor(T* p, T v) { return __atomic_fetch_xor(p, v, __ATOMIC_RELAXED); }    \
  SIMT_INLINE T atomicExch(T* p, T v) { return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); }  \
  SIMT_INLINE T atomicMax(T* p, T v) {                                                        \
    return simt::read_modify_write(p, [=](T a) { return a > v ? a : v; });                    \
  }                                                                                           \
  SIMT_INLINE T atomicMin(T* p, T v) {                                                        \
    return simt::read_modify_write(p, [=](T a) { return a < v ? a : v; });                    \
  }                                                                                           \
  SIMT_INLINE T atomicCAS(T* p, T expected, T v) {                                            \
    __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);  \
    return expected;                                                                          \
  }
SIMT_ATOMICS(int)
SIMT_ATOMICS(unsigned)
SIMT_ATOMICS(unsigned long long)
SIMT_INLINE unsigned atomicInc(unsigned* p, unsigned limit) {
  return simt::read_modify_write(p, [=](unsigned a) { return a >= limit ? 0u : a + 1; });
}
