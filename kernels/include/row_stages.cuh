// Two-stage reductions over the rows of a [rows, c] array (mirrors Stages in src/ops/channel_stats.rs).
//
// Stage 1: a block of 256 threads takes `lanes` (a power of two <= 32) neighbouring channels and one chunk of rows;
// thread t serves channel t % lanes and every (256 / lanes)-th row, so that a warp reads contiguous memory also where
// c < 32. Stage 2: the last of the blocks that share their channels combines the chunks, one warp per channel. All orders are
// fixed.
#pragma once
#include "device.cuh"

struct RowStages {
    int rows, c, lanes, chunks, rows_per_chunk;
};

struct RowWalk {
    int channel, row, end, step, slot;
};

DEV RowWalk row_walk(RowStages p) {
    RowWalk w;
    int t = threadIdx.x;
    w.channel = blockIdx.x * p.lanes + t % p.lanes;
    w.step = 256 / p.lanes;
    int begin = blockIdx.y * p.rows_per_chunk;
    w.row = begin + t / p.lanes;
    w.end = min(begin + p.rows_per_chunk, p.rows);
    w.slot = blockIdx.y * p.c + w.channel;
    return w;
}

// The channels of a block, for stage 2: each warp takes every eighth.
struct ChannelWalk {
    int channel, end;
    __device__ __forceinline__ explicit ChannelWalk(RowStages p)
        : channel(blockIdx.x * p.lanes + threadIdx.x / 32), end(min((int)(blockIdx.x + 1) * p.lanes, p.c)) {}
    __device__ __forceinline__ bool more() const { return channel < end; }
    __device__ __forceinline__ void next() { channel += 8; }
};
