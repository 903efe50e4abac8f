// Optimizer steps over flat buffers (src/optim/sgd.rs, adam.rs).
//
// mapping   four parameters per thread
// traffic   SGD 20 bytes per parameter, Adam 28
// order     no reductions
#include "include/last_block.cuh"
#include "include/quads.cuh"

struct SgdSettings {
    float lr, momentum, weight_decay;
    int nesterov, n;
};

// `rate`, if not null, is what the rate of the settings is multiplied by: so it may change under a recorded launch.
KERNEL optim_sgd_f32(float* __restrict__ params, const float* __restrict__ grads, float* __restrict__ buffer,
                     const float* __restrict__ rate, SgdSettings s) {
    float lr = rate ? __fmul_rn(*rate, s.lr) : s.lr;
    quads_update(params, grads, buffer, s.n, [=](float& p, float grad, float& m) {
        float g = grad + s.weight_decay * p;
        m = s.momentum * m + g;
        p -= lr * (s.nesterov ? g + s.momentum * m : m);
    });
}

// What the step above would subtract.
KERNEL optim_sgd_next_f32(const float* __restrict__ params, const float* __restrict__ grads,
                          const float* __restrict__ buffer, float* __restrict__ step, SgdSettings s) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= s.n) return;
    float g = grads[i] + s.weight_decay * params[i];
    float m = s.momentum * buffer[i] + g;
    step[i] = s.lr * (s.nesterov ? g + s.momentum * m : m);
}

struct AdamSettings {
    double beta1, beta2;
    float lr, epsilon, weight_decay;
    int n;
};

// Every block forms the bias corrections 1 / (1 - beta1^t), 1 / sqrt(1 - beta2^t) of the step under way; the last one counts it.
KERNEL optim_adam_f32(float* __restrict__ params, const float* __restrict__ grads, float* __restrict__ ms,
                      float* __restrict__ vs, int* step, const float* __restrict__ rate, unsigned* arrivals,
                      AdamSettings s) {
    SMEM(float, corrections, [2]);
    int t = step[0] + 1;
    // By two warps, side by side.
    if (threadIdx.x == 0) corrections[0] = (float)(1.0 / (1.0 - pow(s.beta1, (double)t)));
    if (threadIdx.x == 32) corrections[1] = (float)(1.0 / sqrt(1.0 - pow(s.beta2, (double)t)));
    __syncthreads();
    float lr = rate ? __fmul_rn(*rate, s.lr) : s.lr;
    float first = corrections[0], second = corrections[1];
    quads_update(params, grads, ms, vs, s.n, [=](float& p, float grad, float& m, float& v) {
        float g = grad + s.weight_decay * p;
        m += (float)(1.0 - s.beta1) * (g - m);
        v = (float)s.beta2 * v + (float)(1.0 - s.beta2) * g * g;
        p -= lr * first * m / (sqrtf(v) * second + s.epsilon);
    });
    if (last_block(arrivals, gridDim.x) && threadIdx.x == 0) step[0] = t;
}
