// Correlation between the samples of a batch (src/ops/correlation_inhibition.rs).
//
// mapping   gram one block of 128 threads per pair; rows one block of 128 per sample, then loss_sum; bwd one thread per
//           element, which walks the samples
// traffic   gram n^2 rows, from cache for batches of small images; bwd likewise n reads per element
// precision products and their sums in f64
// order     fixed: thread stride, block_sum, samples ascending
#include "include/reduce.cuh"

struct CorrelationParams {
    double weight, slope;
    int n, d;
};

// gram: [n][n]
KERNEL correlation_inhibition_gram_f32(const float* __restrict__ x, double* __restrict__ gram, int n, int d) {
    int i = blockIdx.x, j = blockIdx.y;
    if (j < i) return;
    const float* a = x + (size_t)i * d;
    const float* b = x + (size_t)j * d;
    double sum = 0.0;
    for (int e = threadIdx.x; e < d; e += 128) sum += (double)a[e] * (double)b[e];
    sum = block_sum<128>(sum);
    if (threadIdx.x == 0) {
        gram[i * n + j] = sum;
        gram[j * n + i] = sum;
    }
}

DEV double cosine(const double* __restrict__ gram, int i, int j, int n) {
    double lengths = sqrt(gram[i * n + i]) * sqrt(gram[j * n + j]);
    return lengths > 1.0e-20 ? gram[i * n + j] / lengths : 0.0;
}

// mix: [n][n], the gradient to sample i is the sum over j of mix[i][j] x_j. reference (another batch's gram) may be null.
KERNEL correlation_inhibition_rows_f32(const double* __restrict__ gram, const double* __restrict__ reference,
                                       double* __restrict__ row_losses, float* __restrict__ mix, CorrelationParams p) {
    int i = blockIdx.x, n = p.n;
    double own = gram[i * n + i];
    double loss = 0.0, along = 0.0;
    for (int j = threadIdx.x; j < n; j += 128) {
        if (j == i) continue;
        double s = cosine(gram, i, j, n);
        double d = s - (reference ? cosine(reference, i, j, n) : 0.0);
        double lengths = sqrt(own) * sqrt(gram[j * n + j]);
        loss += d * d;
        along += d * s;
        mix[i * n + j] = lengths > 1.0e-20 ? (float)(p.slope * d / lengths) : 0.0f;
    }
    loss = block_sum<128>(loss);
    along = block_sum<128>(along);
    if (threadIdx.x == 0) {
        row_losses[i] = p.weight * loss;
        mix[i * n + i] = own > 1.0e-20 ? (float)(-p.slope * along / own) : 0.0f;
    }
}

KERNEL correlation_inhibition_bwd_f32(const float* __restrict__ x, const float* __restrict__ mix,
                                      const float* __restrict__ dy, float* __restrict__ dx, int n, int d) {
    int e = blockIdx.x * blockDim.x + threadIdx.x;
    if (e >= d) return;
    int i = blockIdx.y;
    double sum = 0.0;
    for (int j = 0; j < n; j++) sum += (double)mix[i * n + j] * (double)x[(size_t)j * d + e];
    dx[(size_t)i * d + e] = (float)(sum * (double)dy[0]);
}
