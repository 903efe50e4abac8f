// Softmax cross entropy and distillation KL over logits [n, c] (src/ops/loss.rs).
//
// mapping   one block of 128 threads per row, the last of which sums the rows (include/loss_rows.cuh); loss_sum, for losses elsewhere, one block;
//           loss_scale one thread per element
// traffic   logits once from memory (three passes, cached), gradient 4 bytes per element
// precision rows in f64, rounded once: log p - log q cancels, and the arrays are tiny
// order     fixed: thread stride, butterfly, warp order; rows summed by one block
#include "include/loss_rows.cuh"

KERNEL loss_cross_entropy_f32(const float* __restrict__ logits, const int* __restrict__ labels, double* row_losses,
                              float* __restrict__ slope, float* __restrict__ loss, unsigned* arrivals, LossParams p) {
    int row = blockIdx.x;
    const float* x = logits + (size_t)row * p.c;
    int label = labels[row];
    bool valid = label >= 0 && label < p.c;
    double top = row_max(x, p);
    double sum = row_sum(x, top, p);
    // A label outside the classes must show: the loss becomes NaN.
    if (threadIdx.x == 0) {
        row_losses[row] = valid ? p.weight * (top + log(sum) - (double)x[label]) : (double)NAN;
    }
    for (int i = threadIdx.x; slope != nullptr && i < p.c; i += 128) {
        double q = exp((double)x[i] - top) * (p.slope / sum);
        slope[(size_t)row * p.c + i] = (float)(i == label ? q - p.slope : q);
    }
    if (!last_block(arrivals, gridDim.x)) return;
    double all = sum_rows(row_losses, p.n);
    if (threadIdx.x == 0) loss[0] = (float)all;
}

KERNEL loss_kl_distill_f32(const float* __restrict__ student, const float* __restrict__ teacher, double* row_losses,
                           float* __restrict__ slope, float* __restrict__ total, unsigned* arrivals, LossParams p) {
    int row = blockIdx.x;
    const float* s = student + (size_t)row * p.c;
    const float* t = teacher + (size_t)row * p.c;
    double s_top = row_max(s, p);
    double s_sum = row_sum(s, s_top, p);
    double t_top = row_max(t, p);
    double t_sum = row_sum(t, t_top, p);
    double shift = t_top + log(t_sum) - s_top - log(s_sum);
    double loss = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double a = (double)s[i], b = (double)t[i];
        double weight = exp(b * p.inverse_temperature - t_top) / t_sum;
        loss += weight * ((b - a) * p.inverse_temperature - shift);
        if (slope != nullptr) {
            double q = exp(a * p.inverse_temperature - s_top) / s_sum;
            slope[(size_t)row * p.c + i] = (float)(p.slope * (q - weight));
        }
    }
    loss = block_sum<128>(loss);
    if (threadIdx.x == 0) row_losses[row] = p.weight * loss;
    if (!last_block(arrivals, gridDim.x)) return;
    double all = sum_rows(row_losses, p.n);
    if (threadIdx.x == 0) total[0] = (float)all;
}

KERNEL loss_sum_f32(const double* __restrict__ row_losses, float* __restrict__ loss, int n) {
    double s = 0.0;
    for (int i = threadIdx.x; i < n; i += 256) s += row_losses[i];
    s = block_sum<256>(s);
    if (threadIdx.x == 0) loss[0] = (float)s;
}

// dy null: the gradient of the loss is `known`.
KERNEL loss_scale_f32(const float* __restrict__ slope, const float* __restrict__ dy, float* __restrict__ dx, float known,
                      int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = slope[i] * (dy ? dy[0] : known);
}
