// Warp shuffles, votes, matches and reductions. Each lane leaves a pointer to its operand; the
// lane that arrives last executes the operation for all lanes of the mask.
#pragma once

namespace simt {

struct Operand {
  uint64_t in, out;
  int source;
  const void* pc;
};
inline Operand* operand(Thread* t) { return (Operand*)t->operand; }

inline void op_sync(Thread**, unsigned) {}

SIMT_HELPER inline void op_shuffle(Thread** t, unsigned mask) {
  for (unsigned i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    Operand* o = operand(t[i]);
    if (!(mask >> o->source & 1)) {
      fail(o->pc, "shuffle: lane %u reads lane %d, which is not in the mask %08x", i, o->source,
           mask);
    }
    o->out = operand(t[o->source])->in;
  }
}

SIMT_HELPER inline void op_ballot(Thread** t, unsigned mask) {
  uint64_t r = 0;
  for (unsigned i = 0; i < 32; i++) {
    if (mask >> i & 1) r |= (uint64_t)(operand(t[i])->in != 0) << i;
  }
  for (unsigned i = 0; i < 32; i++) {
    if (mask >> i & 1) operand(t[i])->out = r;
  }
}

SIMT_HELPER inline void op_match(Thread** t, unsigned mask) {
  for (unsigned i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    uint64_t r = 0;
    for (unsigned j = 0; j < 32; j++) {
      if (mask >> j & 1 && operand(t[j])->in == operand(t[i])->in) r |= 1ull << j;
    }
    operand(t[i])->out = r;
  }
}

enum class Reduce { Add, Min, Max, And, Or, Xor };
template <Reduce R>
inline unsigned combine(unsigned a, unsigned b, bool is_signed) {
  switch (R) {
    case Reduce::Add: return a + b;
    case Reduce::And: return a & b;
    case Reduce::Or: return a | b;
    case Reduce::Xor: return a ^ b;
    default: break;
  }
  bool less = is_signed ? (int)a < (int)b : a < b;
  return less == (R == Reduce::Min) ? a : b;
}
template <Reduce R, bool SIGNED>
SIMT_HELPER inline void op_reduce(Thread** t, unsigned mask) {
  bool first = true;
  unsigned r = 0;
  for (unsigned i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    unsigned v = (unsigned)operand(t[i])->in;
    r = first ? v : combine<R>(r, v, SIGNED);
    first = false;
  }
  for (unsigned i = 0; i < 32; i++) {
    if (mask >> i & 1) operand(t[i])->out = r;
  }
}

SIMT_HELPER inline uint64_t exchange(unsigned mask, uint64_t v, int source, WarpOp op) {
  Operand o{v, 0, source, SIMT_PC};
  warp_op(mask, op, &o, o.pc);
  return o.out;
}
SIMT_HELPER inline void sync_warp(unsigned mask) { warp_op(mask, op_sync, nullptr, SIMT_PC); }

template <class T>
SIMT_INLINE T shuffle(unsigned mask, T v, int source) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  uint64_t in = 0;
  std::memcpy(&in, &v, sizeof v);
  uint64_t out = exchange(mask, in, source, op_shuffle);
  std::memcpy(&v, &out, sizeof v);
  return v;
}
SIMT_INLINE int lane() { return (int)cur->lane; }

}  // namespace simt

SIMT_INLINE void __syncwarp(unsigned mask = ~0u) { simt::sync_warp(mask); }

template <class T>
SIMT_INLINE T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  int l = simt::lane();
  return simt::shuffle(mask, v, (l & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
SIMT_INLINE T __shfl_xor_sync(unsigned mask, T v, int x, int width = 32) {
  int l = simt::lane(), s = l ^ x;
  return simt::shuffle(mask, v, (s & ~(width - 1)) > (l & ~(width - 1)) ? l : s);
}
template <class T>
SIMT_INLINE T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  int l = simt::lane();
  return simt::shuffle(mask, v, (l & (width - 1)) + (int)delta < width ? l + (int)delta : l);
}
template <class T>
SIMT_INLINE T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  int l = simt::lane();
  return simt::shuffle(mask, v, (l & (width - 1)) - (int)delta >= 0 ? l - (int)delta : l);
}

SIMT_INLINE unsigned __ballot_sync(unsigned mask, int p) {
  return (unsigned)simt::exchange(mask, p != 0, 0, simt::op_ballot);
}
SIMT_INLINE int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
SIMT_INLINE int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }
SIMT_INLINE unsigned __activemask() { return ~0u; }  // only right in converged code
template <class T>
SIMT_INLINE unsigned __match_any_sync(unsigned mask, T v) {
  uint64_t in = 0;
  std::memcpy(&in, &v, sizeof v);
  return (unsigned)simt::exchange(mask, in, 0, simt::op_match);
}

#define SIMT_WARP_REDUCE(name, R)                                                          \
  SIMT_INLINE unsigned name(unsigned mask, unsigned v) {                                   \
    return (unsigned)simt::exchange(mask, v, 0, simt::op_reduce<simt::Reduce::R, false>);  \
  }                                                                                        \
  SIMT_INLINE int name(unsigned mask, int v) {                                             \
    return (int)simt::exchange(mask, (unsigned)v, 0, simt::op_reduce<simt::Reduce::R, true>); \
  }
SIMT_WARP_REDUCE(__reduce_add_sync, Add)
SIMT_WARP_REDUCE(__reduce_min_sync, Min)
SIMT_WARP_REDUCE(__reduce_max_sync, Max)
SIMT_WARP_REDUCE(__reduce_and_sync, And)
SIMT_WARP_REDUCE(__reduce_or_sync, Or)
SIMT_WARP_REDUCE(__reduce_xor_sync, Xor)
