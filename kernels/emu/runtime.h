// State shared by the emulator's own translation units; kernels never see it.
#pragma once
#include <string>
#include <vector>

#include "simt.h"

namespace simt {

constexpr unsigned MAX_THREADS = 1024, MAX_WARPS = 32, MAX_SHARED = 227 * 1024;

// ---------------------------------------------------------------- fibers (fiber.cpp)
struct Fiber {
  void* sp = nullptr;  // saved stack pointer while it does not run
};
// Prepares `f` to run `entry` on a stack that ends at `top`.
void fiber_prepare(Fiber* f, char* top, void (*entry)());
extern "C" void simt_switch(void** save_sp, void* load_sp);

// ---------------------------------------------------------------- scheduler state
struct Warp {
  uint32_t live, ready;
  uint32_t waiting;  // lanes that wait in a warp operation
};
struct Barrier {
  int arrived, expected;
  uint32_t waiting[MAX_WARPS];
};
struct SharedArray {
  const void* site;
  char* p;
  size_t bytes;
};
struct VoteState {
  int result[3];
  int arrived, left;
};
enum class Order { Forward, Reverse, Random };

// ---------------------------------------------------------------- wgmma (wgmma.cpp)
constexpr unsigned MAX_PRODUCTS = 32;  // in flight per thread
struct Product {
  int n;
  int* d;
  uint64_t a, b;
  unsigned group;  // commit groups issued before it
};
struct Products {
  unsigned count, groups;
  unsigned issued;  // by this thread so far
  bool touched;     // the sums may have been, since the last wgmma.fence
  Product list[MAX_PRODUCTS];
};
struct Worker;
void products_start(Worker*);
void products_end(const Thread*);
void products_end_block();

// One OS thread's emulator: the block it runs and the fibers it has.
struct Worker {
  alignas(128) char arena[256 * 1024];  // shared memory, with gaps between the arrays
  alignas(64) Thread threads[MAX_THREADS];
  Copy copies[MAX_THREADS][MAX_COPIES];
  Products products[MAX_THREADS];
  std::vector<Product> issued[MAX_THREADS / 128];  // by each warpgroup
  Warp warps[MAX_WARPS];
  Barrier barriers[16];
  VoteState votes[2];
  unsigned vote_round[MAX_THREADS];

  Block block;
  const char* kernel = "";
  void (*run)(void**) = nullptr;
  void** params = nullptr;
  unsigned num_warps = 0;
  int live = 0;

  Order order = Order::Forward;
  uint64_t rng = 1;
  uint32_t warps_ready = 0;
  unsigned warp = 0, lane = 0;  // the thread scheduled last

  SharedArray shared[32];
  unsigned num_shared = 0;
  size_t arena_used = 0, shared_bytes = 0;

  char* stacks = nullptr;
  size_t stack_stride = 0, stacks_bytes = 0;
  Fiber main;
  std::vector<Fiber*> fibers, idle;

  int code = 0;  // CUresult of the failure, 0 if none
  std::string error;
};

Worker* acquire_worker();
Worker* current_worker();  // this OS thread's
void run_block(Worker* w, const char* kernel, void (*run)(void**), void** params, dim3 grid,
               dim3 block, unsigned dynamic_shared, uint64_t index);

// ---------------------------------------------------------------- device memory (memory.cpp)
struct Allocation {
  size_t bytes;
  bool host;                       // pinned host memory: no guard bands
  bool arena;                      // has been carved: only the pieces are in use
  std::vector<std::pair<uintptr_t, size_t>> carved;  // see simt_carve
};
void* device_alloc(size_t bytes, bool host);  // null when over the limit
bool device_free(void* p, std::string* error);
// Is [p, p + bytes) inside one allocation (and, if it is carved up, inside one piece)? If not,
// `why` says where the address lies. `lo`, `hi` return the bounds found.
bool device_range(uintptr_t p, size_t bytes, uintptr_t* lo, uintptr_t* hi, std::string* why);
bool guards_intact(std::string* error);
size_t memory_used();
size_t memory_high();
size_t memory_limit();
void ignore_carves(bool on);

// ---------------------------------------------------------------- launches (launch.cpp)
const Entry* find_kernel(const char* name);
// cuLaunchKernel's arguments and result.
int launch(const Entry* e, dim3 grid, dim3 block, unsigned dynamic_shared, void** params);
void set_error(const std::string& text);  // for simt_last_error, and stderr unless SIMT_QUIET
const char* last_error();

std::string describe_pc(const void* pc);  // "file:line" or ""

// ---------------------------------------------------------------- checker (check.cpp)
#ifdef SIMT_CHECK
void check_launch();
void check_block(Worker*);
void check_barrier(const Barrier&);
void check_sync_warp(Thread** lanes, unsigned mask);
constexpr bool CHECKED = true;
#else
inline void check_launch() {}
inline void check_block(Worker*) {}
inline void check_barrier(const Barrier&) {}
inline void check_sync_warp(Thread**, unsigned) {}
constexpr bool CHECKED = false;
#endif

}  // namespace simt
