// Statistics before a batch normalization from those behind it (src/ops/tune_stats.rs).
//
// layout    vectors [k]
// mapping   one thread per channel
// traffic   fwd 32 bytes per channel; bwd 24
#include "include/device.cuh"

// Below this scale a channel's output says nothing of its input.
constexpr float DEAD = 1e-6f;

// gamma and beta may be null: 1 and 0.
KERNEL tune_stats_fwd_f32(const float* __restrict__ gamma, const float* __restrict__ beta,
                          const float* __restrict__ mean, const float* __restrict__ var,
                          const float* __restrict__ y_mean, const float* __restrict__ y_var,
                          float* __restrict__ z_mean, float* __restrict__ z_var, int k, float eps) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= k) return;
    float s = (gamma ? gamma[i] : 1.0f) / sqrtf(var[i] + eps);
    bool dead = fabsf(s) < DEAD;
    z_mean[i] = dead ? mean[i] : mean[i] + (y_mean[i] - (beta ? beta[i] : 0.0f)) / s;
    z_var[i] = dead ? var[i] : y_var[i] / (s * s);
}

// dz_mean or dz_var may be null: nothing flows back to that output.
KERNEL tune_stats_bwd_f32(const float* __restrict__ gamma, const float* __restrict__ var,
                          const float* __restrict__ dz_mean, const float* __restrict__ dz_var,
                          float* __restrict__ dy_mean, float* __restrict__ dy_var, int k, float eps) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= k) return;
    float s = (gamma ? gamma[i] : 1.0f) / sqrtf(var[i] + eps);
    bool dead = fabsf(s) < DEAD;
    dy_mean[i] = dead || !dz_mean ? 0.0f : dz_mean[i] / s;
    dy_var[i] = dead || !dz_var ? 0.0f : dz_var[i] / (s * s);
}
