// Weighted, focal cross entropy over logits [n, c] and the gate on difficulty (src/ops/gated_cross_entropy.rs).
//
// mapping   one block of 128 threads per row; then loss_sum
// traffic   logits once from memory (three passes, cached), gradient 4 bytes per element
// precision rows in f64, rounded once
// order     fixed: thread stride, butterfly, warp order; rows summed by one block
#include "include/reduce.cuh"

struct GatedParams {
    double weight, gamma;
    int c, stop;  // stop: the focal factor is a constant
};

struct Row {
    double top, sum, others;  // largest logit, sum of exp(x - top), the same without the label's
};

DEV Row row_sums(const float* __restrict__ x, int label, int c) {
    double m = -1.0e300;
    for (int i = threadIdx.x; i < c; i += 128) m = m > (double)x[i] ? m : (double)x[i];
    Row r;
    r.top = block_max<128>(m);
    double others = 0.0;
    for (int i = threadIdx.x; i < c; i += 128) {
        if (i != label) others += exp((double)x[i] - r.top);
    }
    r.others = block_sum<128>(others);
    r.sum = r.others + exp((double)x[label] - r.top);
    return r;
}

// weights and slope may be null.
KERNEL gated_cross_entropy_fwd_f32(const float* __restrict__ logits, const int* __restrict__ labels,
                                   const float* __restrict__ weights, double* __restrict__ row_losses,
                                   float* __restrict__ slope, GatedParams p) {
    int row = blockIdx.x;
    const float* x = logits + (size_t)row * p.c;
    int label = labels[row];
    bool valid = label >= 0 && label < p.c;
    double weight = p.weight * (weights ? (double)weights[row] : 1.0);
    Row r = row_sums(x, valid ? label : 0, p.c);
    double difficulty = r.others / r.sum;
    // -log p, without cancellation where p is near 1
    double loss = difficulty < 0.5 ? -log1p(-difficulty) : r.top + log(r.sum) - (double)x[valid ? label : 0];
    double factor = p.gamma == 0.0 ? 1.0 : pow(difficulty, p.gamma);
    // -dL/d(log p): from the cross entropy, and from the factor (where difficulty -> 0, loss / difficulty -> 1)
    double pull = factor;
    if (!p.stop && p.gamma != 0.0) {
        double ratio = difficulty > 1.0e-12 ? loss / difficulty : 1.0;
        pull += p.gamma * (1.0 - difficulty) * factor * ratio;
    }
    if (slope) {
        double scale = valid ? weight * pull : 0.0;
        for (int i = threadIdx.x; i < p.c; i += 128) {
            double g = i == label ? -difficulty : exp((double)x[i] - r.top) / r.sum;
            slope[(size_t)row * p.c + i] = (float)(scale * g);
        }
    }
    // A label outside the classes must show.
    if (threadIdx.x == 0) row_losses[row] = valid ? weight * factor * loss : (double)NAN;
}

KERNEL gated_cross_entropy_difficulty_f32(const float* __restrict__ logits, const int* __restrict__ labels,
                                          float* __restrict__ out, int c, int gate, float threshold) {
    int row = blockIdx.x;
    int label = labels[row];
    bool valid = label >= 0 && label < c;
    Row r = row_sums(logits + (size_t)row * c, valid ? label : 0, c);
    float difficulty = valid ? (float)(r.others / r.sum) : NAN;
    if (threadIdx.x == 0) out[row] = gate ? (difficulty < threshold ? 1.0f : 0.0f) : difficulty;
}
