// Channels picked by number (src/ops/gather_channels.rs). Backward is the same with the channels of dy that read each channel of x.
//
// mapping   range: one thread per element written; fwd: up to eight elements per thread, the block's sources in shared memory
// traffic   8 bytes per element (2 of codes), 4 more where it adds
// order     one launch per repeat, in ascending order
#include "include/device.cuh"

// `width` of `c` channels from `first` on.
struct Range {
    int rows, c, first, width;
};

template <typename T>
DEV void copy_range(const T* x, T* y, Range p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.rows * p.width) y[i] = x[i / p.width * p.c + p.first + i % p.width];
}

KERNEL gather_channels_range_f32(const float* __restrict__ x, float* __restrict__ y, Range p) { copy_range(x, y, p); }
KERNEL gather_channels_range_i8(const int8_t* __restrict__ x, int8_t* __restrict__ y, Range p) { copy_range(x, y, p); }

KERNEL gather_channels_range_bwd_f32(const float* __restrict__ dy, float* __restrict__ dx, Range p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.rows * p.c) return;
    int j = i % p.c - p.first;
    dx[i] = j >= 0 && j < p.width ? dy[i / p.c * p.width + j] : 0.0f;
}

// Writes channels first..first + count of c_out, or adds to them. source: a channel of the c_in of x, or -1 for zero.
struct Picked {
    int rows, c_in, c_out, first, count, accumulate;
    int source[512];
};

template <typename T>
DEV void pick(const T* x, T* y, const Picked& p) {
    SMEM(int, source, [512]);
    for (int j = threadIdx.x; j < p.count; j += blockDim.x) source[j] = p.source[j];
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < p.rows * p.count; i += gridDim.x * blockDim.x) {
        int row = i / p.count, from = source[i % p.count];
        T v = from < 0 ? (T)0 : x[row * p.c_in + from];
        T* to = y + row * p.c_out + p.first + i % p.count;
        if (!p.accumulate) *to = v;
        else if (from >= 0) *to += v;
    }
}

KERNEL gather_channels_fwd_f32(const float* __restrict__ x, float* __restrict__ y, Picked p) { pick(x, y, p); }
KERNEL gather_channels_fwd_i8(const int8_t* __restrict__ x, int8_t* __restrict__ y, Picked p) { pick(x, y, p); }
