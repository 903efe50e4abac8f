// Squared distance of batch statistics from stored ones (src/ops/bn_stats_loss.rs).
//
// mapping   fwd one block of 256 threads, bwd one thread per channel
// traffic   fwd 16 bytes per channel; bwd 12 per statistic
// order     fixed: channels of a thread, then block_sum
#include "include/device.cuh"
#include "include/reduce.cuh"

KERNEL bn_stats_loss_fwd_f32(const float* __restrict__ mean, const float* __restrict__ var,
                             const float* __restrict__ target_mean, const float* __restrict__ target_var,
                             float* __restrict__ loss, int c) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < c; i += 256) {
        float a = mean[i] - target_mean[i];
        float b = var[i] - target_var[i];
        sum += a * a + b * b;
    }
    sum = block_sum<256>(sum);
    if (threadIdx.x == 0) loss[0] = sum / (float)c;
}

KERNEL bn_stats_loss_bwd_f32(const float* __restrict__ value, const float* __restrict__ target,
                             const float* __restrict__ dloss, float* __restrict__ d, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < c) d[i] = dloss[0] * (2.0f / (float)c) * (value[i] - target[i]);
}
