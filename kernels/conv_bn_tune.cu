// Filters scaled by batch normalization, and what their gradient becomes (src/ops/conv_bn_tune.rs). The convolutions
// themselves: conv2d_*.cu.
//
// layout    w, dw [k, length]; vectors [k]
// mapping   one block of 128 threads per output channel
// traffic   scale 8 bytes per weight; grad 12
// order     weights of a thread, butterfly, warps
#include "include/reduce.cuh"

// gamma, beta and bias may be null: 1, 0 and 0.
KERNEL conv_bn_tune_scale_f32(const float* __restrict__ gamma, const float* __restrict__ beta,
                              const float* __restrict__ bias, const float* __restrict__ mean,
                              const float* __restrict__ var, const float* __restrict__ w, float* __restrict__ scaled,
                              float* __restrict__ shift, int length, float eps) {
    int k = blockIdx.x;
    float scale = 1.0f / sqrtf(var[k] + eps);
    if (gamma) scale *= gamma[k];
    for (int i = threadIdx.x; i < length; i += 128) scaled[k * length + i] = scale * w[k * length + i];
    if (threadIdx.x == 0) shift[k] = (beta ? beta[k] : 0.0f) + scale * ((bias ? bias[k] : 0.0f) - mean[k]);
}

// dscaled = gradient of the scaled filter; null if neither dw nor dgamma is wanted. dw may be null.
// dgamma, dbias [k]. beta is not read.
KERNEL conv_bn_tune_grad_f32(const float* __restrict__ gamma, const float* __restrict__ beta,
                             const float* __restrict__ bias, const float* __restrict__ mean,
                             const float* __restrict__ var, const float* __restrict__ w,
                             const float* __restrict__ dscaled, const float* __restrict__ dshift,
                             float* __restrict__ dw, float* __restrict__ dgamma, float* __restrict__ dbias, int length,
                             float eps, float keep) {
    int k = blockIdx.x;
    float inverse = 1.0f / sqrtf(var[k] + eps), scale = gamma ? gamma[k] * inverse : inverse;
    float along = 0.0f;
    if (dscaled) {
        for (int i = threadIdx.x; i < length; i += 128) {
            float d = dscaled[k * length + i];
            along += d * w[k * length + i];
            if (dw) dw[k * length + i] = keep != 0.0f ? scale * d + keep * dw[k * length + i] : scale * d;
        }
    }
    along = block_sum<128>(along);
    if (threadIdx.x == 0) {
        dgamma[k] = inverse * (along + ((bias ? bias[k] : 0.0f) - mean[k]) * dshift[k]);
        dbias[k] = scale * dshift[k];
    }
}
