// Squared distance of the label's probability from a target (src/ops/soft_label.rs).
//
// mapping   one block of 128 threads per row; then loss_sum
// traffic   logits once from memory (three passes, cached), gradient 4 bytes per element
// precision rows in f64, rounded once
// order     fixed: thread stride, butterfly, warp order; rows summed by one block
#include "include/reduce.cuh"

// slope may be null.
KERNEL soft_label_fwd_f32(const float* __restrict__ logits, const int* __restrict__ labels,
                          const float* __restrict__ targets, double* __restrict__ row_losses,
                          float* __restrict__ slope, double weight, int c) {
    int row = blockIdx.x;
    const float* x = logits + (size_t)row * c;
    int label = labels[row];
    bool valid = label >= 0 && label < c;
    double m = -1.0e300;
    for (int i = threadIdx.x; i < c; i += 128) m = m > (double)x[i] ? m : (double)x[i];
    double top = block_max<128>(m), others = 0.0;
    for (int i = threadIdx.x; i < c; i += 128) {
        if (i != label) others += exp((double)x[i] - top);
    }
    others = block_sum<128>(others);
    double own = exp((double)x[valid ? label : 0] - top), sum = others + own;
    double difficulty = others / sum;
    double apart = (1.0 - (double)targets[row]) - difficulty;
    double pull = valid ? 2.0 * weight * apart * (own / sum) : 0.0;
    if (slope) {
        for (int i = threadIdx.x; i < c; i += 128) {
            double g = i == label ? difficulty : -exp((double)x[i] - top) / sum;
            slope[(size_t)row * c + i] = (float)(pull * g);
        }
    }
    // A label outside the classes must show.
    if (threadIdx.x == 0) row_losses[row] = valid ? weight * apart * apart : (double)NAN;
}
