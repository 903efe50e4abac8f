// Products of a warpgroup (include/wgmma.cuh). They are performed as late as the waits allow, so that what is missing
// shows: until then the sums hold garbage, and operands that are overwritten too early are read as overwritten
// (SIMT_ASYNC=eager: at once). Each thread computes its own sums; that all 128 issue the same is checked.
#include "runtime.h"

namespace simt {

// Shared memory begins 128 bytes before the dynamic part (run_block), at a multiple of 128; a kernel aligns what it
// wants to lie at multiples of 1024 by this address.
static const unsigned char* arena() { return blk->dyn - 128; }
unsigned shared_address(const void* p) { return (unsigned)((const unsigned char*)p - arena()); }

void products_start(Worker* w) {
  for (auto& list : w->issued) list.clear();
  w->block.leaks = 0;
  for (unsigned i = 0; i < w->num_warps * 32; i++) {
    Products& p = w->products[i];
    p.count = p.groups = p.issued = 0;
    p.touched = true;
  }
}

void products_end(const Thread* t) {
  if (t->products->count) fail(nullptr, "a thread ends with %u wgmma never waited for", t->products->count);
}
void products_end_block() {
  const Worker* w = current_worker();
  for (unsigned i = 0; i < w->num_warps * 32; i++) {
    size_t group = w->issued[i / 128].size();
    if (w->products[i].issued == group) continue;
    fail(nullptr, "wgmma by part of a warpgroup: thread %u has issued %u of %zu", i, w->products[i].issued, group);
  }
}

// 16 bytes of a row of a matrix, given by PTX's matrix descriptor: bits 0-13 start, 16-29 leading and 32-45 stride byte
// offset, all in units of 16; 49-51 base offset (0 here); 62-63 swizzle: none, 128, 64, 32 bytes. The depth is contiguous.
static const unsigned char* row_chunk(uint64_t matrix, int row, int chunk, const void* pc) {
  auto field = [&](int bit) { return (unsigned)(matrix >> bit & 0x3fff) << 4; };
  if (matrix >> 49 & 7) fail(pc, "wgmma: a matrix descriptor with a base offset");
  unsigned mode = (unsigned)(matrix >> 62), at = field(0), eight = (unsigned)row / 8, in = (unsigned)row % 8;
  if (mode == 0) {
    at += (unsigned)chunk * field(16) + eight * field(32) + in * 16;
  } else {
    unsigned pitch = 256u >> mode;
    at += eight * field(32) + in * pitch + (unsigned)chunk * 16;
    at ^= (at >> 7 & (pitch / 16 - 1)) << 4;
  }
  if (at + 16 > current_worker()->arena_used) {
    fail(pc, "wgmma: row %d of an operand lies at byte %u of shared memory, outside of it", row, at);
  }
  const unsigned char* p = arena() + at;
  simt_check_read(p, 16, pc);
  return p;
}

static void perform(const Product& p, const void* pc) {
  int row = (int)(cur->warp % 4 * 16 + cur->lane / 4), col = (int)(cur->lane % 4 * 2);
  const int8_t* a[2][2];
  for (int half = 0; half < 2; half++) {
    for (int chunk = 0; chunk < 2; chunk++) {
      a[half][chunk] = (const int8_t*)row_chunk(p.a, row + half * 8, chunk, pc);
    }
  }
  for (int eight = 0; eight < p.n / 8; eight++) {
    for (int j = 0; j < 2; j++) {
      int sum[2] = {0, 0};
      for (int chunk = 0; chunk < 2; chunk++) {
        const int8_t* b = (const int8_t*)row_chunk(p.b, eight * 8 + col + j, chunk, pc);
        for (int half = 0; half < 2; half++) {
          for (int i = 0; i < 16; i++) sum[half] += a[half][chunk][i] * b[i];
        }
      }
      for (int half = 0; half < 2; half++) {
        int& d = p.d[eight * 4 + half * 2 + j];
        d = (int)((unsigned)d + (unsigned)sum[half]);  // wraps
      }
    }
  }
}

// What is in flight must not be looked at: turns the sums into garbage, and back.
static void hide(const Product& p) {
  for (int i = 0; i < p.n / 2; i++) p.d[i] ^= 0x5aa5c33c;
}
static bool in_flight(const Products& p, const int* d) {
  for (unsigned i = 0; i < p.count; i++) {
    if (p.list[i].d == d) return true;
  }
  return false;
}

void wgmma_s8(int n, int* d, uint64_t a, uint64_t b) {
  const void* pc = __builtin_return_address(0);
  Products& p = *cur->products;
  if (cur->warp / 4 * 4 + 4 > current_worker()->num_warps) fail(pc, "wgmma by part of a warpgroup of 128 threads");
  if (p.touched) fail(pc, "wgmma without wgmma.fence: the sums may have been touched since the last wait");
  if (cur->unfenced || blk->leaks) {
    fail(pc, "wgmma without fence.proxy.async: shared memory was written through the generic proxy");
  }
  auto& issued = current_worker()->issued[cur->warp / 4];
  if (p.issued == issued.size()) {
    issued.push_back({n, nullptr, a, b, 0});
  } else {
    const Product& same = issued[p.issued];
    if (same.n != n || same.a != a || same.b != b) fail(pc, "wgmma: threads of a warpgroup differ in their operands");
  }
  p.issued++;
  if (p.count == MAX_PRODUCTS) fail(pc, "wgmma: over %u in flight", MAX_PRODUCTS);
  Product product{n, d, a, b, p.groups};
  if (eager_async) {
    if (in_flight(p, d)) hide(product);
    perform(product, pc);
    hide(product);
  } else if (!in_flight(p, d)) {
    hide(product);
  }
  p.list[p.count++] = product;
}

void wgmma_fence() { cur->products->touched = false; }
void wgmma_commit() { cur->products->groups++; }

void wgmma_wait(unsigned keep_groups) {
  const void* pc = __builtin_return_address(0);
  Products& p = *cur->products;
  unsigned done = p.groups > keep_groups ? p.groups - keep_groups : 0, kept = 0;
  Product due[MAX_PRODUCTS];
  unsigned count = p.count, ready = 0;
  for (unsigned i = 0; i < count; i++) {
    if (p.list[i].group < done) due[ready++] = p.list[i];
  }
  for (unsigned i = 0; i < ready; i++) {
    bool first = true;
    for (unsigned j = 0; j < i; j++) first &= due[j].d != due[i].d;
    if (first) hide(due[i]);
    if (!eager_async) perform(due[i], pc);
  }
  for (unsigned i = 0; i < count; i++) {
    Product product = p.list[i];
    if (product.group < done) continue;
    product.group -= done;
    p.list[kept++] = product;
  }
  p.count = kept;
  p.groups -= done;
  for (unsigned i = 0; i < ready; i++) {
    bool first = true;
    for (unsigned j = 0; j < i; j++) first &= due[j].d != due[i].d;
    if (first && in_flight(p, due[i].d)) hide(due[i]);
  }
  if (ready) p.touched = true;
}

void proxy_fence() {
  if (cur->leaked) blk->leaks--;
  cur->leaked = cur->unfenced = false;
}

}  // namespace simt
