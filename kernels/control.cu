// Numbers of a training step in device memory (src/device/gpu.rs, src/train/control.rs), and its losses (src/train/losses.rs).
//
// mapping   write: one thread per word; record: one thread
// traffic   a few dozen bytes
// order     no reductions
#include "include/device.cuh"

struct ControlWords {
    unsigned words[511];
    int n;
};

KERNEL control_write_u32(unsigned* __restrict__ to, ControlWords p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) to[i] = p.words[i];
}

struct ControlRecord {
    unsigned long long it;
    const unsigned* counter;
    const float* values[32];
    int count, start, width, slots, loss, unused;
};

// Puts one-element losses into the row of their iteration. The first that is no finite number is kept by name in the
// header: which, iteration, value.
KERNEL control_record_f32(unsigned* __restrict__ log, ControlRecord p) {
    unsigned long long it = p.counter ? p.counter[0] | (unsigned long long)p.counter[1] << 32 : p.it;
    unsigned* row = log + 4 + (int)(it % (unsigned)p.slots) * p.width + p.start;
    row[0] = (unsigned)it;
    for (int i = 0; i < p.count; i++) {
        float v = *p.values[i];
        row[1 + i] = __float_as_uint(v);
        bool finite = v - v == 0.0f;
        if (!finite && log[0] == 0) {
            log[0] = 1 + p.loss * 64 + i;
            log[1] = (unsigned)it;
            log[2] = (unsigned)(it >> 32);
            log[3] = __float_as_uint(v);
        }
    }
}
