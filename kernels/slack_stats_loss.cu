// Distance of statistics from stored ones beyond a margin (src/ops/slack_stats_loss.rs).
//
// mapping   one block of 128 threads per row of statistics; then loss_sum
// traffic   16 bytes per statistic pair, 8 more with gradients
// precision f64, rounded once: the arrays are tiny
// order     fixed: channels of a thread, block_sum, rows by one block
#include "include/reduce.cuh"

struct SlackParams {
    double weight, mean_margin, spread_margin, epsilon;
    int c, released, doubled, unused;
};

// How far |d| lies beyond the margin (released: also how far below, as a negative number).
DEV double beyond(double d, double margin, int released) {
    double gap = (d < 0.0 ? -d : d) - margin;
    return released || gap > 0.0 ? gap : 0.0;
}

DEV double sign(double d) { return d > 0.0 ? 1.0 : d < 0.0 ? -1.0 : 0.0; }

// weights and slopes may be null.
KERNEL slack_stats_loss_fwd_f32(const float* __restrict__ mean, const float* __restrict__ var,
                                const float* __restrict__ target_mean, const float* __restrict__ target_var,
                                const float* __restrict__ weights, double* __restrict__ row_losses,
                                float* __restrict__ mean_slope, float* __restrict__ var_slope, SlackParams p) {
    int row = blockIdx.x;
    double row_weight = p.weight * (weights ? (double)weights[row] : 1.0);
    double loss = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        size_t at = (size_t)row * p.c + i;
        double weight = i == p.doubled ? 2.0 * row_weight : row_weight;
        double dm = (double)mean[at] - (double)target_mean[i];
        double a = beyond(dm, p.mean_margin, p.released);
        double v = (double)var[at], tv = (double)target_var[i];
        double s = sqrt(v + p.epsilon);
        double ds = p.released ? v - tv : s - sqrt(tv + p.epsilon);
        double b = beyond(ds, p.spread_margin, p.released);
        loss += weight * (a * a + b * b);
        if (mean_slope) mean_slope[at] = (float)(2.0 * weight * a * sign(dm));
        if (var_slope) var_slope[at] = (float)(2.0 * weight * b * sign(ds) * (p.released ? 1.0 : 0.5 / s));
    }
    loss = block_sum<128>(loss);
    if (threadIdx.x == 0) row_losses[row] = loss;
}
