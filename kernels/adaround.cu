// Learned rounding of weights, and the penalty on open choices (src/ops/adaround).
//
// layout    base, v, y [rows, length]; step, zero [rows]
// mapping   fwd one thread per element; bwd one block of 256 threads per row; penalty one block per CHUNK elements, then
//           loss_sum
// traffic   fwd 12 bytes per element, 8 more while recording; bwd 16; penalty 4 to 8
// precision sums over rows and chunks in f64
// order     fixed: thread stride, block_sum
#include "include/reduce.cuh"

struct AdaRoundParams {
    int rows, length;
    float low, high;
};

constexpr int CHUNK = 4096;

// h(v); its derivative to *slope.
DEV float choice(float v, float* slope) {
    float sigmoid = 1.0f / (1.0f + expf(-v));
    float h = 1.2f * sigmoid - 0.1f;
    bool open = h > 0.0f && h < 1.0f;
    *slope = open ? 1.2f * sigmoid * (1.0f - sigmoid) : 0.0f;
    return h <= 0.0f ? 0.0f : (h >= 1.0f ? 1.0f : h);
}

// level and slope may be null: nothing will be differentiated.
KERNEL adaround_fwd_f32(const float* __restrict__ base, const float* __restrict__ v, const float* __restrict__ step,
                        const float* __restrict__ zero, float* __restrict__ y, float* __restrict__ level,
                        float* __restrict__ slope, AdaRoundParams p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.rows * p.length) return;
    int row = i / p.length;
    float down = base[i], dh;
    float h = choice(v[i], &dh);
    float code = fminf(fmaxf(down + h, p.low), p.high) + zero[row];
    y[i] = code * step[row];
    if (level == nullptr) return;
    level[i] = code;
    slope[i] = down >= p.low && down < p.high ? dh : 0.0f;
}

KERNEL adaround_bwd_f32(const float* __restrict__ level, const float* __restrict__ slope,
                        const float* __restrict__ step, const float* __restrict__ dy, float* __restrict__ dv,
                        float* __restrict__ dstep, AdaRoundParams p) {
    for (int row = blockIdx.x; row < p.rows; row += gridDim.x) {
        double sum = 0.0;
        for (int i = threadIdx.x; i < p.length; i += 256) {
            int at = row * p.length + i;
            dv[at] = dy[at] * step[row] * slope[at];
            sum += (double)dy[at] * (double)level[at];
        }
        sum = block_sum<256>(sum);
        if (threadIdx.x == 0) dstep[row] = (float)sum;
    }
}

// slope may be null: not wanted. `stored`, if not null, holds beta.
KERNEL adaround_penalty_f32(const float* __restrict__ v, double* __restrict__ sums, float* __restrict__ slope,
                            const float* __restrict__ stored, int n, float beta) {
    if (stored) beta = *stored;
    int begin = blockIdx.x * CHUNK;
    int end = min(begin + CHUNK, n);
    double sum = 0.0;
    for (int i = begin + threadIdx.x; i < end; i += 256) {
        float dh;
        float d = 2.0f * choice(v[i], &dh) - 1.0f;
        float power = powf(fabsf(d), beta - 1.0f);
        sum += (double)(1.0f - power * fabsf(d));
        if (slope != nullptr) slope[i] = -2.0f * beta * power * dh * (d < 0.0f ? -1.0f : 1.0f);
    }
    sum = block_sum<256>(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
