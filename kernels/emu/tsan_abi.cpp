// The functions that -fsanitize=thread makes the compiler call, in place of libtsan's.
#include "check.h"

using simt::access;
#define PC __builtin_return_address(0)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define READ_WRITE(n)                                                                             \
  void __tsan_read##n(void* p) { access(p, n, {.align = n}, PC); }                                \
  void __tsan_write##n(void* p) { access(p, n, {.write = true, .align = n}, PC); }                \
  void __tsan_unaligned_read##n(void* p) { access(p, n, {}, PC); }                                \
  void __tsan_unaligned_write##n(void* p) { access(p, n, {.write = true}, PC); }                  \
  void __tsan_volatile_read##n(void* p) { access(p, n, {.align = n}, PC); }                       \
  void __tsan_volatile_write##n(void* p) { access(p, n, {.write = true, .align = n}, PC); }       \
  void __tsan_read_write##n(void* p) {                                                            \
    access(p, n, {.align = n}, PC);                                                               \
    access(p, n, {.write = true, .align = n}, PC);                                                \
  }
READ_WRITE(1)
READ_WRITE(2)
READ_WRITE(4)
READ_WRITE(8)
READ_WRITE(16)

void __tsan_read_range(void* p, size_t n) { access(p, n, {}, PC); }
void __tsan_write_range(void* p, size_t n) { access(p, n, {.write = true}, PC); }
void* __tsan_memcpy(void* d, const void* s, size_t n) {
  access(s, n, {}, PC);
  access(d, n, {.write = true}, PC);
  return memcpy(d, s, n);
}
void* __tsan_memmove(void* d, const void* s, size_t n) {
  access(s, n, {}, PC);
  access(d, n, {.write = true}, PC);
  return memmove(d, s, n);
}
void* __tsan_memset(void* d, int c, size_t n) {
  access(d, n, {.write = true}, PC);
  return memset(d, c, n);
}

#define NOTE(bits) access((void*)p, bits / 8, {.write = true, .atomic = true, .align = bits / 8}, PC)
#define FETCH(bits, T, name, expr)                                   \
  T __tsan_atomic##bits##_fetch_##name(volatile T* p, T v, int) {    \
    NOTE(bits);                                                      \
    T old = *p;                                                      \
    *p = (T)(expr);                                                  \
    return old;                                                      \
  }
#define ATOMICS(bits, T)                                                                         \
  T __tsan_atomic##bits##_load(const volatile T* p, int) {                                       \
    access((void*)p, bits / 8, {.atomic = true, .align = bits / 8}, PC);                         \
    return *p;                                                                                   \
  }                                                                                              \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                                    \
    NOTE(bits);                                                                                  \
    *p = v;                                                                                      \
  }                                                                                              \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                                    \
    NOTE(bits);                                                                                  \
    T old = *p;                                                                                  \
    *p = v;                                                                                      \
    return old;                                                                                  \
  }                                                                                              \
  FETCH(bits, T, add, old + v)                                                                   \
  FETCH(bits, T, sub, old - v)                                                                   \
  FETCH(bits, T, or, old | v)                                                                    \
  FETCH(bits, T, and, old & v)                                                                   \
  FETCH(bits, T, xor, old ^ v)                                                                   \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T v, int, int) { \
    NOTE(bits);                                                                                  \
    T old = *p;                                                                                  \
    if (old == *expected) {                                                                      \
      *p = v;                                                                                    \
      return 1;                                                                                  \
    }                                                                                            \
    *expected = old;                                                                             \
    return 0;                                                                                    \
  }                                                                                              \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* expected, T v, int, int) {   \
    NOTE(bits);                                                                                  \
    T old = *p;                                                                                  \
    if (old == *expected) {                                                                      \
      *p = v;                                                                                    \
      return 1;                                                                                  \
    }                                                                                            \
    *expected = old;                                                                             \
    return 0;                                                                                    \
  }                                                                                              \
  T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T expected, T v, int, int) {       \
    NOTE(bits);                                                                                  \
    T old = *p;                                                                                  \
    if (old == expected) *p = v;                                                                 \
    return old;                                                                                  \
  }
ATOMICS(8, uint8_t)
ATOMICS(16, uint16_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

void __tsan_atomic_thread_fence(int) { simt::check_fence(); }
void __tsan_atomic_signal_fence(int) {}
}
