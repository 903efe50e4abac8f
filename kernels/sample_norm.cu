// Mean of the L2 norms of samples (src/ops/sample_norm.rs).
//
// mapping   one block of 256 threads per sample; loss_sum adds the rows
// traffic   4 bytes per element, 8 more with the gradient
// precision sums in f64
// order     fixed: thread stride, block_sum
#include "include/reduce.cuh"

// slope may be null: not wanted.
KERNEL sample_norm_f32(const float* __restrict__ x, double* __restrict__ rows, float* __restrict__ slope, int d,
                       double share) {
    const float* row = x + (size_t)blockIdx.x * d;
    double sum = 0.0;
    for (int i = threadIdx.x; i < d; i += 256) sum += (double)row[i] * (double)row[i];
    double norm = sqrt(block_sum<256>(sum));
    if (threadIdx.x == 0) rows[blockIdx.x] = norm * share;
    if (slope == nullptr) return;
    double factor = norm > 0.0 ? share / norm : 0.0;
    for (int i = threadIdx.x; i < d; i += 256) slope[(size_t)blockIdx.x * d + i] = (float)((double)row[i] * factor);
}
