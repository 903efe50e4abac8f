// The CUDA language on a CPU: what a .cu file sees when the compiler is not a CUDA compiler.
// Kernels reach this file through include/device.cuh only. Each CUDA thread is a fiber, each
// resident block an OS thread; README.md tells how it works and which parts of CUDA exist here.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

// ---------------------------------------------------------------- qualifiers
#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __constant__ static const
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define SIMT_INLINE static inline __attribute__((always_inline))

// Kernels of the checking library are compiled with -fsanitize=thread, which puts a call before
// each memory access. The emulator's own accesses are not the kernel's: its helpers opt out, and
// say themselves what a thread reads and writes (with the kernel's program counter).
#ifdef SIMT_CHECK
#define SIMT_HELPER __attribute__((no_sanitize_thread, noinline))
#define SIMT_PC __builtin_return_address(0)
extern "C" void simt_check_read(const void* p, size_t n, const void* pc);
extern "C" void simt_check_write(void* p, size_t n, const void* pc);
extern "C" void simt_check_issue(void* p, size_t n, const void* pc);
#else
#define SIMT_HELPER
#define SIMT_PC nullptr
static inline void simt_check_read(const void*, size_t, const void*) {}
static inline void simt_check_write(void*, size_t, const void*) {}
static inline void simt_check_issue(void*, size_t, const void*) {}
#endif

#include "types.h"

// ---------------------------------------------------------------- runtime interface (simt.cpp)
namespace simt {

struct Fiber;
struct Thread;

// A warp operation, executed once for all lanes of the mask by the lane that arrives last.
using WarpOp = void (*)(Thread** lanes, unsigned mask);

// One cp.async that has been issued but not yet performed.
struct Copy {
  void* dst;
  const void* src;
  unsigned bytes;      // copied from src
  unsigned zero_fill;  // zero bytes after them
  unsigned group;      // commit groups issued before it
};

struct Products;

struct Thread {
  uint3 tid;
  unsigned lane, warp, linear;
  Fiber* fiber;
  // the warp operation or barrier that the thread waits in
  unsigned mask;
  WarpOp op;
  void* operand;
  const void* pc;
  // cp.async
  unsigned copies, groups;
  Copy* copy;
  // wgmma; has it written shared memory without fence.proxy.async since, and passed a barrier so?
  Products* products;
  bool unfenced, leaked;
};

struct Block {
  uint3 bid;
  dim3 bdim, gdim;
  unsigned char* dyn;  // dynamic shared memory
  unsigned dyn_bytes;
  unsigned leaks;  // threads with `leaked`
};

extern __thread Thread* cur;
extern __thread Block* blk;
extern bool eager_async;  // SIMT_ASYNC=eager

constexpr unsigned MAX_COPIES = 64;  // cp.async in flight per thread

enum class Vote { Count, And, Or };
void barrier(int id = 0, int count = 0);  // bar.sync id [, count]
int barrier_vote(Vote vote, int predicate);
void warp_op(unsigned mask, WarpOp op, void* operand, const void* pc);
// wgmma.cpp: see include/wgmma.cuh
unsigned shared_address(const void* p);
void wgmma_s8(int n, int* d, uint64_t a, uint64_t b);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(unsigned keep_groups);
void proxy_fence();
void* shared_array(const void* site, size_t bytes, size_t align);
// Ends the launch with an error. `pc` (may be null) is resolved to file:line.
[[noreturn]] void fail(const void* pc, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// What the launcher needs to know of a kernel, made by SIMT_KERNEL after the kernel's definition.
struct Entry {
  const char* name;
  void (*run)(void** params);
  int num_params;
  const unsigned* param_sizes;
  unsigned max_threads;  // __launch_bounds__, or 1024
};

template <class F>
struct Kernel;
template <class... A>
struct Kernel<void (*)(A...)> {
  template <void (*F)(A...), size_t... I>
  __attribute__((no_sanitize_thread)) static void call(void** p, std::index_sequence<I...>) {
    (void)p;
    F(*(std::remove_const_t<A>*)p[I]...);
  }
  template <void (*F)(A...)>
  __attribute__((no_sanitize_thread)) static void run(void** p) {
    call<F>(p, std::index_sequence_for<A...>{});
  }
  static constexpr int count = sizeof...(A);
  static constexpr unsigned sizes[] = {(unsigned)sizeof(A)..., 0};
};

constexpr unsigned bounds(unsigned max_threads = 1024, unsigned = 0, unsigned = 0) {
  return max_threads;
}

}  // namespace simt

#define SIMT_KERNEL(f, ...)                                               \
  extern "C" const simt::Entry simt_entry_##f = {                         \
      #f, &simt::Kernel<decltype(&f)>::template run<&f>,                  \
      simt::Kernel<decltype(&f)>::count, simt::Kernel<decltype(&f)>::sizes, \
      simt::bounds(__VA_ARGS__)};

#define threadIdx (simt::cur->tid)
#define blockIdx (simt::blk->bid)
#define blockDim (simt::blk->bdim)
#define gridDim (simt::blk->gdim)
#define warpSize 32

SIMT_INLINE void __syncthreads() { simt::barrier(); }
SIMT_INLINE int __syncthreads_count(int p) { return simt::barrier_vote(simt::Vote::Count, p); }
SIMT_INLINE int __syncthreads_and(int p) { return simt::barrier_vote(simt::Vote::And, p); }
SIMT_INLINE int __syncthreads_or(int p) { return simt::barrier_vote(simt::Vote::Or, p); }
SIMT_INLINE void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
SIMT_INLINE void __threadfence_block() {}
#define __trap() simt::fail(__builtin_return_address(0), "__trap()")

#include "intrinsics.h"
#include "warp.h"
#include "matrix.h"
