// Cross entropy and distillation KL of logits [n, c], weighted, in one launch (src/ops/logits_loss.rs).
//
// mapping   one block of 128 threads per row, the last of which sums the rows
// traffic   logits once from memory (passes after the first find them cached), gradient 4 bytes per element
// precision as loss.cu: rows in f64; the gradients of both losses are added there and rounded once
// order     as loss.cu: thread stride, butterfly, warp order; rows summed by one block
#include "include/loss_rows.cuh"

struct LogitsLossParams {
    double inverse_temperature;
    // Of the cross entropy and the KL: factors on a row's loss, and on its gradient (the term's weight included).
    double share[2], slope[2];
    float weight[2];
    int n, c;
};

// labels, teacher: null where that loss is not there. values: the total, then the value of each loss that is there.
KERNEL logits_loss_f32(const float* __restrict__ logits, const int* __restrict__ labels,
                       const float* __restrict__ teacher, double* row_losses, float* __restrict__ slope,
                       float* __restrict__ values, unsigned* arrivals, LogitsLossParams p) {
    int row = blockIdx.x;
    const float* x = logits + (size_t)row * p.c;
    double* soft_losses = labels ? row_losses + p.n : row_losses;
    int label = -1;
    double top = 0.0, sum = 1.0;
    if (labels) {
        LossParams plain = {1.0, 1.0, 1.0, p.n, p.c};
        label = labels[row];
        bool valid = label >= 0 && label < p.c;
        top = row_max(x, plain);
        sum = row_sum(x, top, plain);
        // A label outside the classes must show: the loss becomes NaN.
        if (threadIdx.x == 0) {
            row_losses[row] = valid ? p.share[0] * (top + log(sum) - (double)x[label]) : (double)NAN;
        }
    }
    const float* t = teacher ? teacher + (size_t)row * p.c : x;
    double s_top = 0.0, s_sum = 1.0, t_top = 0.0, t_sum = 1.0, shift = 0.0;
    if (teacher) {
        LossParams warm = {1.0, 1.0, p.inverse_temperature, p.n, p.c};
        s_top = row_max(x, warm);
        s_sum = row_sum(x, s_top, warm);
        t_top = row_max(t, warm);
        t_sum = row_sum(t, t_top, warm);
        shift = t_top + log(t_sum) - s_top - log(s_sum);
    }
    double loss = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double a = (double)x[i], gradient = 0.0;
        if (labels && slope) {
            gradient = exp(a - top) * (p.slope[0] / sum);
            if (i == label) gradient -= p.slope[0];
        }
        if (teacher) {
            double b = (double)t[i];
            double weight = exp(b * p.inverse_temperature - t_top) / t_sum;
            loss += weight * ((b - a) * p.inverse_temperature - shift);
            if (slope) gradient += p.slope[1] * (exp(a * p.inverse_temperature - s_top) / s_sum - weight);
        }
        if (slope) slope[(size_t)row * p.c + i] = (float)gradient;
    }
    if (teacher) {
        loss = block_sum<128>(loss);
        if (threadIdx.x == 0) soft_losses[row] = p.share[1] * loss;
    }
    if (!last_block(arrivals, gridDim.x)) return;
    // As elementwise_weighted_sum_f32 adds.
    float total = 0.0f;
    float* at = values + 1;
    if (labels) {
        float all = (float)sum_rows(row_losses, p.n);
        total += p.weight[0] * all;
        if (threadIdx.x == 0) *at++ = all;
    }
    if (teacher) {
        float all = (float)sum_rows(soft_losses, p.n);
        total += p.weight[1] * all;
        if (threadIdx.x == 0) *at = all;
    }
    if (threadIdx.x == 0) values[0] = total;
}
