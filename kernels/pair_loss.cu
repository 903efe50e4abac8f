// Losses on pairs of samples (src/ops/pair_loss.rs).
//
// mapping   one block of 128 threads per pair; then loss_sum
// traffic   features twice from memory (second pass cached), gradient 4 bytes per element
// precision f64, rounded once
// order     fixed: thread stride, block_sum, pairs by one block
#include "include/reduce.cuh"

struct PairParams {
    double weight, epsilon, margin;
    int pairs, c, d, unused;
};

DEV double magnitude(double v) { return v < 0.0 ? -v : v; }

KERNEL pair_loss_mode_seeking_f32(const float* __restrict__ features, const float* __restrict__ z,
                                  double* __restrict__ row_losses, float* __restrict__ slope, PairParams p) {
    int pair = blockIdx.x;
    const size_t a = (size_t)pair * p.c, b = (size_t)(pair + p.pairs) * p.c;
    const float* za = z + (size_t)pair * p.d;
    const float* zb = z + (size_t)(pair + p.pairs) * p.d;
    double far = 0.0, noise = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) far += magnitude((double)features[a + i] - (double)features[b + i]);
    for (int i = threadIdx.x; i < p.d; i += 128) noise += magnitude((double)za[i] - (double)zb[i]);
    far = block_sum<128>(far);
    noise = block_sum<128>(noise) + p.epsilon;
    double ratio = far / noise + p.epsilon;
    if (threadIdx.x == 0) row_losses[pair] = p.weight / ratio;
    if (slope == nullptr) return;
    double g = p.weight / (ratio * ratio * noise);
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double d = (double)features[a + i] - (double)features[b + i];
        double s = d > 0.0 ? -g : d < 0.0 ? g : 0.0;
        slope[a + i] = (float)s;
        slope[b + i] = (float)-s;
    }
}

KERNEL pair_loss_cosine_f32(const float* __restrict__ features, double* __restrict__ row_losses,
                            float* __restrict__ slope, PairParams p) {
    int pair = blockIdx.x;
    const size_t a = (size_t)pair * p.c, b = (size_t)(pair + p.pairs) * p.c;
    double aa = 0.0, bb = 0.0, ab = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double u = features[a + i], v = features[b + i];
        aa += u * u;
        bb += v * v;
        ab += u * v;
    }
    aa = block_sum<128>(aa);
    bb = block_sum<128>(bb);
    ab = block_sum<128>(ab);
    double lengths = sqrt(aa) * sqrt(bb);
    // Features without a direction are orthogonal to all, and are not turned.
    bool some = lengths > p.epsilon;
    double cosine = some ? ab / lengths : 0.0;
    bool active = cosine > p.margin;
    if (threadIdx.x == 0) row_losses[pair] = active ? p.weight * (cosine - p.margin) : 0.0;
    if (slope == nullptr) return;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double u = features[a + i], v = features[b + i];
        slope[a + i] = active && some ? (float)(p.weight * (v / lengths - cosine * u / aa)) : 0.0f;
        slope[b + i] = active && some ? (float)(p.weight * (u / lengths - cosine * v / bb)) : 0.0f;
    }
}
