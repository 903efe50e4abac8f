// Attention maps, L2-normalised per sample (src/ops/attention_map.rs).
//
// layout    x [n, pixels, c]; maps [n, pixels] or [n, c]; channel partial sums [n, pieces, c]
// mapping   spatial: one warp per pixel; channel: 32 channels x 8 pixels of a piece of 64 pixels; normalize and project: one
//           block per sample; bwd: one thread per element
// traffic   fwd 4 bytes per element of x, bwd 8
// order     lanes then butterfly; eight rows of pixels in order, pieces in order
#include "include/reduce.cuh"

struct AttentionParams {
    int n, pixels, c, channel;
    float p;
};

DEV float attention_power(float x, float p) {
    if (p == 2.0f) return x * x;
    x = fabsf(x);
    return p == 1.0f ? x : powf(x, p);
}

DEV float attention_slope(float x, float p) {
    if (p == 2.0f) return x + x;
    if (x == 0.0f) return 0.0f;
    float sign = x > 0.0f ? 1.0f : -1.0f;
    return p == 1.0f ? sign : sign * p * powf(fabsf(x), p - 1.0f);
}

KERNEL attention_map_spatial_f32(const float* __restrict__ x, float* __restrict__ sums, AttentionParams s) {
    int pixel = (blockIdx.x * 256 + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (pixel >= s.n * s.pixels) return;
    const float* v = x + pixel * s.c;
    float q = 0.0f;
    for (int c = lane; c < s.c; c += 32) q += attention_power(v[c], s.p);
    q = warp_sum(q);
    if (lane == 0) sums[pixel] = q;
}

KERNEL attention_map_channel_f32(const float* __restrict__ x, float* __restrict__ sums, AttentionParams s) {
    SMEM(float, rows, [8][32]);
    int sample = blockIdx.x, piece = blockIdx.y, c = blockIdx.z * 32 + threadIdx.x;
    float q = 0.0f;
    int end = min(s.pixels, (piece + 1) * 64);
    if (c < s.c) {
        for (int pixel = piece * 64 + threadIdx.y; pixel < end; pixel += 8) {
            q += attention_power(x[(sample * s.pixels + pixel) * s.c + c], s.p);
        }
    }
    rows[threadIdx.y][threadIdx.x] = q;
    __syncthreads();
    if (threadIdx.y == 0 && c < s.c) {
        for (int i = 1; i < 8; ++i) q += rows[i][threadIdx.x];
        sums[(sample * (int)gridDim.y + piece) * s.c + c] = q;
    }
}

// map[i] = sum over pieces of sums, divided by its L2 norm. `sums` may be `map` when there is one piece.
KERNEL attention_map_normalize_f32(const float* sums, float* map, float* __restrict__ norms, int length, int pieces) {
    int sample = blockIdx.x;
    float square = 0.0f;
    for (int i = threadIdx.x; i < length; i += 256) {
        float q = 0.0f;
        for (int piece = 0; piece < pieces; ++piece) q += sums[(sample * pieces + piece) * length + i];
        map[sample * length + i] = q;
        square += q * q;
    }
    float norm = sqrtf(block_sum<256>(square));
    if (threadIdx.x == 0) norms[sample] = norm;
    float inverse = 1.0f / fmaxf(norm, 1e-12f);
    for (int i = threadIdx.x; i < length; i += 256) map[sample * length + i] *= inverse;
}

KERNEL attention_map_project_f32(const float* __restrict__ map, const float* __restrict__ norms,
                                 const float* __restrict__ g, float* __restrict__ dq, int length) {
    int first = blockIdx.x * length;
    float along = 0.0f;
    for (int i = threadIdx.x; i < length; i += 256) along += map[first + i] * g[first + i];
    along = block_sum<256>(along);
    float norm = norms[blockIdx.x];
    for (int i = threadIdx.x; i < length; i += 256) {
        dq[first + i] = norm <= 1e-12f ? 0.0f : (g[first + i] - map[first + i] * along) / norm;
    }
}

KERNEL attention_map_bwd_f32(const float* __restrict__ x, const float* __restrict__ dq, float* __restrict__ dx,
                             AttentionParams s) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= s.n * s.pixels * s.c) return;
    int at = s.channel ? i / (s.pixels * s.c) * s.c + i % s.c : i / s.c;
    dx[i] = attention_slope(x[i], s.p) * dq[at];
}
