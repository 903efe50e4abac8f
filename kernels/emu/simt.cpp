// The scheduler: runs one block's threads as fibers, with barriers and warp operations.
#include <cstdarg>
#include <mutex>
#include <sys/mman.h>

#include "runtime.h"

namespace simt {

__thread Thread* cur;
__thread Block* blk;
bool eager_async;
static __thread Worker* wk;
Worker* current_worker() { return wk; }

static void fiber_main();

// ---------------------------------------------------------------- fibers
static void switch_fiber(Fiber* from, Fiber* to) { simt_switch(&from->sp, to->sp); }

static void prepare(Worker* w, Fiber* f, size_t index) {
  char* base = w->stacks + index * w->stack_stride;
  // Staggered: stacks at equal offsets would compete for the same cache sets.
  char* top = base + w->stack_stride - (index * 13 % 61) * 64;
  fiber_prepare(f, top, fiber_main);
}

static Fiber* get_fiber() {
  Worker* w = wk;
  if (!w->idle.empty()) {
    Fiber* f = w->idle.back();
    w->idle.pop_back();
    return f;
  }
  Fiber* f = new Fiber();
  prepare(w, f, w->fibers.size());
  w->fibers.push_back(f);
  return f;
}

static void map_stacks(Worker* w) {
  const char* kib = getenv("SIMT_STACK");
  size_t page = 4096, bytes = (kib ? (size_t)atol(kib) : CHECKED ? 256 : 64) * 1024;
  size_t count = MAX_THREADS + 1;
  w->stack_stride = bytes + page;
  w->stacks_bytes = count * w->stack_stride;
  w->stacks = (char*)mmap(nullptr, w->stacks_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (w->stacks == MAP_FAILED) {
    perror("simt: mmap of the thread stacks");
    abort();
  }
  // A guard page below each stack. They cost a mapping each, of which Linux allows 65530 a process.
  for (size_t i = 0; i < count; i++) mprotect(w->stacks + i * w->stack_stride, page, PROT_NONE);
}

static void reset_fibers(Worker* w) {
  w->idle.clear();
  for (size_t i = 0; i < w->fibers.size(); i++) {
    prepare(w, w->fibers[i], i);
    w->idle.push_back(w->fibers[i]);
  }
}

// A worker belongs to an OS thread until that ends, then to the next that asks. Its fibers start
// afresh then: a suspended one may hold addresses of the old thread's thread-local variables.
static std::mutex spare_mutex;
static std::vector<Worker*>& spare() {
  static auto* v = new std::vector<Worker*>();
  return *v;
}
struct Owner {
  Worker* w = nullptr;
  ~Owner() {
    if (!w) return;
    std::lock_guard<std::mutex> lock(spare_mutex);
    spare().push_back(w);
  }
};
static thread_local Owner owner;

Worker* acquire_worker() {
  if (!wk) {
    std::lock_guard<std::mutex> lock(spare_mutex);
    if (!spare().empty()) {
      wk = spare().back();
      spare().pop_back();
      reset_fibers(wk);
    } else {
      wk = new (std::align_val_t(128)) Worker();
      for (unsigned i = 0; i < MAX_THREADS; i++) {
        wk->threads[i].copy = wk->copies[i];
        wk->threads[i].products = &wk->products[i];
      }
      map_stacks(wk);
    }
    owner.w = wk;
  }
  const char* async = getenv("SIMT_ASYNC");
  eager_async = async && *async == 'e';
  const char* order = getenv("SIMT_ORDER");
  wk->order = !order || *order == 'f' ? Order::Forward
              : *order == 'r'         ? Order::Reverse
                                      : Order::Random;
  if (wk->order == Order::Random) wk->rng = strtoull(order, nullptr, 10) * 2654435761u + 12345;
  return wk;
}

// ---------------------------------------------------------------- scheduling
// The next set bit after `after` in the scheduling order.
static unsigned choose(uint32_t bits, unsigned after) {
  Worker* w = wk;
  if (w->order == Order::Forward) {
    uint32_t above = after < 31 ? bits & ~((2u << after) - 1) : 0;
    return (unsigned)__builtin_ctz(above ? above : bits);
  }
  if (w->order == Order::Reverse) {
    uint32_t below = bits & ((1u << after) - 1);
    return 31u - (unsigned)__builtin_clz(below ? below : bits);
  }
  w->rng = w->rng * 6364136223846793005ull + 1442695040888963407ull;
  unsigned skip = (unsigned)(w->rng >> 33) % (unsigned)__builtin_popcount(bits);
  while (skip--) bits &= bits - 1;
  return (unsigned)__builtin_ctz(bits);
}

// Lanes rotate inside a warp until none is ready, then comes the next warp.
static Thread* pick() {
  Worker* w = wk;
  if (!w->warps[w->warp].ready) {
    w->warps_ready &= ~(1u << w->warp);
    if (!w->warps_ready) return nullptr;
    w->warp = choose(w->warps_ready, w->warp);
    w->lane = w->order == Order::Reverse ? 0 : 31;
  } else if (w->order == Order::Random && w->rng >> 60 == 0) {
    w->warp = choose(w->warps_ready, w->warp);
    if (!w->warps[w->warp].ready) return pick();
  }
  w->lane = choose(w->warps[w->warp].ready, w->lane);
  return &w->threads[w->warp * 32 + w->lane];
}

static void set_ready(unsigned warp, uint32_t lanes) {
  wk->warps[warp].ready |= lanes;
  if (lanes) wk->warps_ready |= 1u << warp;
}

[[noreturn]] static void deadlock() {
  Worker* w = wk;
  std::string text;
  char line[160];
  Thread* blamed = nullptr;
  for (unsigned i = 0; i < w->num_warps; i++) {
    uint32_t at_barrier = 0;
    for (auto& b : w->barriers) at_barrier |= b.waiting[i];
    uint32_t in_op = w->warps[i].waiting;
    for (uint32_t lanes : {at_barrier, in_op}) {
      if (!lanes || text.size() > 700) continue;
      Thread& first = w->threads[i * 32 + (unsigned)__builtin_ctz(lanes)];
      if (!blamed) blamed = &first;
      std::string where = describe_pc(first.pc);
      snprintf(line, sizeof line, "\n  warp %u lanes %08x wait %s", i, lanes,
               lanes == at_barrier ? "at a barrier" : "in a warp operation");
      text += line + (where.empty() ? "" : " at " + where);
    }
  }
  if (blamed) cur = blamed;
  fail(cur->pc, "deadlock: divergent barrier or warp operation%s", text.c_str());
}

static void yield() {
  Thread *me = cur, *next = pick();
  if (!next) deadlock();
  if (next == me) return;
  if (!next->fiber) next->fiber = get_fiber();
  cur = next;
  switch_fiber(me->fiber, next->fiber);
}

// ---------------------------------------------------------------- barriers
static void release(Barrier& b) {
  check_barrier(b);
  for (unsigned i = 0; i < wk->num_warps; i++) {
    set_ready(i, b.waiting[i]);
    b.waiting[i] = 0;
  }
  b.arrived = b.expected = 0;
}

static void wait_at(int id, int count, const void* pc) {
  Worker* w = wk;
  Thread* t = cur;
  if (id < 0 || id > 15) fail(pc, "bar.sync: there is no barrier %d", id);
  if (count % 32) fail(pc, "bar.sync: the thread count %d is not a multiple of 32", count);
  Barrier& b = w->barriers[id];
  if (b.arrived && b.expected != count) {
    fail(pc, "bar.sync %d: threads disagree about the count", id);
  }
  t->pc = pc;
  if (t->unfenced && !t->leaked) t->leaked = true, blk->leaks++;
  b.expected = count;
  b.arrived++;
  b.waiting[t->warp] |= 1u << t->lane;
  w->warps[t->warp].ready &= ~(1u << t->lane);
  if (b.arrived == (count ? count : w->live)) {
    release(b);
  } else {
    yield();
  }
}

void barrier(int id, int count) { wait_at(id, count, __builtin_return_address(0)); }

int barrier_vote(Vote vote, int predicate) {
  Worker* w = wk;
  VoteState& v = w->votes[w->vote_round[cur->linear]++ & 1];
  if (v.arrived++ == 0) {
    v.result[(int)Vote::Count] = 0;
    v.result[(int)Vote::And] = 1;
    v.result[(int)Vote::Or] = 0;
  }
  v.result[(int)Vote::Count] += predicate != 0;
  v.result[(int)Vote::And] &= predicate != 0;
  v.result[(int)Vote::Or] |= predicate != 0;
  wait_at(0, 0, __builtin_return_address(0));
  int r = v.result[(int)vote];
  if (++v.left == v.arrived) v.arrived = v.left = 0;
  return r;
}

// ---------------------------------------------------------------- warp operations
// Executes the operation in which `t` waits if all live lanes of its mask have arrived.
static bool try_warp_op(Thread* t) {
  Worker* w = wk;
  Warp& s = w->warps[t->warp];
  unsigned lanes = t->mask & s.live;
  if ((s.waiting & lanes) != lanes) return false;
  Thread* v[32] = {};
  for (unsigned rest = lanes; rest; rest &= rest - 1) {
    unsigned i = (unsigned)__builtin_ctz(rest);
    v[i] = &w->threads[t->warp * 32 + i];
    if (v[i]->mask != t->mask) return false;
    if (v[i]->op != t->op) {
      fail(t->pc, "lanes %u and %u of a warp meet in different warp operations%s%s", t->lane, i,
           describe_pc(v[i]->pc).empty() ? "" : "; the other's is at ",
           describe_pc(v[i]->pc).c_str());
    }
  }
  t->op(v, lanes);
  if (t->op == op_sync) check_sync_warp(v, lanes);
  s.waiting &= ~lanes;
  set_ready(t->warp, lanes);
  return true;
}

void warp_op(unsigned mask, WarpOp op, void* operand, const void* pc) {
  Worker* w = wk;
  Thread* t = cur;
  Warp& s = w->warps[t->warp];
  unsigned me = 1u << t->lane;
  if (!(mask & me)) fail(pc, "warp operation: the calling lane is not in its mask %08x", mask);
  t->operand = operand;
  t->op = op;
  t->mask = mask;
  t->pc = pc;
  s.waiting |= me;
  if (try_warp_op(t)) return;
  s.ready &= ~me;
  yield();
}

// ---------------------------------------------------------------- shared memory
// Not initialised on a GPU: filled with NaN here, so that using it shows.
static void poison(void* p, size_t n) { std::memset(p, 0xff, n); }

void* shared_array(const void* site, size_t bytes, size_t align) {
  Worker* w = wk;
  for (unsigned i = 0; i < w->num_shared; i++) {
    if (w->shared[i].site == site) return w->shared[i].p;
  }
  const void* pc = __builtin_return_address(0);
  constexpr size_t gap = 64;  // so that running over the end hits no other array
  size_t at = (w->arena_used + align - 1) / align * align;
  w->shared_bytes += bytes;
  if (w->num_shared == 32) fail(pc, "more than 32 shared arrays in one kernel");
  if (w->shared_bytes + blk->dyn_bytes > MAX_SHARED || at + bytes + gap > sizeof w->arena) {
    fail(pc, "more than 227 KiB of shared memory in one block");
  }
  w->arena_used = at + bytes + gap;
  poison(w->arena + at, bytes);
  w->shared[w->num_shared++] = {site, w->arena + at, bytes};
  return w->arena + at;
}

// ---------------------------------------------------------------- threads and blocks
static void thread_exit() {
  Worker* w = wk;
  Thread* t = cur;
  if (t->copies) fail(nullptr, "a thread ends with %u cp.async never waited for", t->copies);
  products_end(t);
  Warp& s = w->warps[t->warp];
  uint32_t me = 1u << t->lane;
  s.live &= ~me;
  s.ready &= ~me;
  if (--w->live == 0) products_end_block();
  t->fiber = nullptr;
  // Others may have been waiting for this thread only.
  Barrier& b = w->barriers[0];
  if (b.arrived && b.expected == 0 && b.arrived == w->live) release(b);
  for (uint32_t rest = s.waiting; rest; rest &= rest - 1) {
    unsigned lane = (unsigned)__builtin_ctz(rest);
    if (try_warp_op(&w->threads[t->warp * 32 + lane])) break;
  }
}

// A fiber runs one thread after another: as long as threads do not block, there is no switch.
static void fiber_main() {
  for (;;) {
    Fiber* self = cur->fiber;
    wk->run(wk->params);
    thread_exit();
    Thread* next = pick();
    if (!next) {
      if (wk->live) {
        cur->fiber = self;
        deadlock();
      }
      wk->idle.push_back(self);
      switch_fiber(self, &wk->main);
      continue;
    }
    cur = next;
    if (!next->fiber) {
      next->fiber = self;
      continue;
    }
    wk->idle.push_back(self);
    switch_fiber(self, next->fiber);
  }
}

void fail(const void* pc, const char* format, ...) {
  char reason[1400], head[300];
  va_list args;
  va_start(args, format);
  vsnprintf(reason, sizeof reason, format, args);
  va_end(args);
  Worker* w = wk;
  snprintf(head, sizeof head, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u)", w->kernel,
           blk->bid.x, blk->bid.y, blk->bid.z, cur->tid.x, cur->tid.y, cur->tid.z);
  std::string where = describe_pc(pc);
  w->error = std::string(head) + (where.empty() ? "" : ", " + where) + ": " + reason;
  w->code = 719;  // CUDA_ERROR_LAUNCH_FAILED
  Fiber abandoned;  // the block's fibers are dropped; no destructor runs
  for (;;) switch_fiber(&abandoned, &w->main);
}

void run_block(Worker* w, const char* kernel, void (*run)(void**), void** params, dim3 grid,
               dim3 block, unsigned dynamic_shared, uint64_t index) {
  unsigned n = block.x * block.y * block.z;
  w->block.gdim = grid;
  w->block.bdim = block;
  w->block.bid = {(unsigned)(index % grid.x), (unsigned)(index / grid.x % grid.y),
                  (unsigned)(index / grid.x / grid.y)};
  w->kernel = kernel;
  w->run = run;
  w->params = params;
  w->live = (int)n;
  w->num_warps = (n + 31) / 32;
  w->num_shared = 0;
  w->shared_bytes = 0;
  w->block.dyn = (unsigned char*)w->arena + 128;
  w->block.dyn_bytes = dynamic_shared;
  w->arena_used = 128 + (dynamic_shared + 127) / 128 * 128 + 128;
  poison(w->block.dyn, dynamic_shared);

  memset(w->barriers, 0, sizeof w->barriers);
  memset(w->votes, 0, sizeof w->votes);
  memset(w->vote_round, 0, n * sizeof w->vote_round[0]);
  w->warps_ready = 0;
  for (unsigned i = 0; i < w->num_warps; i++) {
    unsigned lanes = std::min(32u, n - 32 * i);
    uint32_t mask = lanes == 32 ? ~0u : (1u << lanes) - 1;
    w->warps[i] = {mask, mask, 0};
    w->warps_ready |= 1u << i;
  }
  for (unsigned i = 0; i < n; i++) {
    Thread& t = w->threads[i];
    t.tid = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    t.linear = i;
    t.lane = i % 32;
    t.warp = i / 32;
    t.fiber = nullptr;
    t.pc = nullptr;
    t.copies = t.groups = 0;
    t.unfenced = t.leaked = false;
  }
  products_start(w);
  bool reverse = w->order == Order::Reverse;
  w->warp = reverse ? w->num_warps - 1 : 0;
  w->lane = reverse ? 0 : 31;
  blk = &w->block;
  check_block(w);

  cur = pick();
  cur->fiber = get_fiber();
  switch_fiber(&w->main, cur->fiber);
  if (w->code) reset_fibers(w);
  blk = nullptr;
  cur = nullptr;
}

}  // namespace simt
