// Device memory: ordinary memory between two guard bands, filled with 0xFF (NaN).
#include <map>
#include <mutex>

#include "runtime.h"

namespace simt {

static constexpr size_t GUARD = 256;
static constexpr unsigned char GUARD_BYTE = 0xa5;

static std::mutex mutex;
static std::map<uintptr_t, Allocation>& allocations() {
  static auto* m = new std::map<uintptr_t, Allocation>();
  return *m;
}
static size_t used, high, limit_override;
static bool carves_ignored;

size_t memory_limit() {
  if (limit_override) return limit_override;
  const char* s = getenv("SIMT_MEM_LIMIT");
  return s ? strtoull(s, nullptr, 10) : 8ull << 30;
}
size_t memory_used() { return used; }
size_t memory_high() { return high; }
void ignore_carves(bool on) { carves_ignored = on; }

void* device_alloc(size_t bytes, bool host) {
  std::lock_guard<std::mutex> lock(mutex);
  if (!host && (bytes > memory_limit() || used + bytes > memory_limit())) return nullptr;
  size_t tail = GUARD + (256 - bytes % 256) % 256;
  void* raw = nullptr;
  if (posix_memalign(&raw, 256, GUARD + bytes + tail)) return nullptr;
  char* p = (char*)raw + GUARD;
  memset(raw, GUARD_BYTE, GUARD);
  memset(p, 0xff, bytes);
  memset(p + bytes, GUARD_BYTE, tail);
  allocations()[(uintptr_t)p] = {bytes, host, false, {}};
  if (!host) {
    used += bytes;
    high = std::max(high, used);
  }
  return p;
}

static bool guards_of(uintptr_t p, const Allocation& a, std::string* error) {
  static const std::string intact(GUARD, (char)GUARD_BYTE);
  auto* data = (const unsigned char*)p;
  char text[160];
  if (!memcmp(data - GUARD, intact.data(), GUARD) &&
      !memcmp(data + a.bytes, intact.data(), GUARD)) {
    return true;  // looked at after every launch, so fast
  }
  for (size_t i = 1; i <= GUARD; i++) {
    if (data[-(ptrdiff_t)i] == GUARD_BYTE) continue;
    snprintf(text, sizeof text, "write %zu bytes before an allocation of %zu bytes", i, a.bytes);
    *error = text;
    return false;
  }
  for (size_t i = 0; i < GUARD; i++) {
    if (data[a.bytes + i] == GUARD_BYTE) continue;
    snprintf(text, sizeof text, "write %zu bytes past the end of an allocation of %zu bytes", i,
             a.bytes);
    *error = text;
    return false;
  }
  return true;
}

static void repair(uintptr_t p, const Allocation& a) {
  memset((char*)p - GUARD, GUARD_BYTE, GUARD);
  memset((char*)p + a.bytes, GUARD_BYTE, GUARD);
}

bool guards_intact(std::string* error) {
  std::lock_guard<std::mutex> lock(mutex);
  for (auto& [p, a] : allocations()) {
    if (guards_of(p, a, error)) continue;
    repair(p, a);  // reported once
    return false;
  }
  return true;
}

bool device_free(void* p, std::string* error) {
  std::lock_guard<std::mutex> lock(mutex);
  auto it = allocations().find((uintptr_t)p);
  if (it == allocations().end()) {
    *error = "free of an address that is not an allocation";
    return false;
  }
  bool intact = guards_of(it->first, it->second, error);
  if (!it->second.host) used -= it->second.bytes;
  memset(p, 0xff, it->second.bytes);  // a use after the free reads NaN, while it lasts
  allocations().erase(it);
  free((char*)p - GUARD);
  return intact;
}

bool device_range(uintptr_t p, size_t bytes, uintptr_t* lo, uintptr_t* hi, std::string* why) {
  std::lock_guard<std::mutex> lock(mutex);
  char text[200];
  auto& all = allocations();
  auto next = all.upper_bound(p), it = next;
  if (it == all.begin() || (--it, p >= it->first + it->second.bytes + GUARD)) {
    snprintf(text, sizeof text, "address %p is in no allocation", (void*)p);
    if (next != all.end() && next->first - p <= GUARD) {
      snprintf(text, sizeof text, "%zu bytes before an allocation of %zu bytes",
               (size_t)(next->first - p), next->second.bytes);
    }
    *why = text;
    return false;
  }
  const Allocation& a = it->second;
  if (p + bytes > it->first + a.bytes) {
    snprintf(text, sizeof text, "offset %zu of an allocation of %zu bytes",
             (size_t)(p - it->first), a.bytes);
    *why = text;
    return false;
  }
  *lo = it->first;
  *hi = it->first + a.bytes;
  if (!a.arena || carves_ignored) return true;
  for (auto& [start, size] : a.carved) {
    if (p >= start && p + bytes <= start + size) {
      *lo = start;
      *hi = start + size;
      return true;
    }
  }
  snprintf(text, sizeof text, "offset %zu of an arena of %zu bytes, in no piece of it in use",
           (size_t)(p - it->first), a.bytes);
  for (auto& [start, size] : a.carved) {
    if (p + bytes > start && p < start + size + GUARD) {
      snprintf(text, sizeof text, "offset %td of an arena piece of %zu bytes", (ptrdiff_t)(p - start),
               size);
    }
  }
  *why = text;
  return false;
}

}  // namespace simt

// ---------------------------------------------------------------- for allocators on top of this
// An arena tells which pieces of its allocation are in use; the checking library then treats each
// as a buffer of its own. Harmless in the plain library.
extern "C" void simt_carve(uint64_t p, size_t bytes) {
  using namespace simt;
  std::lock_guard<std::mutex> lock(simt::mutex);
  auto it = allocations().upper_bound(p);
  if (it == allocations().begin()) return;
  (--it)->second.arena = true;
  it->second.carved.push_back({p, bytes});
}
extern "C" void simt_uncarve(uint64_t p) {
  using namespace simt;
  std::lock_guard<std::mutex> lock(simt::mutex);
  auto it = allocations().upper_bound(p);
  if (it == allocations().begin()) return;
  auto& v = (--it)->second.carved;
  for (size_t i = v.size(); i-- > 0;) {
    if (v[i].first == p) {
      v.erase(v.begin() + (ptrdiff_t)i);
      break;
    }
  }
}
// SIMT_MEM_LIMIT for a running process; 0 returns to the variable.
extern "C" void simt_set_mem_limit(size_t bytes) { simt::limit_override = bytes; }
