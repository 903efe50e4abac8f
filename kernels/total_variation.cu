// Total variation of a batch of images (src/ops/total_variation.rs).
//
// mapping   fwd one block of 256 threads per CHUNK elements, then one block over the chunks; bwd one thread per element
// traffic   fwd 4 bytes per element (neighbours from cache), bwd 8
// precision differences in f32, sums in f64
// order     fixed: thread stride, block_sum, then thread stride over the chunks and block_sum
#include "include/reduce.cuh"

struct TotalVariationParams {
    int size, h, w, c;
};

constexpr int CHUNK = 16384;

// Neighbour o = 0..3 of a pixel: right, below, below left, below right. Its distance in elements, or 0 at the edge.
DEV int neighbour(int o, int i, int j, TotalVariationParams p, int sign) {
    int down = o == 0 ? 0 : sign;
    int right = (o == 0 || o == 3 ? 1 : (o == 1 ? 0 : -1)) * sign;
    bool inside = i + down >= 0 && i + down < p.h && j + right >= 0 && j + right < p.w;
    return inside ? (down * p.w + right) * p.c : 0;
}

// partial: [chunks][4].
KERNEL total_variation_fwd_f32(const float* __restrict__ x, double* __restrict__ partial, TotalVariationParams p) {
    int begin = blockIdx.x * CHUNK;
    int end = min(begin + CHUNK, p.size);
    double sums[4] = {0.0, 0.0, 0.0, 0.0};
    for (int at = begin + threadIdx.x; at < end; at += 256) {
        int pixel = at / p.c;
        int j = pixel % p.w, i = pixel / p.w % p.h;
#pragma unroll
        for (int o = 0; o < 4; o++) {
            int step = neighbour(o, i, j, p, 1);
            double d = step ? (double)(x[at] - x[at + step]) : 0.0;
            sums[o] += d * d;
        }
    }
#pragma unroll
    for (int o = 0; o < 4; o++) {
        double all = block_sum<256>(sums[o]);
        if (threadIdx.x == 0) partial[4 * blockIdx.x + o] = all;
    }
}

KERNEL total_variation_finish_f32(const double* __restrict__ partial, float* __restrict__ norms,
                                  float* __restrict__ loss, int chunks) {
    double total = 0.0;
#pragma unroll
    for (int o = 0; o < 4; o++) {
        double sum = 0.0;
        for (int i = threadIdx.x; i < chunks; i += 256) sum += partial[4 * i + o];
        sum = sqrt(block_sum<256>(sum));
        if (threadIdx.x == 0) norms[o] = (float)sum;
        total += sum;
    }
    if (threadIdx.x == 0) loss[0] = (float)total;
}

KERNEL total_variation_bwd_f32(const float* __restrict__ x, const float* __restrict__ norms,
                               const float* __restrict__ dy, float* __restrict__ dx, TotalVariationParams p) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= p.size) return;
    int pixel = at / p.c;
    int j = pixel % p.w, i = pixel / p.w % p.h;
    float v = x[at], g = 0.0f;
#pragma unroll
    for (int o = 0; o < 4; o++) {
        float slope = norms[o] > 0.0f ? dy[0] / norms[o] : 0.0f;
        int ahead = neighbour(o, i, j, p, 1), behind = neighbour(o, i, j, p, -1);
        if (ahead) g += slope * (v - x[at + ahead]);
        if (behind) g += slope * (v - x[at + behind]);
    }
    dx[at] = g;
}
