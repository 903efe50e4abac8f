// Features at a cosine distance between two bounds from the mean of their class (src/ops/marginal_distance.rs).
//
// mapping   one block of 128 threads per row; then loss_sum
// traffic   a row and its class's mean once from memory (twice read, cached), gradient 4 bytes per element; all labels
//           once per block, to count the rows whose class has a mean
// precision rows in f64, rounded once
// order     fixed: thread stride, butterfly, warp order; rows summed by one block
#include "include/reduce.cuh"

// slope may be null.
KERNEL marginal_distance_fwd_f32(const float* __restrict__ x, const int* __restrict__ labels,
                                 const float* __restrict__ mean, const float* __restrict__ seen,
                                 double* __restrict__ row_losses, float* __restrict__ slope, float lower, float upper,
                                 int n, int c, int classes) {
    int row = blockIdx.x;
    const float* own = x + (size_t)row * c;
    int label = labels[row];
    bool valid = label >= 0 && label < classes;
    bool counts = valid && seen[label] != 0.0f;
    const float* m = mean + (size_t)(valid ? label : 0) * c;
    double found = 0.0, xx = 0.0, mm = 0.0, xm = 0.0;
    for (int i = threadIdx.x; i < n; i += 128) {
        int l = labels[i];
        found += l >= 0 && l < classes && seen[l] != 0.0f ? 1.0 : 0.0;
    }
    for (int i = threadIdx.x; i < c; i += 128) {
        double a = own[i], b = m[i];
        xx += a * a;
        mm += b * b;
        xm += a * b;
    }
    found = block_sum<128>(found);
    xx = block_sum<128>(xx);
    mm = block_sum<128>(mm);
    xm = block_sum<128>(xm);
    double weight = 1.0 / (found < 1.0 ? 1.0 : found);
    double norms = sqrt(xx) * sqrt(mm);
    bool none = norms <= 1e-12;
    double cosine = none ? 0.0 : xm / norms, d = 1.0 - cosine;
    double pull = none || !counts ? 0.0 : d < lower ? weight : d > upper ? -weight : 0.0;
    if (slope) {
        for (int i = threadIdx.x; i < c; i += 128) {
            double g = pull == 0.0 ? 0.0 : pull * ((double)m[i] / norms - cosine * (double)own[i] / xx);
            slope[(size_t)row * c + i] = (float)g;
        }
    }
    if (threadIdx.x == 0) {
        double under = (double)lower - d, over = d - (double)upper;
        double cost = d != d ? d : weight * ((under > 0.0 ? under : 0.0) + (over > 0.0 ? over : 0.0));
        // A label that is no class must show.
        row_losses[row] = !valid ? (double)NAN : counts ? cost : 0.0;
    }
}
