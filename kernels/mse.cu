// Squared distance of two tensors (src/ops/mse.rs).
//
// mapping   fwd one block of 256 threads per CHUNK elements, then loss_sum; bwd one thread per element
// traffic   fwd 8 bytes per element; bwd 8 and 4 per gradient
// precision differences and squares in f32, the 64 squares of a thread too; blocks in f64
// order     fixed: thread stride, block_sum, then one block over the chunks
#include "include/reduce.cuh"

constexpr int CHUNK = 16384;

// What a difference counts beyond the slack.
DEV float beyond(float d, float slack) { return d - fmaxf(fminf(d, slack), -slack); }

KERNEL mse_fwd_f32(const float* __restrict__ a, const float* __restrict__ b, double* __restrict__ sums, int n,
                   float slack, double weight) {
    int begin = blockIdx.x * CHUNK;
    int end = min(begin + CHUNK, n);
    float sum = 0.0f;
    for (int i = begin + threadIdx.x; i < end; i += 256) {
        float d = beyond(a[i] - b[i], slack);
        sum += d * d;
    }
    double all = block_sum<256>((double)sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = all * weight;
}

// da or db may be null: not wanted.
KERNEL mse_bwd_f32(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ dy,
                   float* __restrict__ da, float* __restrict__ db, int n, float slack, float slope) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float g = dy[0] * slope * beyond(a[i] - b[i], slack);
    if (da) da[i] = g;
    if (db) db[i] = -g;
}
