// Products of a warpgroup, 128 threads, on sm_90a: D += A * B with both operands in shared memory.
//
//   wgmma_matrix(p)          descriptor of a matrix of bytes at p, a multiple of 1024: rows of 128 bytes, eight of them 1024
//                            bytes; 16 bytes q of row r lie at q ^ r % 8. WGMMA_STEP further: 32 bytes along the depth
//   wgmma_s8(d, a, b)        d += A[64][32] * B[N][32]^T, s8 x s8 -> s32 (wraps); N = twice the length of d, 80 or 144
//   wgmma_fence()            before the first product, and where sums may have been touched since
//   wgmma_commit()           closes a group
//   wgmma_wait<N>(d)         waits until at most N groups are in flight; nobody may look at d, or overwrite operands, before
//   proxy_fence()            by who wrote an operand to shared memory (cp.async, stores), before the barrier after which
//                            products read it
//
// Sums as those of mma.m16n8 (mma.cuh), for each warp w of the group and each 8 columns j: d[4 j ..] are D[16 w + g][8 j + 2 q],
// [.. + 1], D[16 w + g + 8][8 j + 2 q], [.. + 1]. All 128 threads issue the same. Kernels that use this must not be launched
// on anything but sm_90: compiled for others they trap.
#pragma once
#include "device.cuh"

constexpr int WGMMA_STEP = 2;  // 32 bytes in a descriptor: the depth of a product
constexpr int WGMMA_ROW = 128, WGMMA_ALIGN = 1024;

// Rows, or columns, in eights 1024 bytes apart, swizzled by 128 bytes.
DEV uint64_t wgmma_matrix(unsigned address) {
  return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

#if defined(__CUDACC__) && defined(__CUDA_ARCH_FEAT_SM90_ALL)

DEV void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEV void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
DEV void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <int N, int REGISTERS>
DEV void wgmma_wait(int (&d)[REGISTERS]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
  // The compiler may not read them before this.
#pragma unroll
  for (int i = 0; i < REGISTERS; i++) asm volatile("" : "+r"(d[i])::"memory");
}
DEV void wgmma_s8(int (&d)[40], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n80k32.s32.s8.s8 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39"
      "}, %40, %41, p;\n}"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]),
        "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]),
        "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]),
        "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31]),
        "+r"(d[32]), "+r"(d[33]), "+r"(d[34]), "+r"(d[35]), "+r"(d[36]), "+r"(d[37]), "+r"(d[38]), "+r"(d[39])
      : "l"(a), "l"(b));
}
DEV void wgmma_s8(int (&d)[72], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n144k32.s32.s8.s8 {"
      "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
      "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
      "%64,%65,%66,%67,%68,%69,%70,%71"
      "}, %72, %73, p;\n}"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3]), "+r"(d[4]), "+r"(d[5]), "+r"(d[6]), "+r"(d[7]),
        "+r"(d[8]), "+r"(d[9]), "+r"(d[10]), "+r"(d[11]), "+r"(d[12]), "+r"(d[13]), "+r"(d[14]), "+r"(d[15]),
        "+r"(d[16]), "+r"(d[17]), "+r"(d[18]), "+r"(d[19]), "+r"(d[20]), "+r"(d[21]), "+r"(d[22]), "+r"(d[23]),
        "+r"(d[24]), "+r"(d[25]), "+r"(d[26]), "+r"(d[27]), "+r"(d[28]), "+r"(d[29]), "+r"(d[30]), "+r"(d[31]),
        "+r"(d[32]), "+r"(d[33]), "+r"(d[34]), "+r"(d[35]), "+r"(d[36]), "+r"(d[37]), "+r"(d[38]), "+r"(d[39]),
        "+r"(d[40]), "+r"(d[41]), "+r"(d[42]), "+r"(d[43]), "+r"(d[44]), "+r"(d[45]), "+r"(d[46]), "+r"(d[47]),
        "+r"(d[48]), "+r"(d[49]), "+r"(d[50]), "+r"(d[51]), "+r"(d[52]), "+r"(d[53]), "+r"(d[54]), "+r"(d[55]),
        "+r"(d[56]), "+r"(d[57]), "+r"(d[58]), "+r"(d[59]), "+r"(d[60]), "+r"(d[61]), "+r"(d[62]), "+r"(d[63]),
        "+r"(d[64]), "+r"(d[65]), "+r"(d[66]), "+r"(d[67]), "+r"(d[68]), "+r"(d[69]), "+r"(d[70]), "+r"(d[71])
      : "l"(a), "l"(b));
}

#elif defined(__CUDACC__)

DEV void wgmma_fence() { __trap(); }
DEV void wgmma_commit() {}
DEV void proxy_fence() {}
template <int N, int REGISTERS>
DEV void wgmma_wait(int (&)[REGISTERS]) {}
template <int REGISTERS>
DEV void wgmma_s8(int (&)[REGISTERS], uint64_t, uint64_t) {}

#elif !defined(SIMT_SCAN)

SIMT_INLINE void wgmma_fence() { simt::wgmma_fence(); }
SIMT_INLINE void wgmma_commit() { simt::wgmma_commit(); }
SIMT_INLINE void proxy_fence() { simt::proxy_fence(); }
template <int N, int REGISTERS>
SIMT_INLINE void wgmma_wait(int (&)[REGISTERS]) {
  simt::wgmma_wait(N);
}
template <int REGISTERS>
SIMT_INLINE void wgmma_s8(int (&d)[REGISTERS], uint64_t a, uint64_t b) {
  static_assert(REGISTERS == 40 || REGISTERS == 72, "n is 80 or 144");
  simt::wgmma_s8(2 * REGISTERS, d, a, b);
}

#endif
