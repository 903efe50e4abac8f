// Statistics before a batch normalization from those behind it, of many layers (src/ops/tune_stats.rs).
//
// layout    vectors [k], a table of layers by value
// mapping   one thread per channel, blockIdx.y is the layer
// traffic   fwd 32 bytes per channel; bwd 24
#include "include/device.cuh"

// Below this scale a channel's output says nothing of its input.
constexpr float DEAD = 1e-6f;

// Mirrors Row of src/ops/tune_stats.rs: gamma and beta may be null (1 and 0), so may what flows back to an output.
struct Layer {
    const float *gamma, *beta, *mean, *var, *from_mean, *from_var;
    float *to_mean, *to_var;
    int k;
    float eps;
};
struct Layers {
    Layer of[32];
};

DEV float scale_of(const Layer& l, int i) { return (l.gamma ? l.gamma[i] : 1.0f) / sqrtf(l.var[i] + l.eps); }

KERNEL tune_stats_fwd_f32(Layers layers) {
    const Layer& l = layers.of[blockIdx.y];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= l.k) return;
    float s = scale_of(l, i);
    bool dead = fabsf(s) < DEAD;
    l.to_mean[i] = dead ? l.mean[i] : l.mean[i] + (l.from_mean[i] - (l.beta ? l.beta[i] : 0.0f)) / s;
    l.to_var[i] = dead ? l.var[i] : l.from_var[i] / (s * s);
}

KERNEL tune_stats_bwd_f32(Layers layers) {
    const Layer& l = layers.of[blockIdx.y];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= l.k) return;
    float s = scale_of(l, i);
    bool dead = fabsf(s) < DEAD;
    l.to_mean[i] = dead || !l.from_mean ? 0.0f : l.from_mean[i] / s;
    l.to_var[i] = dead || !l.from_var ? 0.0f : l.from_var[i] / (s * s);
}
