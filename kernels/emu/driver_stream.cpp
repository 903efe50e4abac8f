// The driver's memory, streams, events and graphs. Streams are synchronous: what is enqueued has
// happened when the call returns. A capture records closures, a graph replays them.
#include <chrono>
#include <memory>

#include "driver.h"

namespace simt {

using Ops = std::vector<std::function<int()>>;
struct Stream {
  std::unique_ptr<Ops> capture;
};
struct Event {
  double time = 0;
};
struct Graph {
  std::shared_ptr<Ops> ops;
};

static Stream null_stream;
static int sticky;  // with SIMT_STICKY: the failure that every later call returns

// Null, "legacy" and "per thread" are all the one null stream.
static Stream* stream(void* s) { return (uintptr_t)s > 2 ? (Stream*)s : &null_stream; }

// By default a failing launch returns its error itself and leaves the context usable, so that a
// test process can go on. SIMT_STICKY=1 is as a GPU: the launch returns success, everything after
// it the error.
static int settle(int r) {
  static bool as_gpu = getenv("SIMT_STICKY") != nullptr;
  if (!r || !as_gpu || r == INVALID_VALUE) return r;
  sticky = r;
  return 0;
}

CUresult enqueue(void* s, std::function<int()> op) {
  if (sticky) return sticky;
  Stream* st = stream(s);
  if (st->capture) {
    st->capture->push_back(std::move(op));
    return 0;
  }
  return settle(op());
}

static CUresult in_range(CUdeviceptr p, size_t n, const char* what) {
  uintptr_t lo, hi;
  std::string why;
  if (!n || device_range((uintptr_t)p, n, &lo, &hi, &why)) return 0;
  set_error(std::string(what) + " of " + std::to_string(n) + " bytes: " + why);
  return INVALID_VALUE;
}

static CUresult allocate(CUdeviceptr* p, size_t n, bool host) {
  if (sticky) return sticky;
  if (!n) return INVALID_VALUE;
  void* q = device_alloc(n, host);
  if (!q) {
    set_error("out of memory: " + std::to_string(n) + " bytes asked, " +
              std::to_string(memory_used()) + " of " + std::to_string(memory_limit()) + " used");
    return OUT_OF_MEMORY;
  }
  *p = (CUdeviceptr)q;
  return 0;
}

static CUresult release(void* p) {
  if (!p) return 0;
  std::string error;
  if (device_free(p, &error)) return 0;
  set_error(error);
  return ILLEGAL_ADDRESS;
}

static double now() {
  auto t = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(t).count();
}

static CUresult copy(CUdeviceptr d, const void* s, size_t n, void* st) {
  return enqueue(st, [=] {
    memmove((void*)d, s, n);
    return 0;
  });
}

template <class T>
static CUresult fill(CUdeviceptr d, T v, size_t n, void* st) {
  if (CUresult r = in_range(d, n * sizeof(T), "memset")) return r;
  return enqueue(st, [=] {
    for (size_t i = 0; i < n; i++) ((T*)d)[i] = v;
    return 0;
  });
}

}  // namespace simt

using namespace simt;

extern "C" {

// ---------------------------------------------------------------- memory
CUresult cuMemAlloc_v2(CUdeviceptr* p, size_t n) { return allocate(p, n, false); }
CUresult cuMemAllocAsync(CUdeviceptr* p, size_t n, void* s) {
  if (stream(s)->capture) {
    set_error("allocation while the stream is being captured");
    return CAPTURE_UNSUPPORTED;
  }
  return allocate(p, n, false);
}
CUresult cuMemAllocFromPoolAsync(CUdeviceptr* p, size_t n, void*, void* s) {
  return cuMemAllocAsync(p, n, s);
}
CUresult cuMemAllocManaged(CUdeviceptr* p, size_t n, unsigned) { return allocate(p, n, false); }
CUresult cuMemFree_v2(CUdeviceptr p) { return release((void*)p); }
CUresult cuMemFreeAsync(CUdeviceptr p, void*) { return release((void*)p); }
CUresult cuMemHostAlloc(void** p, size_t n, unsigned) {
  CUdeviceptr q = 0;
  CUresult r = allocate(&q, n, true);
  *p = (void*)q;
  return r;
}
CUresult cuMemFreeHost(void* p) { return release(p); }
CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  *total = memory_limit();
  *free = *total - std::min(memory_used(), *total);
  return 0;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void* s, size_t n, void* st) {
  if (CUresult r = in_range(d, n, "copy to the device")) return r;
  // A pageable source may be gone when a graph runs; outside of a capture this runs at once.
  return copy(d, s, n, st);
}
CUresult cuMemcpyDtoHAsync_v2(void* d, CUdeviceptr s, size_t n, void* st) {
  if (CUresult r = in_range(s, n, "copy from the device")) return r;
  return copy((CUdeviceptr)d, (const void*)s, n, st);
}
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr d, CUdeviceptr s, size_t n, void* st) {
  if (CUresult r = in_range(d, n, "copy to the device")) return r;
  if (CUresult r = in_range(s, n, "copy from the device")) return r;
  return copy(d, (const void*)s, n, st);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void* s, size_t n) {
  return cuMemcpyHtoDAsync_v2(d, s, n, nullptr);
}
CUresult cuMemcpyDtoH_v2(void* d, CUdeviceptr s, size_t n) {
  return cuMemcpyDtoHAsync_v2(d, s, n, nullptr);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr d, CUdeviceptr s, size_t n) {
  return cuMemcpyDtoDAsync_v2(d, s, n, nullptr);
}
CUresult cuMemcpyPeerAsync(CUdeviceptr d, void*, CUdeviceptr s, void*, size_t n, void* st) {
  return cuMemcpyDtoDAsync_v2(d, s, n, st);
}
CUresult cuMemsetD8Async(CUdeviceptr d, unsigned char v, size_t n, void* s) {
  return fill(d, v, n, s);
}
CUresult cuMemsetD32Async(CUdeviceptr d, unsigned v, size_t n, void* s) { return fill(d, v, n, s); }
CUresult cuMemsetD8_v2(CUdeviceptr d, unsigned char v, size_t n) { return fill(d, v, n, nullptr); }
CUresult cuMemsetD32_v2(CUdeviceptr d, unsigned v, size_t n) { return fill(d, v, n, nullptr); }
CUresult cuMemPrefetchAsync_v2(CUdeviceptr, size_t, uint64_t, unsigned, void*) { return 0; }

// ---------------------------------------------------------------- memory pools
static void* const THE_POOL = (void*)64;
CUresult cuDeviceGetDefaultMemPool(void** p, int) {
  *p = THE_POOL;
  return 0;
}
CUresult cuDeviceGetMemPool(void** p, int) {
  *p = THE_POOL;
  return 0;
}
CUresult cuDeviceSetMemPool(int, void*) { return 0; }
CUresult cuMemPoolCreate(void** p, const void*) {
  *p = THE_POOL;
  return 0;
}
CUresult cuMemPoolDestroy(void*) { return 0; }
CUresult cuMemPoolTrimTo(void*, size_t) { return 0; }
CUresult cuMemPoolSetAttribute(void*, int, void*) { return 0; }
CUresult cuMemPoolGetAttribute(void*, int attribute, void* v) {
  switch (attribute) {
    case 5:  // reserved, used: current
    case 7: *(uint64_t*)v = memory_used(); break;
    case 6:  // reserved, used: high-water mark
    case 8: *(uint64_t*)v = memory_high(); break;
    case 4: *(uint64_t*)v = 0; break;  // release threshold
    default: *(int*)v = 0;
  }
  return 0;
}

// ---------------------------------------------------------------- streams
CUresult cuStreamCreate(void** s, unsigned) {
  *s = new Stream();
  return 0;
}
CUresult cuStreamCreateWithPriority(void** s, unsigned f, int) { return cuStreamCreate(s, f); }
CUresult cuStreamDestroy_v2(void* s) {
  if (stream(s) != &null_stream) delete (Stream*)s;
  return 0;
}
CUresult cuStreamSynchronize(void* s) {
  if (stream(s)->capture) {
    set_error("synchronize while the stream is being captured");
    return CAPTURE_UNSUPPORTED;
  }
  return sticky;
}
CUresult cuStreamQuery(void*) { return sticky; }
CUresult cuStreamWaitEvent(void*, void*, unsigned) { return 0; }
CUresult cuStreamAttachMemAsync(void*, CUdeviceptr, size_t, unsigned) { return 0; }
CUresult cuCtxSynchronize() { return sticky; }
CUresult cuLaunchHostFunc(void* s, void (*f)(void*), void* data) {
  return enqueue(s, [=] {
    f(data);
    return 0;
  });
}

// ---------------------------------------------------------------- events
CUresult cuEventCreate(void** e, unsigned) {
  *e = new Event();
  return 0;
}
CUresult cuEventRecord(void* e, void* s) {
  return enqueue(s, [=] {
    ((Event*)e)->time = now();
    return 0;
  });
}
CUresult cuEventSynchronize(void*) { return sticky; }
CUresult cuEventQuery(void*) { return sticky; }
CUresult cuEventElapsedTime(float* ms, void* a, void* b) {
  *ms = (float)((((Event*)b)->time - ((Event*)a)->time) * 1e3);
  return sticky;
}
CUresult cuEventElapsedTime_v2(float* ms, void* a, void* b) { return cuEventElapsedTime(ms, a, b); }
CUresult cuEventDestroy_v2(void* e) {
  delete (Event*)e;
  return 0;
}

// ---------------------------------------------------------------- graphs
CUresult cuStreamBeginCapture_v2(void* s, int) {
  if (stream(s) == &null_stream || stream(s)->capture) return CAPTURE_UNSUPPORTED;
  stream(s)->capture = std::make_unique<Ops>();
  return 0;
}
CUresult cuStreamEndCapture(void* s, void** g) {
  Stream* st = stream(s);
  if (!st->capture) return INVALID_VALUE;
  *g = new Graph{std::shared_ptr<Ops>(std::move(st->capture))};
  return 0;
}
CUresult cuStreamIsCapturing(void* s, int* v) {
  *v = stream(s)->capture ? 1 : 0;
  return 0;
}
CUresult cuGraphInstantiateWithFlags(void** e, void* g, unsigned long long) {
  *e = new Graph(*(Graph*)g);
  return 0;
}
CUresult cuGraphUpload(void*, void*) { return 0; }
CUresult cuGraphLaunch(void* e, void* s) {
  std::shared_ptr<Ops> ops = ((Graph*)e)->ops;
  return enqueue(s, [ops] {
    ignore_carves(true);  // the pieces in use were those of the time of the capture
    int r = 0;
    for (auto& op : *ops) {
      if ((r = op())) break;
    }
    ignore_carves(false);
    return r;
  });
}
CUresult cuGraphExecDestroy(void* e) {
  delete (Graph*)e;
  return 0;
}
CUresult cuGraphDestroy(void* g) {
  delete (Graph*)g;
  return 0;
}
}
