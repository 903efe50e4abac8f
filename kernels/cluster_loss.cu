// Distance of statistics per sample from the centres of the samples' classes (src/ops/cluster_loss.rs).
//
// mapping   one block of 128 threads per sample; then loss_sum
// traffic   16 bytes per statistic pair (24 with jitter), 8 more with gradients
// precision f64, rounded once: the arrays are tiny
// order     fixed: channels of a thread, block_sum, rows by one block
#include "include/reduce.cuh"

struct ClusterParams {
    double weight;
    int c, classes;
};

// jitter and slopes may be null.
KERNEL cluster_loss_fwd_f32(const float* __restrict__ mean, const float* __restrict__ var,
                            const int* __restrict__ labels, const float* __restrict__ centre_mean,
                            const float* __restrict__ centre_var, const float* __restrict__ seen,
                            const float* __restrict__ jitter_mean, const float* __restrict__ jitter_var,
                            double* __restrict__ row_losses, float* __restrict__ mean_slope,
                            float* __restrict__ var_slope, ClusterParams p) {
    int row = blockIdx.x;
    int label = labels[row];
    bool valid = label >= 0 && label < p.classes;
    double weight = valid && seen[label] != 0.0f ? p.weight : 0.0;
    const size_t from = (size_t)(valid ? label : 0) * p.c;
    double loss = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        size_t at = (size_t)row * p.c + i;
        double a = 0.0, b = 0.0;
        // A class never seen has no centre: its memory is not looked at.
        if (weight != 0.0) {
            a = (double)mean[at] - (double)centre_mean[from + i] - (jitter_mean ? (double)jitter_mean[at] : 0.0);
            b = (double)var[at] - (double)centre_var[from + i] - (jitter_var ? (double)jitter_var[at] : 0.0);
        }
        loss += weight * (a * a + b * b);
        if (mean_slope) mean_slope[at] = (float)(2.0 * weight * a);
        if (var_slope) var_slope[at] = (float)(2.0 * weight * b);
    }
    loss = block_sum<128>(loss);
    // A label outside the classes must show.
    if (threadIdx.x == 0) row_losses[row] = valid ? loss : (double)NAN;
}
