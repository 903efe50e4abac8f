// Batch normalization over the last dimension (src/ops/batch_norm.rs); its statistics: channel_stats.cu.
//
// mapping   element by element: one thread each; sums: include/row_stages.cuh
// traffic   fwd 8 bytes per element; bwd sums 8, dx 12 (train) or 8 (eval)
// order     fixed (row_stages.cuh)
#include "include/last_block.cuh"
#include "include/normal.cuh"
#include "include/reduce.cuh"
#include "include/row_stages.cuh"

// gamma and beta may be null: 1 and 0.
KERNEL batch_norm_fwd_f32(const float* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ var,
                          const float* __restrict__ gamma, const float* __restrict__ beta, float* __restrict__ y, int n,
                          int c, float eps) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int channel = i % c;
    float scale = norm_scale(var[channel], gamma ? gamma + channel : nullptr, eps);
    y[i] = normalized(x[i], mean[channel], scale, beta ? beta[channel] : 0.0f);
}

KERNEL batch_norm_running_f32(const float* __restrict__ mean, const float* __restrict__ var,
                              float* __restrict__ running_mean, float* __restrict__ running_var, int c, float momentum,
                              float unbias) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c) return;
    running_mean[i] += momentum * (mean[i] - running_mean[i]);
    running_var[i] += momentum * (var[i] * unbias - running_var[i]);
}

// partial: [2][chunks][c], sums of dy, then of dy * normalized x; sums: [2][c], over the chunks. x may be null: then the second
// sums are zero. arrivals: a counter per column of blocks, whose last block adds up the chunks, a warp per channel.
KERNEL batch_norm_bwd_sums_f32(const float* __restrict__ x, const float* __restrict__ dy,
                               const float* __restrict__ mean, const float* __restrict__ var, float eps, float* partial,
                               float* __restrict__ sums, unsigned* arrivals, RowStages p) {
    SMEM(float, first, [256]);
    SMEM(float, second, [256]);
    RowWalk w = row_walk(p);
    int t = threadIdx.x;
    float a = 0.0f, b = 0.0f;
    if (w.channel < p.c) {
        float centre = mean[w.channel];
        for (int row = w.row; row < w.end; row += w.step) {
            size_t i = (size_t)row * p.c + w.channel;
            float g = dy[i];
            a += g;
            if (x) b += g * (x[i] - centre);
        }
        b *= inverse_deviation(var[w.channel], eps);
    }
    first[t] = a;
    second[t] = b;
    __syncthreads();
    for (int half = 128; half >= p.lanes; half /= 2) {
        if (t < half) {
            first[t] += first[t + half];
            second[t] += second[t + half];
        }
        __syncthreads();
    }
    if (t < p.lanes && w.channel < p.c) {
        partial[w.slot] = first[t];
        partial[p.chunks * p.c + w.slot] = second[t];
    }
    if (!last_block(arrivals + blockIdx.x, p.chunks)) return;
    for (ChannelWalk of(p); of.more(); of.next()) {
        a = b = 0.0f;
#pragma unroll 4
        for (int chunk = t % 32; chunk < p.chunks; chunk += 32) {
            a += __ldcg(partial + chunk * p.c + of.channel);
            b += __ldcg(partial + (p.chunks + chunk) * p.c + of.channel);
        }
        a = warp_sum(a);
        b = warp_sum(b);
        if (t % 32 == 0) {
            sums[of.channel] = a;
            sums[p.c + of.channel] = b;
        }
    }
}

// sums [2][c] = dbeta, dgamma where the statistics depend on x (train), else null, and x is not read.
KERNEL batch_norm_bwd_dx_f32(const float* __restrict__ x, const float* __restrict__ dy, const float* __restrict__ mean,
                             const float* __restrict__ var, const float* __restrict__ gamma,
                             const float* __restrict__ sums, float* __restrict__ dx, int n, int c, float eps,
                             float inverse_rows) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int channel = i % c;
    float inverse = inverse_deviation(var[channel], eps);
    float g = dy[i];
    if (sums) {
        float normalized = (x[i] - mean[channel]) * inverse;
        g -= (sums[channel] + normalized * sums[c + channel]) * inverse_rows;
    }
    dx[i] = g * inverse * (gamma ? gamma[channel] : 1.0f);
}
