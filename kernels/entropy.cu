// Entropies of softmax rows (src/ops/entropy.rs).
//
// mapping   rows and slope one block of 128 threads per row; mean and margin one block of 256
// traffic   logits twice from memory, gradient 4 bytes per element
// precision f64, rounded once
// order     fixed: thread stride, butterfly, warp order
#include "include/reduce.cuh"

struct EntropyParams {
    double inverse_temperature, low, high, most;  // most: the largest entropy, log c
    int n, c;
};

// stats: [n][3] = entropy, largest x / T, log of the sum of exp(x / T - largest)
KERNEL entropy_rows_f32(const float* __restrict__ logits, double* __restrict__ stats, EntropyParams p) {
    int row = blockIdx.x;
    const float* x = logits + (size_t)row * p.c;
    double top = -1.0e300;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double v = (double)x[i] * p.inverse_temperature;
        top = top > v ? top : v;
    }
    top = block_max<128>(top);
    double sum = 0.0, dot = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double v = (double)x[i] * p.inverse_temperature - top;
        double e = exp(v);
        sum += e;
        dot += e * v;
    }
    sum = block_sum<128>(sum);
    dot = block_sum<128>(dot);
    if (threadIdx.x == 0) {
        stats[3 * row] = log(sum) - dot / sum;
        stats[3 * row + 1] = top;
        stats[3 * row + 2] = log(sum);
    }
}

// pull: [n], the loss's gradient to each entropy
KERNEL entropy_mean_f32(const double* __restrict__ stats, float* __restrict__ loss, double* __restrict__ pull,
                        EntropyParams p) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < p.n; i += 256) {
        sum += stats[3 * i];
        pull[i] = 1.0 / p.n;
    }
    sum = block_sum<256>(sum);
    if (threadIdx.x == 0) loss[0] = (float)(sum / p.n);
}

KERNEL entropy_margin_f32(const double* __restrict__ stats, float* __restrict__ loss, double* __restrict__ pull,
                          EntropyParams p) {
    double least = 1.0e300;
    for (int i = threadIdx.x; i < p.n; i += 256) least = least < stats[3 * i] ? least : stats[3 * i];
    least = block_min<256>(least);
    int first = p.n;
    for (int i = threadIdx.x; i < p.n; i += 256) {
        if (stats[3 * i] == least && i < first) first = i;
    }
    first = block_min<256>(first);
    double range = p.most - least;
    bool flat = !(range > 1.0e-9);
    double sum = 0.0, on_least = 0.0;
    for (int i = threadIdx.x; i < p.n; i += 256) {
        double share = flat ? 1.0 : (stats[3 * i] - least) / range;
        double side = share < p.low ? -1.0 : share > p.high ? 1.0 : 0.0;
        sum += side < 0.0 ? p.low - share : side > 0.0 ? share - p.high : 0.0;
        double g = flat ? 0.0 : side / (range * p.n);
        pull[i] = g;
        on_least += g * (share - 1.0);
    }
    sum = block_sum<256>(sum);
    on_least = block_sum<256>(on_least);
    // The thread that wrote pull[first].
    if (first % 256 == (int)threadIdx.x && first < p.n) pull[first] += on_least;
    if (threadIdx.x == 0) loss[0] = (float)(sum / p.n);
}

KERNEL entropy_slope_f32(const float* __restrict__ logits, const double* __restrict__ stats,
                         const double* __restrict__ pull, float* __restrict__ slope, EntropyParams p) {
    int row = blockIdx.x;
    double entropy = stats[3 * row], shift = stats[3 * row + 1] + stats[3 * row + 2];
    double scale = -pull[row] * p.inverse_temperature;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        size_t at = (size_t)row * p.c + i;
        double log_p = (double)logits[at] * p.inverse_temperature - shift;
        slope[at] = (float)(scale * exp(log_p) * (log_p + entropy));
    }
}
