// Squared distance of batch statistics from stored ones, mean over layers (src/ops/bn_stats_loss.rs).
//
// layout    vectors [c], a table of layers by value
// mapping   fwd one block of 256 threads over all layers, bwd one thread per channel, blockIdx.y is the layer
// traffic   fwd 16 bytes per channel; bwd 24
// order     fixed: channels of a thread, layer by layer, then block_sum
#include "include/device.cuh"
#include "include/reduce.cuh"

// Mirrors Row of src/ops/bn_stats_loss.rs: mean, variance. Gradients may be null.
struct Layer {
    const float* values[2];
    const float* targets[2];
    float* gradients[2];
    int c, unused;
};
struct Layers {
    Layer of[32];
};

// share: of one layer in the mean. more: this is not the first launch of a network of many layers.
KERNEL bn_stats_loss_fwd_f32(Layers layers, float* __restrict__ loss, int count, float share, int more) {
    float sum = 0.0f;
    for (int l = 0; l < count; l++) {
        const Layer& layer = layers.of[l];
        float own = 0.0f;
        for (int i = threadIdx.x; i < layer.c; i += 256) {
            float a = layer.values[0][i] - layer.targets[0][i];
            float b = layer.values[1][i] - layer.targets[1][i];
            own += a * a + b * b;
        }
        sum += own / (float)layer.c;
    }
    sum = block_sum<256>(sum) * share;
    if (threadIdx.x == 0) loss[0] = more ? loss[0] + sum : sum;
}

// dloss null: the gradient of the loss is `known`.
KERNEL bn_stats_loss_bwd_f32(Layers layers, const float* __restrict__ dloss, float known, float share) {
    const Layer& layer = layers.of[blockIdx.y];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= layer.c) return;
    float scale = (dloss ? dloss[0] : known) * (2.0f * share / (float)layer.c);
#pragma unroll
    for (int s = 0; s < 2; s++) {
        if (layer.gradients[s]) layer.gradients[s][i] = scale * (layer.values[s][i] - layer.targets[s][i]);
    }
}
