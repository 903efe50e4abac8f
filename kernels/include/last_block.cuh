// The last block of a launch, or of a group of its blocks, goes on with what all of them wrote: a launch less than a kernel of its
// own, where one block suffices for the rest. Which block is last depends on chance; what it does must not.
#pragma once
#include "device.cuh"

// Whether all other of the `blocks` blocks that call this with `counter` have done so. By all threads of a block with one
// dimension, once; what they wrote before may then be read by the last block, past the L1 cache (__ldcg). The counter is one of
// Gpu::arrivals of src/device/gpu.rs: zero before the launch, and again after it.
DEV bool last_block(unsigned* counter, unsigned blocks) {
    SMEM(int, last, [1]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last[0] = atomicInc(counter, blocks - 1) == blocks - 1 ? 1 : 0;
    __syncthreads();
    __threadfence();
    return last[0] != 0;
}
