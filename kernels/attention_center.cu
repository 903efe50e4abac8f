// Centre of attention (src/ops/attention_center.rs); the sums over channels and the slopes: attention_map.cu.
//
// layout    sums, dq [n, h * w]; center, g [n, 2], from the top and from the left
// mapping   fwd: one block per image; bwd: one thread per pixel
// traffic   4 bytes per pixel, next to nothing
// order     pixels of a thread, butterfly, warps
#include "include/reduce.cuh"

// Pixel centres, in 0..1.
DEV float center_position(int i, int length) { return ((float)i + 0.5f) / (float)length; }

KERNEL attention_center_fwd_f32(const float* __restrict__ sums, float* __restrict__ center, float* __restrict__ totals,
                                int h, int w) {
    const float* q = sums + blockIdx.x * h * w;
    float total = 0.0f, u = 0.0f, v = 0.0f;
    for (int i = threadIdx.x; i < h * w; i += 256) {
        total += q[i];
        u += q[i] * center_position(i / w, h);
        v += q[i] * center_position(i % w, w);
    }
    total = block_sum<256>(total);
    u = block_sum<256>(u);
    v = block_sum<256>(v);
    if (threadIdx.x == 0) {
        bool middle = total <= 1e-12f;
        center[blockIdx.x * 2] = middle ? 0.5f : u / total;
        center[blockIdx.x * 2 + 1] = middle ? 0.5f : v / total;
        totals[blockIdx.x] = total;
    }
}

struct CenterSizes {
    int n, h, w;
};

KERNEL attention_center_bwd_f32(const float* __restrict__ center, const float* __restrict__ totals,
                                const float* __restrict__ g, float* __restrict__ dq, CenterSizes s) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= s.n * s.h * s.w) return;
    int n = i / s.w / s.h;
    float u = center_position(i / s.w % s.h, s.h) - center[n * 2];
    float v = center_position(i % s.w, s.w) - center[n * 2 + 1];
    dq[i] = totals[n] <= 1e-12f ? 0.0f : (u * g[n * 2] + v * g[n * 2 + 1]) / totals[n];
}
