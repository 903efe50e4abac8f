// ldmatrix, mma.sync and cp.async. The fragment layouts are those of the PTX manual; include/mma.cuh
// documents them, emu/selftest/fragments.cu checks every element.
#pragma once

namespace simt {

// ---------------------------------------------------------------- ldmatrix
struct LoadMatrix {
  const void* row;  // the address this lane supplies
  uint32_t* r;
  const void* pc;
};
template <int N, bool TRANS>
SIMT_HELPER inline void op_ldmatrix(Thread** t, unsigned mask) {
  auto arg = [&](int lane) { return (LoadMatrix*)t[lane]->operand; };
  if (mask != ~0u) fail(t[__builtin_ctz(mask)]->pc, "ldmatrix by part of a warp (%08x)", mask);
  for (int i = 0; i < N; i++) {
    for (int l = 0; l < 32; l++) {
      uint16_t e[2];
      for (int j = 0; j < 2; j++) {
        int row = TRANS ? 2 * (l % 4) + j : l / 4;
        int col = TRANS ? l / 4 : 2 * (l % 4) + j;
        e[j] = ((const uint16_t*)arg(i * 8 + row)->row)[col];
      }
      arg(l)->r[i] = e[0] | (uint32_t)e[1] << 16;
    }
  }
}
template <int N, bool TRANS>
SIMT_HELPER inline void ldmatrix(uint32_t* r, const void* row) {
  const void* pc = SIMT_PC;
  if (cur->lane < 8 * N) {  // the other lanes' addresses are not used
    if ((uintptr_t)row % 16) fail(pc, "ldmatrix: row address %p is not 16-byte aligned", row);
    simt_check_read(row, 16, pc);
  }
  LoadMatrix a{row, r, pc};
  warp_op(~0u, op_ldmatrix<N, TRANS>, &a, pc);
}

// ---------------------------------------------------------------- mma.sync
template <class Acc>
struct Mma {
  Acc* d;
  const uint32_t *a, *b;
};

// Operand formats: how many elements a register holds, and element e of register w.
struct Bf16 {
  using Acc = float;
  static constexpr int per_register = 2;
  static float get(uint32_t w, int e) { return bits<float>(e ? w & 0xffff0000u : w << 16); }
};
struct Tf32 {  // the hardware ignores the 13 low bits
  using Acc = float;
  static constexpr int per_register = 1;
  static float get(uint32_t w, int) { return bits<float>(w & 0xffffe000u); }
};
struct S8 {
  using Acc = int;
  static constexpr int per_register = 4;
  static int get(uint32_t w, int e) { return (int8_t)(w >> 8 * e); }
};

// m16n8kK with K = 8 registers' worth of elements: m16n8k8 tf32, m16n8k16 bf16, m16n8k32 s8.
template <class F>
SIMT_HELPER inline void op_mma(Thread** t, unsigned mask) {
  using Acc = typename F::Acc;
  constexpr int P = F::per_register, K = 8 * P;
  if (mask != ~0u) fail(t[__builtin_ctz(mask)]->pc, "mma by part of a warp (%08x)", mask);
  Acc A[16][K], B[K][8], D[16][8];
  for (int l = 0; l < 32; l++) {
    Mma<Acc>* v = (Mma<Acc>*)t[l]->operand;
    int g = l / 4, q = l % 4;
    for (int e = 0; e < P; e++) {
      for (int r = 0; r < 4; r++) {
        A[g + 8 * (r % 2)][P * q + e + 4 * P * (r / 2)] = F::get(v->a[r], e);
      }
      for (int r = 0; r < 2; r++) B[P * q + e + 4 * P * r][g] = F::get(v->b[r], e);
    }
    for (int r = 0; r < 4; r++) D[g + 8 * (r / 2)][2 * q + r % 2] = v->d[r];
  }
  for (int i = 0; i < 16; i++) {
    for (int k = 0; k < K; k++) {
      for (int j = 0; j < 8; j++) D[i][j] += A[i][k] * B[k][j];
    }
  }
  for (int l = 0; l < 32; l++) {
    Mma<Acc>* v = (Mma<Acc>*)t[l]->operand;
    int g = l / 4, q = l % 4;
    for (int r = 0; r < 4; r++) v->d[r] = D[g + 8 * (r / 2)][2 * q + r % 2];
  }
}
template <class F>
SIMT_HELPER inline void mma(typename F::Acc* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  uint32_t b[2] = {b0, b1};
  Mma<typename F::Acc> v{d, a, b};
  warp_op(~0u, op_mma<F>, &v, SIMT_PC);
}

// ---------------------------------------------------------------- cp.async
// Performed as late as the waits allow, so that a missing wait reads stale data
// (SIMT_ASYNC=eager: at once, so that an overwrite of data still in use shows).
SIMT_HELPER inline void async_wait(unsigned keep_groups) {
  Thread* t = cur;
  unsigned done = t->groups > keep_groups ? t->groups - keep_groups : 0, kept = 0;
  const void* pc = SIMT_PC;
  for (unsigned i = 0; i < t->copies; i++) {
    Copy c = t->copy[i];
    if (c.group < done) {
      t->unfenced = true;
      simt_check_write(c.dst, c.bytes + c.zero_fill, pc);
      if (eager_async) continue;
      simt_check_read(c.src, c.bytes, pc);
      std::memcpy(c.dst, c.src, c.bytes);
      std::memset((char*)c.dst + c.bytes, 0, c.zero_fill);
    } else {
      c.group -= done;
      t->copy[kept++] = c;
    }
  }
  t->copies = kept;
  t->groups -= done;
}
template <int N>
SIMT_HELPER inline void async_copy(void* dst, const void* src, int valid) {
  Thread* t = cur;
  const void* pc = SIMT_PC;
  if (((uintptr_t)dst | (uintptr_t)src) % N) {
    fail(pc, "cp.async of %d bytes: misaligned address %p <- %p", N, dst, src);
  }
  if (valid < 0 || valid > N) fail(pc, "cp.async of %d bytes: %d valid bytes", N, valid);
  if (t->copies == MAX_COPIES) fail(pc, "cp.async: over %u copies in flight", MAX_COPIES);
  simt_check_issue(dst, N, pc);  // the write may happen at any time from here to the wait
  if (eager_async) {
    simt_check_read(src, (size_t)valid, pc);
    std::memcpy(dst, src, (size_t)valid);
    std::memset((char*)dst + valid, 0, (size_t)(N - valid));
  }
  t->copy[t->copies++] = {dst, src, (unsigned)valid, (unsigned)(N - valid), t->groups};
}
SIMT_HELPER inline void async_commit() { cur->groups++; }

}  // namespace simt
