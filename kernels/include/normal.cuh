// Normalization by given statistics, operation by operation: kernels that include it give equal bits.
#pragma once
#include "device.cuh"

DEV float inverse_deviation(float var, float eps) { return 1.0f / sqrtf(var + eps); }

// `gamma` may be null: 1.
DEV float norm_scale(float var, const float* gamma, float eps) {
    float scale = inverse_deviation(var, eps);
    return gamma ? __fmul_rn(scale, *gamma) : scale;
}

DEV float normalized(float x, float mean, float scale, float shift) {
    return __fadd_rn(__fmul_rn(__fsub_rn(x, mean), scale), shift);
}
