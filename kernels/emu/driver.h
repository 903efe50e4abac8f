// Shared by the two halves of the driver.
#pragma once
#include <functional>
#include <mutex>

#include "runtime.h"

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

namespace simt {

enum Result : CUresult {
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  INVALID_DEVICE = 101,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
};

struct Function {
  const Entry* entry;
  int max_dynamic_shared = 48 * 1024;
  int run(std::vector<std::vector<unsigned char>>& values, dim3 grid, dim3 block,
          unsigned shared) const;
};

// Runs `op` now, or records it if the stream is being captured.
CUresult enqueue(void* stream, std::function<int()> op);

}  // namespace simt
