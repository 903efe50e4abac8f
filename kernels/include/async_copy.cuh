// cp.async: copies from global to shared memory that run while the thread goes on.
//
//   cp_async<N>(dst, src, valid)   N = 4, 8 or 16 bytes, both addresses aligned to N; the bytes from
//                                  `valid` on are zero and not read (0: src is not read at all)
//   cp_async_commit()              closes a group
//   cp_async_wait<N>()             waits until at most N groups of this thread are in flight; other
//                                  threads see the data after a __syncthreads
#pragma once
#include "device.cuh"

#ifdef __CUDACC__

template <int N>
DEV void cp_async(void* dst, const void* src, int valid = N) {
  static_assert(N == 4 || N == 8 || N == 16, "cp.async copies 4, 8 or 16 bytes");
  if constexpr (N == 16) {  // .cg: past L1, which only the 16-byte form may do
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_address(dst)),
                 "l"(__cvta_generic_to_global(src)), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(smem_address(dst)),
                 "l"(__cvta_generic_to_global(src)), "n"(N), "r"(valid)
                 : "memory");
  }
}
DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DEV void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#elif !defined(SIMT_SCAN)

template <int N>
SIMT_INLINE void cp_async(void* dst, const void* src, int valid = N) {
  static_assert(N == 4 || N == 8 || N == 16, "cp.async copies 4, 8 or 16 bytes");
  simt::async_copy<N>(dst, src, valid);
}
SIMT_INLINE void cp_async_commit() { simt::async_commit(); }
template <int N>
SIMT_INLINE void cp_async_wait() {
  simt::async_wait(N);
}

#endif
