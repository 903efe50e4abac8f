// The one header that tells CUDA from the emulator (../emu). Every kernel file includes it first.
//
//   KERNEL name(...)            extern "C" __global__ void; __launch_bounds__ goes after KERNEL
//   DEV T f(...)                a device function
//   SMEM(float, tile, [32][33]);   a static __shared__ array, 16-byte aligned
//   DYN_SMEM(float, buffer);       the dynamic shared memory as a float*
//   bar_sync(id, threads)          a named barrier
//   opaque(v)                      v, hidden from optimisation
#pragma once

#define KERNEL extern "C" __global__ void

#if defined(SIMT_SCAN)
// The build script only looks for kernel names: no definitions needed.

#elif defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

#define DEV __device__ __forceinline__
#define SMEM(T, name, dims) __shared__ __align__(16) T name dims
#define DYN_SMEM(T, name)                                \
  extern __shared__ __align__(128) unsigned char dyn_smem_[]; \
  T* name = reinterpret_cast<T*>(dyn_smem_)

// A shared memory pointer as PTX wants it.
DEV unsigned smem_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

// v, of which the compiler knows nothing: it cannot make a copy of a loop for each of its values.
DEV int opaque(int v) {
  asm volatile("" : "+r"(v));
  return v;
}

DEV void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#else

#include "../emu/simt.h"

#define DEV static inline
#define SMEM(T, name, dims)                                                           \
  static char smem_site_##name;                                                       \
  T(&name) dims = *(T(*) dims)simt::shared_array(&smem_site_##name, sizeof(T dims),   \
                                                 alignof(T) < 16 ? 16 : alignof(T))
#define DYN_SMEM(T, name) T* name = reinterpret_cast<T*>(simt::blk->dyn)

SIMT_INLINE unsigned smem_address(const void* p) { return simt::shared_address(p); }
SIMT_INLINE int opaque(int v) { return v; }
SIMT_INLINE void bar_sync(int id, int threads) { simt::barrier(id, threads); }

#endif
