// Shows where each element of a fragment lies: tests/fragments.rs feeds one-hot and numbered matrices
// and compares with the layouts that include/mma.cuh documents. Meant for the emulator and for GPUs.
// Launch with blocks of one warp; each has operands of its own.
#include "include/async_copy.cuh"
#include "include/device.cuh"
#include "include/mma.cuh"
#include "include/reduce.cuh"
#include "include/wgmma.cuh"

// a: [blocks][32 lanes][4], b: [blocks][32][2], d: [blocks][32][4]
#define SELFTEST_MMA(name, Acc)                                                    \
  KERNEL selftest_##name(const uint32_t* a, const uint32_t* b, Acc* d) {            \
    int lane = blockIdx.x * 32 + threadIdx.x;                                      \
    uint32_t fa[4];                                                                \
    Acc fd[4];                                                                     \
    for (int i = 0; i < 4; i++) fa[i] = a[lane * 4 + i];                           \
    for (int i = 0; i < 4; i++) fd[i] = d[lane * 4 + i];                           \
    name(fd, fa, b[lane * 2], b[lane * 2 + 1]);                                    \
    for (int i = 0; i < 4; i++) d[lane * 4 + i] = fd[i];                           \
  }
SELFTEST_MMA(mma_bf16, float)
SELFTEST_MMA(mma_tf32, float)
SELFTEST_MMA(mma_s8, int)

// x: [32 rows][8] b16; r: [32 lanes][N]
#define SELFTEST_LDMATRIX(name, N)                                                 \
  KERNEL selftest_##name(const uint16_t* x, uint32_t* r) {                          \
    SMEM(uint16_t, rows, [32][8]);                                                 \
    int lane = threadIdx.x;                                                        \
    cp_async<16>(rows[lane], x + lane * 8);                                        \
    cp_async_commit();                                                             \
    cp_async_wait<0>();                                                            \
    __syncthreads();                                                               \
    uint32_t f[N];                                                                 \
    name(f, rows[lane]);                                                           \
    for (int i = 0; i < N; i++) r[lane * N + i] = f[i];                            \
  }
SELFTEST_LDMATRIX(ldmatrix_x4, 4)
SELFTEST_LDMATRIX(ldmatrix_x4_trans, 4)
SELFTEST_LDMATRIX(ldmatrix_x2, 2)
SELFTEST_LDMATRIX(ldmatrix_x2_trans, 2)

// One block of 96: out = sum, max, min as seen by each thread
KERNEL selftest_reduce(const float* x, float* out) {
  int t = threadIdx.x;
  out[t] = block_sum<96>(x[t]);
  out[96 + t] = block_max<96>(x[t]);
  out[192 + t] = block_min<96>(x[t]);
}

// One warpgroup: a: [64][128] bytes, b: [2 R][128], d: [128 threads][R]; d += A[64][depth of 32 at 32 step] * B^T.
#define SELFTEST_WGMMA(name, R)                                                    \
  KERNEL selftest_##name(const unsigned char* a, const unsigned char* b, int* d, int step) { \
    DYN_SMEM(unsigned char, dynamic);                                              \
    unsigned char* rows = dynamic + (0u - smem_address(dynamic)) % WGMMA_ALIGN;    \
    int t = threadIdx.x, sums[R];                                                  \
    for (int i = t; i < (64 + 2 * R) * 8; i += 128) {                              \
      int row = i / 8, chunk = i % 8;                                              \
      const unsigned char* from = row < 64 ? a + i * 16 : b + (i - 64 * 8) * 16;   \
      cp_async<16>(rows + row * WGMMA_ROW + (chunk ^ row % 8) * 16, from);         \
    }                                                                              \
    cp_async_commit();                                                             \
    for (int i = 0; i < R; i++) sums[i] = d[t * R + i];                            \
    cp_async_wait<0>();                                                            \
    proxy_fence();                                                                 \
    __syncthreads();                                                               \
    unsigned at = smem_address(rows);                                              \
    wgmma_fence();                                                                 \
    wgmma_s8(sums, wgmma_matrix(at) + step * WGMMA_STEP, wgmma_matrix(at + 64 * WGMMA_ROW) + step * WGMMA_STEP); \
    wgmma_commit();                                                                \
    wgmma_wait<0>(sums);                                                           \
    for (int i = 0; i < R; i++) d[t * R + i] = sums[i];                            \
  }
SELFTEST_WGMMA(wgmma_s8_n80, 40)
SELFTEST_WGMMA(wgmma_s8_n144, 72)
