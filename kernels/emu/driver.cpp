// A libcuda.so that runs kernels on the emulator: the driver API as far as cudarc calls it.
// Devices, contexts, modules, functions, launches and occupancy are here; memory, streams, events
// and graphs in driver_stream.cpp. There is one device, with one context.
#include "driver.h"

#include <map>

namespace simt {

Function* function(void* f) { return (Function*)f; }

int Function::run(std::vector<std::vector<unsigned char>>& values, dim3 grid, dim3 block,
                  unsigned shared) const {
  std::vector<void*> params;
  for (auto& v : values) params.push_back(v.data());
  return launch(entry, grid, block, shared, params.data());
}

static const std::map<int, const char*>& error_names() {
  static const std::map<int, const char*> names = {
      {0, "CUDA_SUCCESS"},
      {1, "CUDA_ERROR_INVALID_VALUE"},
      {2, "CUDA_ERROR_OUT_OF_MEMORY"},
      {101, "CUDA_ERROR_INVALID_DEVICE"},
      {201, "CUDA_ERROR_INVALID_CONTEXT"},
      {400, "CUDA_ERROR_INVALID_HANDLE"},
      {500, "CUDA_ERROR_NOT_FOUND"},
      {600, "CUDA_ERROR_NOT_READY"},
      {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {719, "CUDA_ERROR_LAUNCH_FAILED"},
      {801, "CUDA_ERROR_NOT_SUPPORTED"},
      {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
      {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
  };
  return names;
}

static int blocks_per_sm(int threads, size_t shared) {
  if (threads <= 0) return 0;
  int by_threads = 2048 / ((threads + 31) / 32 * 32);
  int by_shared = shared ? (int)((size_t)MAX_SHARED / shared) : 32;
  return std::min({by_threads, by_shared, 32});
}

}  // namespace simt

using namespace simt;

extern "C" {

// ---------------------------------------------------------------- errors
CUresult cuGetErrorName(int code, const char** s) {
  auto it = error_names().find(code);
  *s = it == error_names().end() ? "CUDA_ERROR_UNKNOWN" : it->second;
  return 0;
}
// The text of the emulator where it has one: callers print this string.
CUresult cuGetErrorString(int code, const char** s) {
  const char* text = last_error();
  if (code && *text) {
    *s = text;
    return 0;
  }
  return cuGetErrorName(code, s);
}

// ---------------------------------------------------------------- device
CUresult cuInit(unsigned) { return 0; }
CUresult cuDriverGetVersion(int* v) {
  *v = 13000;
  return 0;
}
CUresult cuDeviceGetCount(int* n) {
  *n = 1;
  return 0;
}
CUresult cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal == 0 ? 0 : INVALID_DEVICE;
}
CUresult cuDeviceGetName(char* name, int n, int) {
  snprintf(name, (size_t)n, CHECKED ? "SIMT emulator (checking)" : "SIMT emulator");
  return 0;
}
CUresult cuDeviceGetUuid_v2(unsigned char* uuid, int) {
  memcpy(uuid, "ghostbit emulator", 16);
  return 0;
}
CUresult cuDeviceGetUuid(unsigned char* uuid, int d) { return cuDeviceGetUuid_v2(uuid, d); }
CUresult cuDeviceTotalMem_v2(size_t* n, int) {
  *n = memory_limit();
  return 0;
}
CUresult cuDeviceGetAttribute(int* v, int attribute, int) {
  static const std::map<int, int> values = {
      {1, 1024},        // threads per block
      {2, 1024},        // block dimensions
      {3, 1024},
      {4, 64},
      {5, 0x7fffffff},  // grid dimensions
      {6, 65535},
      {7, 65535},
      {8, 48 * 1024},   // shared memory per block
      {9, 64 * 1024},   // constant memory
      {10, 32},         // warp size
      {12, 65536},      // registers per block
      {13, 1000000},    // clock rate, kHz
      {16, 4},          // multiprocessors
      {36, 1000000},    // memory clock rate, kHz
      {37, 64},         // memory bus width
      {38, 4 << 20},    // L2 cache
      {39, 2048},       // threads per multiprocessor
      {41, 1},          // unified addressing
      {75, 9},          // compute capability
      {76, 0},
      {81, 228 * 1024},   // shared memory per multiprocessor
      {82, 65536},        // registers per multiprocessor
      {97, MAX_SHARED},   // shared memory per block, opt-in
      {106, 32},          // blocks per multiprocessor
      {111, 1024},        // reserved shared memory per block
      {115, 1},           // memory pools
  };
  auto it = values.find(attribute);
  *v = it == values.end() ? 0 : it->second;
  return 0;
}

// ---------------------------------------------------------------- context
static void* const THE_CONTEXT = (void*)16;
CUresult cuDevicePrimaryCtxRetain(void** c, int) {
  *c = THE_CONTEXT;
  return 0;
}
CUresult cuDevicePrimaryCtxRelease_v2(int) { return 0; }
CUresult cuCtxCreate_v4(void** c, void*, unsigned, int) {
  *c = THE_CONTEXT;
  return 0;
}
CUresult cuCtxDestroy_v2(void*) { return 0; }
CUresult cuCtxGetCurrent(void** c) {
  *c = THE_CONTEXT;
  return 0;
}
CUresult cuCtxSetCurrent(void*) { return 0; }
CUresult cuCtxGetDevice(int* d) {
  *d = 0;
  return 0;
}
CUresult cuCtxSetFlags(unsigned) { return 0; }
CUresult cuCtxGetLimit(size_t* v, int) {
  *v = 0;
  return 0;
}
CUresult cuCtxSetLimit(int, size_t) { return 0; }
CUresult cuCtxGetCacheConfig(int* v) {
  *v = 0;
  return 0;
}
CUresult cuCtxSetCacheConfig(int) { return 0; }
CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return 0;
}
CUresult cuProfilerStart() { return 0; }
CUresult cuProfilerStop() { return 0; }

// ---------------------------------------------------------------- modules and functions
// The kernels are part of this library: whatever image is loaded, functions are found by name.
CUresult cuModuleLoadData(void** m, const void*) {
  *m = (void*)32;
  return 0;
}
CUresult cuModuleLoad(void** m, const char*) { return cuModuleLoadData(m, nullptr); }
CUresult cuModuleUnload(void*) { return 0; }
CUresult cuModuleGetFunction(void** f, void*, const char* name) {
  static std::mutex mutex;
  static auto* made = new std::map<const Entry*, Function*>();
  const Entry* e = find_kernel(name);
  if (!e) {
    set_error(std::string("no kernel named ") + name);
    return NOT_FOUND;
  }
  std::lock_guard<std::mutex> lock(mutex);
  Function*& made_before = (*made)[e];
  if (!made_before) made_before = new Function{e};
  *f = made_before;
  return 0;
}
CUresult cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, void*, const char*) { return NOT_FOUND; }
CUresult cuFuncGetAttribute(int* v, int attribute, void* f) {
  switch (attribute) {
    case 0: *v = (int)function(f)->entry->max_threads; break;
    case 5:
    case 6: *v = 80; break;
    case 8: *v = function(f)->max_dynamic_shared; break;
    default: *v = 0;
  }
  return 0;
}
CUresult cuFuncSetAttribute(void* f, int attribute, int v) {
  if (attribute == 8) {  // maximum dynamic shared memory
    if (v < 0 || v > (int)MAX_SHARED) return INVALID_VALUE;
    function(f)->max_dynamic_shared = v;
  }
  return 0;
}
CUresult cuFuncSetCacheConfig(void*, int) { return 0; }

CUresult cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, void* stream, void** params, void**) {
  Function* fn = function(f);
  if ((int)shared > fn->max_dynamic_shared) {
    set_error(std::string("kernel ") + fn->entry->name + ": " + std::to_string(shared) +
              " bytes of dynamic shared memory, but its attribute allows " +
              std::to_string(fn->max_dynamic_shared));
    return INVALID_VALUE;
  }
  // Arguments are copied at the call, as CUDA does: a capture may outlive them.
  std::vector<std::vector<unsigned char>> values;
  for (int i = 0; i < fn->entry->num_params; i++) {
    auto* p = (unsigned char*)params[i];
    values.emplace_back(p, p + fn->entry->param_sizes[i]);
  }
  dim3 grid(gx, gy, gz), block(bx, by, bz);
  return enqueue(stream, [=]() mutable { return fn->run(values, grid, block, shared); });
}
CUresult cuLaunchCooperativeKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned,
                                   unsigned, unsigned, void*, void**) {
  return NOT_SUPPORTED;  // blocks run one after another: a grid barrier would never end
}

// ---------------------------------------------------------------- occupancy
using SharedOfBlock = size_t (*)(int threads);
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, void*, int threads,
                                                              size_t shared, unsigned) {
  *n = blocks_per_sm(threads, shared);
  return 0;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void*, int threads, size_t shared) {
  *n = blocks_per_sm(threads, shared);
  return 0;
}
CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, void* f, SharedOfBlock,
                                                   size_t, int limit, unsigned) {
  int most = (int)function(f)->entry->max_threads;
  *block = limit > 0 ? std::min(limit, most) : most;
  *grid = 4 * blocks_per_sm(*block, 0);
  return 0;
}
CUresult cuOccupancyMaxPotentialBlockSize(int* grid, int* block, void* f, SharedOfBlock s,
                                          size_t shared, int limit) {
  return cuOccupancyMaxPotentialBlockSizeWithFlags(grid, block, f, s, shared, limit, 0);
}
CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, void*, int blocks, int) {
  *bytes = (size_t)MAX_SHARED / (size_t)std::max(blocks, 1);
  return 0;
}
}
