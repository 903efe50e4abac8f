// The checker: races, accesses out of bounds, misaligned accesses, reads of shared memory never
// written, reads of a cp.async destination before the wait.
//
// Kernels are compiled with -fsanitize=thread, which puts a call before each memory access; libtsan
// is not linked, the functions of tsan_abi.cpp take its place and end in access() here.
//
// Each byte has a shadow cell with its last write and last read. Two accesses of different threads
// conflict if one of them writes, not both are atomic, and nothing orders them: a block barrier
// (vector clock per warp), __syncwarp (a clock per lane; shuffles do not order memory), or, between
// blocks, __threadfence followed by an atomic that both blocks execute: of what the thread of the
// atomic knows, so that other warps' accesses must lie before a barrier.
#include "check.h"

#include <algorithm>
#include <deque>
#include <link.h>
#include <memory>
#include <unordered_map>
#include <vector>

namespace simt {

// An access, packed: pending 1 | block 22 | atomic 1 | thread 10 | barrier clock 15 | warp clock 15
using Record = uint64_t;
static uint64_t block_of(Record r) { return r >> 41 & 0x3fffff; }
static bool atomic_of(Record r) { return r >> 40 & 1; }
static unsigned thread_of(Record r) { return r >> 30 & 1023; }
static bool pending_of(Record r) { return r >> 63; }

struct Cell {
  Record write, read;
  const void *write_pc, *read_pc;
};
struct Page {
  uint64_t launch;
  Cell cells[4096];
};

static std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
static uintptr_t last_key;
static Page* last_page;
static uint64_t launch_no = 1, block_no;

static Worker* worker;
static uint32_t barrier_clock[MAX_WARPS];         // of each warp, starts at 1
static uint32_t seen_clock[MAX_WARPS][MAX_WARPS];  // what a warp knows of another's clock
static uint32_t warp_clock[MAX_THREADS];

static uintptr_t buffer_lo, buffer_hi;  // the allocation hit last
static uintptr_t image_lo, image_hi;    // this library: constants and plain __shared__ variables
static bool track_uninitialised = true;

// What a thread knew of its block when it published that by an atomic.
struct Known {
  unsigned thread;
  uint32_t barrier, warp;       // its clocks
  uint32_t seen[MAX_WARPS];
};
static std::deque<Known> knowns;  // of this launch
// By block.
using Knowledge = std::unordered_map<uint64_t, std::vector<const Known*>>;
// What an atomic's address has published, and what this block has seen of it.
static std::unordered_map<uintptr_t, Knowledge> published;
static Knowledge seen_blocks;
static bool fenced[MAX_THREADS];

static void find_image() {
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void*) {
        uintptr_t lo = ~(uintptr_t)0, hi = 0, self = (uintptr_t)&find_image;
        for (int i = 0; i < info->dlpi_phnum; i++) {
          const auto& h = info->dlpi_phdr[i];
          if (h.p_type != PT_LOAD) continue;
          lo = std::min(lo, (uintptr_t)(info->dlpi_addr + h.p_vaddr));
          hi = std::max(hi, (uintptr_t)(info->dlpi_addr + h.p_vaddr + h.p_memsz));
        }
        if (self < lo || self >= hi) return 0;
        image_lo = lo;
        image_hi = hi;
        return 1;
      },
      nullptr);
}

void check_launch() {
  if (!image_hi) find_image();
  launch_no++;
  block_no = 0;
  buffer_lo = buffer_hi = 0;
  published.clear();
  seen_blocks.clear();
  knowns.clear();
  const char* uninit = getenv("SIMT_UNINIT");
  track_uninitialised = !uninit || *uninit != '0';
}

void check_block(Worker* w) {
  worker = w;
  block_no++;
  memset(seen_clock, 0, sizeof seen_clock);
  memset(warp_clock, 0, sizeof warp_clock);
  for (auto& c : barrier_clock) c = 1;
  seen_blocks.clear();
  memset(fenced, 0, sizeof fenced);
}

void check_barrier(const Barrier& b) {
  uint32_t joined[MAX_WARPS] = {};
  for (unsigned i = 0; i < worker->num_warps; i++) {
    if (!b.waiting[i]) continue;
    for (unsigned j = 0; j < MAX_WARPS; j++) joined[j] = std::max(joined[j], seen_clock[i][j]);
    joined[i] = std::max(joined[i], barrier_clock[i]);
  }
  for (unsigned i = 0; i < worker->num_warps; i++) {
    if (!b.waiting[i]) continue;
    memcpy(seen_clock[i], joined, sizeof joined);
    barrier_clock[i]++;
  }
}

void check_sync_warp(Thread** lanes, unsigned mask) {
  uint32_t latest = 0;
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    latest = std::max(latest, warp_clock[lanes[__builtin_ctz(rest)]->linear]);
  }
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    warp_clock[lanes[__builtin_ctz(rest)]->linear] = latest + 1;
  }
}

void check_fence() {
  if (cur) fenced[cur->linear] = true;
}

static void add(Knowledge& to, const Knowledge& from) {
  for (const auto& [block, all] : from) {
    auto& have = to[block];
    for (const Known* k : all) {
      if (std::find(have.begin(), have.end(), k) == have.end()) have.push_back(k);
    }
  }
}

static void synchronise_blocks(uintptr_t address) {
  auto& there = published[address];
  add(seen_blocks, there);
  unsigned t = cur->linear, warp = cur->warp;
  if (!fenced[t]) return;
  add(there, seen_blocks);
  auto& own = there[block_no];
  for (const Known* k : own) {
    if (k->thread == t && k->barrier == barrier_clock[warp] && k->warp == warp_clock[t]) return;
  }
  Known k = {t, barrier_clock[warp], warp_clock[t], {}};
  memcpy(k.seen, seen_clock[warp], sizeof k.seen);
  knowns.push_back(k);
  own.push_back(&knowns.back());
}

// Was an access with these clocks done when `k` was published?
static bool covers(const Known& k, unsigned thread, uint32_t at_barrier, uint32_t at_warp) {
  if (thread == k.thread) return at_barrier <= k.barrier;
  if (thread / 32 == k.thread / 32) return at_barrier < k.barrier || at_warp < k.warp;
  return at_barrier <= k.seen[thread / 32];
}

static Page* page(uintptr_t key) {
  if (key == last_key && last_page && last_page->launch == launch_no) return last_page;
  auto& p = pages[key];
  if (!p) p.reset(new Page());
  if (p->launch != launch_no) {
    memset((void*)p->cells, 0, sizeof p->cells);
    p->launch = launch_no;
  }
  last_key = key;
  return last_page = p.get();
}

// Did the recorded access happen before the current thread's next one?
static bool ordered(Record r, bool shared) {
  if (!r) return true;
  unsigned t = thread_of(r), mine = cur->linear, warp = cur->warp;
  uint32_t at_barrier = r >> 15 & 32767, at_warp = r & 32767;
  if (block_of(r) != block_no) {
    if (shared) return true;  // another lifetime
    auto found = seen_blocks.find(block_of(r));
    if (found == seen_blocks.end()) return false;
    for (const Known* k : found->second) {
      if (covers(*k, t, at_barrier, at_warp)) return true;
    }
    return false;
  }
  if (t == mine) return true;
  if (t / 32 == warp) return at_barrier < barrier_clock[warp] || at_warp < warp_clock[mine];
  return at_barrier <= seen_clock[warp][t / 32];
}

static std::string other_thread(Record r, const void* pc) {
  dim3 b = blk->bdim, g = blk->gdim;
  uint64_t i = block_of(r) - 1;
  unsigned t = thread_of(r);
  char text[160];
  snprintf(text, sizeof text, "; the other access: block (%u,%u,%u), thread (%u,%u,%u)",
           (unsigned)(i % g.x), (unsigned)(i / g.x % g.y), (unsigned)(i / g.x / g.y), t % b.x,
           t / b.x % b.y, t / b.x / b.y);
  std::string where = describe_pc(pc);
  return text + (where.empty() ? "" : ", " + where);
}

namespace {
struct Target {
  bool shared = false;
  bool starts_undefined = false;
  const char* space = "";
  uintptr_t base = 0;
};
}  // namespace

static bool inside(uintptr_t a, size_t n, const void* p, size_t bytes) {
  return a >= (uintptr_t)p && a + n <= (uintptr_t)p + bytes;
}

// Where does the address lie? False: not the kernel's business (stack, emulator state).
static bool locate(uintptr_t a, size_t n, bool write, const void* pc, Target* t) {
  Worker* w = worker;
  const char* verb = write ? "write" : "read";
  if (a - (uintptr_t)w->stacks < w->stacks_bytes) return false;
  if (a - (uintptr_t)w->arena < sizeof w->arena) {
    t->shared = t->starts_undefined = true;
    if (inside(a, n, blk->dyn, blk->dyn_bytes)) {
      t->space = "dynamic shared memory";
      t->base = (uintptr_t)blk->dyn;
      return true;
    }
    const SharedArray* nearest = nullptr;
    for (unsigned i = 0; i < w->num_shared; i++) {
      const SharedArray& s = w->shared[i];
      if (inside(a, n, s.p, s.bytes)) {
        t->space = "a shared array";
        t->base = (uintptr_t)s.p;
        return true;
      }
      if (a >= (uintptr_t)s.p && (!nearest || s.p > nearest->p)) nearest = &s;
    }
    if (nearest && nearest->p >= (char*)blk->dyn + blk->dyn_bytes) {
      fail(pc, "out-of-bounds %s of %zu bytes in shared memory: offset %zu of an array of %zu",
           verb, n, (size_t)(a - (uintptr_t)nearest->p), nearest->bytes);
    }
    fail(pc, "out-of-bounds %s of %zu bytes in shared memory: offset %td of %u dynamic bytes", verb,
         n, (char*)a - (char*)blk->dyn, blk->dyn_bytes);
  }
  if (a - (uintptr_t)w < sizeof *w || a == (uintptr_t)&cur || a == (uintptr_t)&blk) return false;
  if (a >= image_lo && a < image_hi) {
    t->shared = true;
    t->space = "static memory";
    t->base = image_lo;
    return true;
  }
  t->space = "a global buffer";
  if (!(a >= buffer_lo && a + n <= buffer_hi)) {
    std::string why;
    if (!device_range(a, n, &buffer_lo, &buffer_hi, &why)) {
      buffer_lo = buffer_hi = 0;
      fail(pc, "out-of-bounds %s of %zu bytes in global memory: %s", verb, n, why.c_str());
    }
  }
  t->base = buffer_lo;
  return true;
}

void access(const void* p, size_t n, Access kind, const void* pc) {
  if (!blk || !cur || !n) return;
  uintptr_t a = (uintptr_t)p;
  bool write = kind.write, atomic = kind.atomic;
  Target t;
  if (!locate(a, n, write, pc, &t)) return;
  if (kind.align && a % kind.align) {
    fail(pc, "misaligned access: %p is not a multiple of %u", p, kind.align);
  }
  if (atomic && !t.shared) synchronise_blocks(a);

  Record me = (uint64_t)kind.pending << 63 | block_no << 41 | (uint64_t)atomic << 40 |
              (uint64_t)cur->linear << 30 | (uint64_t)(barrier_clock[cur->warp] & 32767) << 15 |
              (warp_clock[cur->linear] & 32767);
  for (size_t i = 0; i < n; i++, a++) {
    Cell& c = page(a >> 12)->cells[a & 4095];
    size_t offset = a - t.base;
    if (!(atomic && atomic_of(c.write)) && !ordered(c.write, t.shared)) {
      fail(pc, "race: %s after an unordered write, %s+%zu%s", write ? "write" : "read", t.space,
           offset, other_thread(c.write, c.write_pc).c_str());
    }
    if (write) {
      if (t.shared && !kind.pending) cur->unfenced = true;
      if (!(atomic && atomic_of(c.read)) && !ordered(c.read, t.shared)) {
        fail(pc, "race: write after an unordered read, %s+%zu%s", t.space, offset,
             other_thread(c.read, c.read_pc).c_str());
      }
      c.write = me;
      c.write_pc = pc;
      continue;
    }
    if (pending_of(c.write) && block_of(c.write) == block_no) {
      fail(pc, "read of a cp.async destination before the wait, %s+%zu%s", t.space, offset,
           other_thread(c.write, c.write_pc).c_str());
    }
    if (t.starts_undefined && track_uninitialised && block_of(c.write) != block_no) {
      fail(pc, "read of uninitialised shared memory (never written, or not yet), %s+%zu", t.space,
           offset);
    }
    // Keep a reader that is not ordered before this one: a later write must meet it.
    if (ordered(c.read, t.shared) || block_of(c.read) != block_no) {
      c.read = me;
      c.read_pc = pc;
    }
  }
}

}  // namespace simt

extern "C" {
void simt_check_read(const void* p, size_t n, const void* pc) {
  simt::access(p, n, {.write = false}, pc);
}
void simt_check_write(void* p, size_t n, const void* pc) { simt::access(p, n, {.write = true}, pc); }
void simt_check_issue(void* p, size_t n, const void* pc) {
  simt::access(p, n, {.write = true, .pending = true}, pc);
}
}
