// The target's logit with an angular margin (src/ops/margin_cross_entropy.rs).
//
// mapping   one block of 128 threads per row
// traffic   logits and features once each way; one row of the weights per sample
// precision dot products and angles in f64, rounded once
// order     fixed: thread stride, block_sum
#include "include/reduce.cuh"

struct MarginParams {
    double cos_margin, sin_margin;
    int c, classes;
};

// turn: [n][2], the target logit's gradient is turn[0] * weight + turn[1] * feature.
KERNEL margin_cross_entropy_fwd_f32(const float* __restrict__ logits, const float* __restrict__ features,
                                    const float* __restrict__ weights, const float* __restrict__ bias,
                                    const int* __restrict__ labels, float* __restrict__ out,
                                    double* __restrict__ turn, MarginParams p) {
    int row = blockIdx.x;
    int label = labels[row];
    bool valid = label >= 0 && label < p.classes;
    const float* f = features + (size_t)row * p.c;
    const float* w = weights + (size_t)(valid ? label : 0) * p.c;
    double ff = 0.0, ww = 0.0, fw = 0.0;
    for (int i = threadIdx.x; i < p.c; i += 128) {
        double u = f[i], v = w[i];
        ff += u * u;
        ww += v * v;
        fw += u * v;
    }
    ff = block_sum<128>(ff);
    ww = block_sum<128>(ww);
    fw = block_sum<128>(fw);
    double lengths = sqrt(ff) * sqrt(ww);
    double across = ff * ww - fw * fw;
    double target, toward, along;
    if (fw > -lengths * p.cos_margin || lengths == 0.0) {
        // Along the centre (or against it) the turn has no direction.
        bool turned = across > 1.0e-12 * ff * ww;
        double sine = turned ? sqrt(across) : 0.0;
        target = p.cos_margin * fw - p.sin_margin * sine;
        toward = p.cos_margin + (turned ? p.sin_margin * fw / sine : 0.0);
        along = turned ? -p.sin_margin * ww / sine : 0.0;
    } else {
        target = -lengths;
        toward = 0.0;
        along = -sqrt(ww / ff);
    }
    for (int i = threadIdx.x; i < p.classes; i += 128) {
        size_t at = (size_t)row * p.classes + i;
        out[at] = i == label ? (float)(target + (bias ? (double)bias[i] : 0.0)) : logits[at];
    }
    if (threadIdx.x == 0) {
        turn[2 * row] = valid ? toward : 0.0;
        turn[2 * row + 1] = valid ? along : 0.0;
    }
}

// dlogits or dfeatures may be null.
KERNEL margin_cross_entropy_bwd_f32(const float* __restrict__ dout, const float* __restrict__ features,
                                    const float* __restrict__ weights, const int* __restrict__ labels,
                                    const double* __restrict__ turn, float* __restrict__ dlogits,
                                    float* __restrict__ dfeatures, MarginParams p) {
    int row = blockIdx.x;
    int label = labels[row];
    bool valid = label >= 0 && label < p.classes;
    if (dlogits) {
        for (int i = threadIdx.x; i < p.classes; i += 128) {
            size_t at = (size_t)row * p.classes + i;
            dlogits[at] = i == label ? 0.0f : dout[at];
        }
    }
    if (dfeatures) {
        double dy = valid ? (double)dout[(size_t)row * p.classes + label] : 0.0;
        const float* f = features + (size_t)row * p.c;
        const float* w = weights + (size_t)(valid ? label : 0) * p.c;
        for (int i = threadIdx.x; i < p.c; i += 128) {
            double d = turn[2 * row] * (double)w[i] + turn[2 * row + 1] * (double)f[i];
            dfeatures[(size_t)row * p.c + i] = (float)(dy * d);
        }
    }
}
