// One planted bug per kernel, and its corrected twin, for tests/emulator.rs. The line that must be
// named carries a comment "BUG <kernel>".
#include "include/async_copy.cuh"
#include "include/device.cuh"
#include "include/wgmma.cuh"

KERNEL planted_global_bounds(float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = 1.0f;  // BUG planted_global_bounds
}
KERNEL fixed_global_bounds(float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = 1.0f;
}

KERNEL planted_shared_bounds(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  s[t + 1] = t;  // BUG planted_shared_bounds
  __syncthreads();
  y[t] = s[t];
}
KERNEL fixed_shared_bounds(float* y, int) {
  SMEM(float, s, [65]);
  int t = threadIdx.x;
  s[t + 1] = t;
  if (t == 0) s[0] = 0.0f;
  __syncthreads();
  y[t] = s[t];
}

KERNEL planted_dynamic_bounds(float* y, int) {
  DYN_SMEM(float, s);
  int t = threadIdx.x;
  s[t + 64] = t;  // BUG planted_dynamic_bounds
  y[t] = s[t + 64];
}
KERNEL fixed_dynamic_bounds(float* y, int) {
  DYN_SMEM(float, s);
  int t = threadIdx.x;
  s[t] = t;
  y[t] = s[t];
}

KERNEL planted_divergent_barrier(float* y, int) {
  int t = threadIdx.x;
  if (t < 40) {
    __syncthreads();  // BUG planted_divergent_barrier
  } else {
    y[t] = __shfl_xor_sync(0xffffffffu, y[t], 1);
  }
}
KERNEL fixed_divergent_barrier(float* y, int) {
  int t = threadIdx.x;
  __syncthreads();
  y[t] = __shfl_xor_sync(0xffffffffu, y[t], 1);
}

KERNEL planted_missing_barrier(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  s[t] = 0.0f;
  __syncthreads();
  s[t] = t;
  y[t] = s[t ^ 32];  // BUG planted_missing_barrier
}
KERNEL fixed_missing_barrier(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  s[t] = 0.0f;
  __syncthreads();
  s[t] = t;
  __syncthreads();
  y[t] = s[t ^ 32];
}

// The second exchange overwrites what other warps may still be reading.
KERNEL planted_write_after_read(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  s[t] = t;
  __syncthreads();
  float v = s[t ^ 32];  // BUG planted_write_after_read
  s[t] = 2.0f * v;
  __syncthreads();
  y[t] = s[t ^ 32];
}
KERNEL fixed_write_after_read(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  s[t] = t;
  __syncthreads();
  float v = s[t ^ 32];
  __syncthreads();
  s[t] = 2.0f * v;
  __syncthreads();
  y[t] = s[t ^ 32];
}

KERNEL planted_missing_syncwarp(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  s[t] = 0.0f;
  __syncthreads();
  s[t] = t;
  y[t] = s[t ^ 31];  // BUG planted_missing_syncwarp
}
KERNEL fixed_missing_syncwarp(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  s[t] = 0.0f;
  __syncthreads();
  s[t] = t;
  __syncwarp();
  y[t] = s[t ^ 31];
}

KERNEL planted_block_race(float* y, int) {
  y[threadIdx.x] = blockIdx.x;  // BUG planted_block_race
}
KERNEL fixed_block_race(float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = blockIdx.x;
}

// Blocks leave partial sums; the last to finish adds them up. y: [blocks + 1], then the counter.
DEV bool is_last_block(float* y) {
  unsigned* counter = (unsigned*)(y + gridDim.x + 1);
  return atomicAdd(counter, 1u) == gridDim.x - 1;
}
DEV void add_partials(float* y) {
  float sum = 0.0f;
  for (unsigned b = 0; b < gridDim.x; b++) {
    sum += y[b];  // BUG planted_missing_fence
  }
  y[gridDim.x] = sum;
}
KERNEL planted_missing_fence(float* y, int) {
  if (threadIdx.x != 0) return;
  y[blockIdx.x] = 1.0f;
  if (is_last_block(y)) add_partials(y);
}
KERNEL fixed_missing_fence(float* y, int) {
  if (threadIdx.x != 0) return;
  y[blockIdx.x] = 1.0f;
  __threadfence();
  if (is_last_block(y)) add_partials(y);
}

KERNEL planted_early_arrival(float* y, int) {
  if (threadIdx.x == 32) y[blockIdx.x] = 1.0f;
  if (threadIdx.x != 0) return;
  __threadfence();
  if (!is_last_block(y)) return;
  float sum = 0.0f;
  for (unsigned b = 0; b < gridDim.x; b++) {
    sum += y[b];  // BUG planted_early_arrival
  }
  y[gridDim.x] = sum;
}
KERNEL fixed_early_arrival(float* y, int) {
  if (threadIdx.x == 32) y[blockIdx.x] = 1.0f;
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (is_last_block(y)) add_partials(y);
}

KERNEL planted_uninitialised(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  if (t) s[t] = t;
  __syncthreads();
  y[t] = s[t];  // BUG planted_uninitialised
}
KERNEL fixed_uninitialised(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  s[t] = t;
  __syncthreads();
  y[t] = s[t];
}

KERNEL planted_missing_wait(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  cp_async<4>(&s[t], y + t);
  cp_async_commit();
  __syncthreads();
  float v = s[t];  // BUG planted_missing_wait
  cp_async_wait<0>();
  y[t] = v;
}
KERNEL fixed_missing_wait(float* y, int) {
  SMEM(float, s, [64]);
  int t = threadIdx.x;
  cp_async<4>(&s[t], y + t);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  float v = s[t];
  y[t] = v;
}

KERNEL planted_misaligned(float* y, int) {
  float4* p = (float4*)(y + 1);
  if (threadIdx.x == 0) p->x = 1.0f, p->y = ((volatile double*)(y + 1))[0];  // BUG planted_misaligned
}
KERNEL fixed_misaligned(float* y, int) {
  if (threadIdx.x == 0) y[0] = (float)((volatile double*)(y + 2))[0];
}

// 64 rows of A and 80 of B, all zeros; their address.
DEV unsigned zeros_for_wgmma(unsigned char*& rows, bool fenced) {
  DYN_SMEM(unsigned char, dynamic);
  rows = dynamic + (0u - smem_address(dynamic)) % WGMMA_ALIGN;
  for (int i = threadIdx.x; i < 144 * WGMMA_ROW / 4; i += 128) ((unsigned*)rows)[i] = 0;
  if (fenced) proxy_fence();
  __syncthreads();
  return smem_address(rows);
}
KERNEL planted_wgmma_proxy(float* y, int) {
  unsigned char* rows;
  int d[40] = {};
  unsigned at = zeros_for_wgmma(rows, false);
  wgmma_fence();
  wgmma_s8(d, wgmma_matrix(at), wgmma_matrix(at + 64 * WGMMA_ROW));  // BUG planted_wgmma_proxy
  wgmma_commit();
  wgmma_wait<0>(d);
  y[threadIdx.x] = (float)d[0];
}
KERNEL fixed_wgmma_proxy(float* y, int) {
  unsigned char* rows;
  int d[40] = {};
  unsigned at = zeros_for_wgmma(rows, true);
  wgmma_fence();
  wgmma_s8(d, wgmma_matrix(at), wgmma_matrix(at + 64 * WGMMA_ROW));
  wgmma_commit();
  wgmma_wait<0>(d);
  y[threadIdx.x] = (float)d[0];
}

KERNEL planted_wgmma_fence(float* y, int) {
  unsigned char* rows;
  int d[40] = {};
  unsigned at = zeros_for_wgmma(rows, true);
  wgmma_s8(d, wgmma_matrix(at), wgmma_matrix(at + 64 * WGMMA_ROW));  // BUG planted_wgmma_fence
  wgmma_commit();
  wgmma_wait<0>(d);
  y[threadIdx.x] = (float)d[0];
}
KERNEL fixed_wgmma_fence(float* y, int) {
  unsigned char* rows;
  int d[40] = {};
  unsigned at = zeros_for_wgmma(rows, true);
  wgmma_fence();
  wgmma_s8(d, wgmma_matrix(at), wgmma_matrix(at + 64 * WGMMA_ROW));
  wgmma_commit();
  wgmma_wait<0>(d);
  y[threadIdx.x] = (float)d[0];
}

KERNEL planted_wgmma_operands(float* y, int) {
  unsigned char* rows;
  int d[40] = {};
  unsigned at = zeros_for_wgmma(rows, true) + threadIdx.x / 64 * 32;
  wgmma_fence();
  wgmma_s8(d, wgmma_matrix(at), wgmma_matrix(at + 64 * WGMMA_ROW));  // BUG planted_wgmma_operands
  wgmma_commit();
  wgmma_wait<0>(d);
  y[threadIdx.x] = (float)d[0];
}
KERNEL fixed_wgmma_operands(float* y, int) {
  unsigned char* rows;
  int d[40] = {};
  unsigned at = zeros_for_wgmma(rows, true);
  wgmma_fence();
  wgmma_s8(d, wgmma_matrix(at), wgmma_matrix(at + 64 * WGMMA_ROW));
  wgmma_commit();
  wgmma_wait<0>(d);
  y[threadIdx.x] = (float)d[0];
}

KERNEL planted_wgmma_overwrite(float* y, int) {
  unsigned char* rows;
  int d[40] = {};
  unsigned at = zeros_for_wgmma(rows, true);
  wgmma_fence();
  wgmma_s8(d, wgmma_matrix(at), wgmma_matrix(at + 64 * WGMMA_ROW));
  wgmma_commit();
  rows[threadIdx.x * WGMMA_ROW] = 1;  // BUG planted_wgmma_overwrite
  wgmma_wait<0>(d);
  y[threadIdx.x] = (float)d[0];
}
KERNEL fixed_wgmma_overwrite(float* y, int) {
  unsigned char* rows;
  int d[40] = {};
  unsigned at = zeros_for_wgmma(rows, true);
  wgmma_fence();
  wgmma_s8(d, wgmma_matrix(at), wgmma_matrix(at + 64 * WGMMA_ROW));
  wgmma_commit();
  wgmma_wait<0>(d);
  __syncthreads();
  rows[threadIdx.x * WGMMA_ROW] = 1;
  y[threadIdx.x] = (float)d[0];
}
