// Nearest upsampling by 2 followed by a 3x3 convolution of pad 1, without the upsampled image (src/ops/conv2d).
//
// Output pixel (2i + a, 2j + b) sees a 2x2 neighbourhood of the small image, with sums of the 3x3 taps: four phase
// convolutions, 16 taps per 4 outputs instead of 36. The four 2x2 filters side by side are one 4x4 filter v[c][t][u][k],
// and
//
//   forward          y  = transpose of the 4x4 convolution with stride 2, pad 1: conv2d_dgrad_*, whose stride classes are
//                    the four phases
//   data gradient    dx = that convolution of dy: conv2d_fprop_*
//   weight gradient  dv = its weight gradient with dy as input and x as output gradient: conv2d_wgrad_*, then collapsed
//
// These two kernels map the filters: v row t holds w rows {2}, {1, 2}, {0, 1}, {0} for t = 0..3, columns alike; so
// dw row 0 = dv rows 2 + 3, row 1 = 1 + 2, row 2 = 0 + 1.
//
// layout    w [k][3][3][c], v [c][4][4][k], f32
// mapping   one thread per element written
// traffic   4 bytes * 25 k c; filters are small
// order     rows, then columns ascending
// tried     -
// measured  not yet measured on a GPU
#include "include/device.cuh"

// v[c][t][u][k] from w.
KERNEL conv2d_upsample_expand_f32(const float* __restrict__ w, float* __restrict__ v, int k, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c * 16 * k) return;
    int ik = i % k, u = i / k % 4, t = i / k / 4 % 4, ic = i / k / 16;
    int r0 = max(2 - t, 0), r1 = min(3 - t, 2), s0 = max(2 - u, 0), s1 = min(3 - u, 2);
    float sum = 0.0f;
    for (int r = r0; r <= r1; r++) {
        for (int s = s0; s <= s1; s++) sum += w[((ik * 3 + r) * 3 + s) * c + ic];
    }
    v[i] = sum;
}

// dw[k][r][s][c] = beta * dw + its sums of dv.
KERNEL conv2d_upsample_collapse_f32(const float* __restrict__ dv, float* __restrict__ dw, int k, int c, float beta) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= k * 9 * c) return;
    int ic = i % c, s = i / c % 3, r = i / c / 3 % 3, ik = i / c / 9;
    float sum = 0.0f;
    for (int t = 2 - r; t <= 3 - r; t++) {
        for (int u = 2 - s; u <= 3 - s; u++) sum += dv[((ic * 4 + t) * 4 + u) * k + ik];
    }
    dw[i] = beta != 0.0f ? beta * dw[i] + sum : sum;
}
