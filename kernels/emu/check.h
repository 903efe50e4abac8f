// The checker's entry points for tsan_abi.cpp.
#pragma once
#include "runtime.h"

namespace simt {

struct Access {
  bool write = false;
  bool atomic = false;
  bool pending = false;  // a cp.async destination, written some time between issue and wait
  unsigned align = 0;    // alignment that the hardware demands, 0: none known
};
void access(const void* p, size_t n, Access kind, const void* pc);
void check_fence();

}  // namespace simt
