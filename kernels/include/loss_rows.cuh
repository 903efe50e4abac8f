// Rows of logits in f64, a block of 128 threads to a row, and the sum of the rows' losses (loss.cu, logits_loss.cu).
#pragma once
#include "last_block.cuh"
#include "reduce.cuh"

struct LossParams {
    double weight, slope, inverse_temperature;
    int n, c;
};

DEV double row_max(const float* __restrict__ x, LossParams p) {
    double m = -1.0e300;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double v = (double)x[i] * p.inverse_temperature;
        m = m > v ? m : v;
    }
    return block_max<128>(m);
}

DEV double row_sum(const float* __restrict__ x, double top, LossParams p) {
    double s = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) s += exp((double)x[i] * p.inverse_temperature - top);
    return block_sum<128>(s);
}

// The sum in the order of loss_sum_f32, in thread 0; by all 128 threads of the last block, which others wrote the rows of.
DEV double sum_rows(const double* row_losses, int n) {
    SMEM(double, warps, [8]);
    __syncthreads();
    for (int half = 0; half < 2; half++) {
        double s = 0.0;
        for (int i = half * 128 + threadIdx.x; i < n; i += 256) s += __ldcg(row_losses + i);
        s = warp_sum(s);
        if (threadIdx.x % 32 == 0) warps[half * 4 + threadIdx.x / 32] = s;
    }
    __syncthreads();
    double s = warps[0];
    for (int i = 1; i < 8; i++) s += warps[i];
    return s;
}
