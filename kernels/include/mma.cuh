// Tensor core products D += A * B of one warp, and ldmatrix, which loads their operands.
//
// Fragment layouts. For lane l: g = l / 4, q = l % 4. A register holds P elements, the lowest bits
// first: P = 1 (tf32), 2 (bf16), 4 (s8); k counts along the reduction, K = 8 * P.
//
//   A (16 x K)  a[0] = A[g    ][P*q ...]        a[2] = A[g    ][P*q + 4*P ...]
//               a[1] = A[g + 8][P*q ...]        a[3] = A[g + 8][P*q + 4*P ...]
//   B (K x 8)   b0   = B[P*q ...][g]            b1   = B[P*q + 4*P ...][g]
//   D (16 x 8)  d[0], d[1] = D[g][2*q], D[g][2*q + 1]
//               d[2], d[3] = D[g + 8][2*q], D[g + 8][2*q + 1]
//
//   "X[P*q ...]" is the P elements from P*q on; so bf16 has k = 2q, 2q+1 in a[0] and 2q+8, 2q+9 in
//   a[2]; s8 has 4q .. 4q+3 and 4q+16 .. 4q+19; tf32 has q and q+4.
//
// ldmatrix xN loads N matrices of 8 rows of 16 bytes (8 b16 elements, or 16 s8, or 4 tf32). Lane l
// gives the address of row l % 8 of matrix l / 8 (16-byte aligned, in shared memory; lanes from 8*N
// on are ignored). Register i of lane l then holds, of matrix i,
//
//   plain   elements [g][2*q], [g][2*q + 1]        (the A and, from B stored n-major, B layout)
//   trans   elements [2*q][g], [2*q + 1][g]        (b16 only: B stored k-major)
#pragma once
#include "device.cuh"

#ifdef __CUDACC__

DEV void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(row))
               : "memory");
}
DEV void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_address(row))
               : "memory");
}
DEV void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(smem_address(row))
               : "memory");
}
DEV void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(smem_address(row))
               : "memory");
}

// m16n8k16, f32 accumulation
DEV void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// m16n8k8, f32 accumulation; the 13 low bits of the operands are ignored (see to_tf32)
DEV void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// m16n8k32, s32 accumulation (wraps)
DEV void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Rounds to 10 mantissa bits, ties away from zero; on sm_90 to even, which is one instruction there instead of two.
DEV uint32_t to_tf32(float x) {
  uint32_t r;
#if __CUDA_ARCH__ >= 900
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
#endif
  return r;
}

#elif !defined(SIMT_SCAN)

SIMT_INLINE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  simt::ldmatrix<4, false>(r, row);
}
SIMT_INLINE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  simt::ldmatrix<4, true>(r, row);
}
SIMT_INLINE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  simt::ldmatrix<2, false>(r, row);
}
SIMT_INLINE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  simt::ldmatrix<2, true>(r, row);
}
SIMT_INLINE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  simt::mma<simt::Bf16>(d, a, b0, b1);
}
SIMT_INLINE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  simt::mma<simt::Tf32>(d, a, b0, b1);
}
SIMT_INLINE void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  simt::mma<simt::S8>(d, a, b0, b1);
}
SIMT_INLINE uint32_t to_tf32(float x) {
  uint32_t b = __float_as_uint(x);
  bool finite = (b & 0x7f800000) != 0x7f800000;
  return finite ? (b + 0x1000) & 0xffffe000u : b & 0xffffe000u;
}

#endif
