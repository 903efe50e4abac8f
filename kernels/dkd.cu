// Decoupled knowledge distillation over logits [n, c] (src/ops/dkd.rs).
//
// mapping   one block of 128 threads per row; then loss_sum
// traffic   both logits once from memory (several passes, cached), gradient 4 bytes per element
// precision rows in f64, rounded once: differences of logarithms cancel
// order     fixed: thread stride, butterfly, warp order; rows summed by one block
#include "include/reduce.cuh"

struct DkdParams {
    double target_weight, other_weight;  // on a row's two losses
    double inverse_temperature;
    int n, c;
};

// log(exp(a) + exp(b))
DEV double log_add(double a, double b) {
    double top = a > b ? a : b, low = a > b ? b : a;
    return top + log1p(exp(low - top));
}

// log of the sum of exp over the other classes.
DEV double log_sum_others(const float* __restrict__ x, int label, DkdParams p) {
    double top = -1.0e300;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double v = (double)x[i] * p.inverse_temperature;
        if (i != label && v > top) top = v;
    }
    top = block_max<128>(top);
    double sum = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        if (i != label) sum += exp((double)x[i] * p.inverse_temperature - top);
    }
    return top + log(block_sum<128>(sum));
}

KERNEL dkd_fwd_f32(const float* __restrict__ student, const float* __restrict__ teacher,
                   const int* __restrict__ labels, double* __restrict__ row_losses, float* __restrict__ slope,
                   DkdParams p) {
    int row = blockIdx.x;
    const float* s = student + (size_t)row * p.c;
    const float* t = teacher + (size_t)row * p.c;
    int label = labels[row];
    bool valid = label >= 0 && label < p.c;
    // One class has no others, and an invalid label no meaning (it must show): both gradients are zero.
    if (!valid || p.c == 1) {
        if (slope) {
            for (int i = threadIdx.x; i < p.c; i += 128) slope[(size_t)row * p.c + i] = 0.0f;
        }
        if (threadIdx.x == 0) row_losses[row] = valid ? 0.0 : (double)NAN;
        return;
    }
    double s_others = log_sum_others(s, label, p), t_others = log_sum_others(t, label, p);
    double s_target = (double)s[label] * p.inverse_temperature, t_target = (double)t[label] * p.inverse_temperature;
    double s_all = log_add(s_target, s_others), t_all = log_add(t_target, t_others);
    double pt = exp(t_target - t_all), qt = exp(s_target - s_all);
    double target = pt * ((t_target - t_all) - (s_target - s_all)) +
                    exp(t_others - t_all) * ((t_others - t_all) - (s_others - s_all));
    double other = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double g;
        if (i == label) {
            g = p.target_weight * (qt - pt);
        } else {
            double log_q = (double)s[i] * p.inverse_temperature - s_others;
            double log_p = (double)t[i] * p.inverse_temperature - t_others;
            double q = exp(log_q), w = exp(log_p);
            other += w * (log_p - log_q);
            g = p.other_weight * (q - w) - p.target_weight * (qt - pt) * q;
        }
        if (slope) slope[(size_t)row * p.c + i] = (float)(g * p.inverse_temperature);
    }
    other = block_sum<128>(other);
    if (threadIdx.x == 0) row_losses[row] = p.target_weight * target + p.other_weight * other;
}
