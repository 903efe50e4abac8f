// Reductions over a warp and a block, in a fixed order: the same input gives the same bits.
// Every thread gets the result. T: float, double, int or unsigned.
//
// All 32 lanes of the warp (all THREADS of the block, a multiple of 32) must take part.
#pragma once
#include "device.cuh"

// Member functions cannot be `static`, which DEV is on the emulator.
#define OPERATOR __device__ __forceinline__
struct Sum {
  template <typename T>
  OPERATOR T operator()(T a, T b) const { return a + b; }
};
struct Max {
  template <typename T>
  OPERATOR T operator()(T a, T b) const { return a > b ? a : b; }
};
struct Min {
  template <typename T>
  OPERATOR T operator()(T a, T b) const { return a < b ? a : b; }
};
#undef OPERATOR

// Butterfly: as op commutes, all lanes combine the same pairs and end with the same bits.
template <typename Op, typename T>
DEV T warp_reduce(T v, Op op) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) v = op(v, __shfl_xor_sync(0xffffffffu, v, lanes));
  return v;
}
template <typename T>
DEV T warp_sum(T v) { return warp_reduce(v, Sum()); }
template <typename T>
DEV T warp_max(T v) { return warp_reduce(v, Max()); }
template <typename T>
DEV T warp_min(T v) { return warp_reduce(v, Min()); }

// Warps reduce themselves, then every thread combines the warps' results in warp order. The first
// barrier lets a kernel call this several times: nobody still reads the previous call's results.
template <int THREADS, typename Op, typename T>
DEV T block_reduce(T v, Op op) {
  static_assert(THREADS % 32 == 0 && THREADS <= 1024, "whole warps");
  constexpr int WARPS = THREADS / 32;
  v = warp_reduce(v, op);
  if (WARPS == 1) return v;
  SMEM(T, partial, [WARPS]);
  int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  __syncthreads();
  if (thread % 32 == 0) partial[thread / 32] = v;
  __syncthreads();
  v = partial[0];
#pragma unroll
  for (int i = 1; i < WARPS; i++) v = op(v, partial[i]);
  return v;
}
template <int THREADS, typename T>
DEV T block_sum(T v) { return block_reduce<THREADS>(v, Sum()); }
template <int THREADS, typename T>
DEV T block_max(T v) { return block_reduce<THREADS>(v, Max()); }
template <int THREADS, typename T>
DEV T block_min(T v) { return block_reduce<THREADS>(v, Min()); }
