// What follows a student's convolution, as one (src/ops/conv_block): normalization, residual sum, ReLU, quantizer; codes and
// a bit per element for the gradient. The convolution itself: conv2d_int.cu, its gradients: conv2d_*.cu, conv_bn_tune.cu.
//
// layout    z, codes, residual, values NPQK as [rows = n p, row = q k]; mask [rows, ceil(row / 8)] bytes
// mapping   one thread per eight elements of a row
// traffic   fwd 4 bytes z + 1 codes + 1/8 mask (+ 1 or 4 residual, + 4 values where they are kept); bwd 8 + 1/8
// order     no reductions; every operation rounded as those that it stands for
#include "include/normal.cuh"
#include "include/quant.cuh"

// Mirrors Params of src/ops/conv_block/gpu.rs.
struct ConvBlock {
    const float *mean, *var, *gamma, *beta;
    const void* residual;
    const float *residual_lo, *residual_hi, *lo, *hi;
    int rows, row, k, bits, residual_bits, relu, clip;
    float eps;
};

// codes may not be null; mask and values may.
KERNEL conv_block_fwd_f32(const float* __restrict__ z, ConvBlock p, signed char* __restrict__ codes,
                          unsigned char* __restrict__ mask, float* __restrict__ values) {
    int bytes = (p.row + 7) / 8;
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.rows * bytes) return;
    int start = i / bytes * p.row, first = i % bytes * 8;
    Affine to = affine_of(p.lo[0], p.hi[0], p.bits);
    Affine from = to;
    if (p.residual_lo) from = affine_of(p.residual_lo[0], p.residual_hi[0], p.residual_bits);
    unsigned passes = 0;
    for (int e = 0; e < 8 && first + e < p.row; e++) {
        int at = start + first + e, c = (first + e) % p.k;
        float v = normalized(z[at], p.mean[c], norm_scale(p.var[c], p.gamma ? p.gamma + c : nullptr, p.eps),
                             p.beta ? p.beta[c] : 0.0f);
        if (p.residual_lo) {
            v = __fadd_rn(v, affine_value(from, (float)((const signed char*)p.residual)[at]));
        } else if (p.residual) {
            v = __fadd_rn(v, ((const float*)p.residual)[at]);
        }
        bool pass = !p.relu || v > 0.0f;
        if (p.relu && v <= 0.0f) v = 0.0f;
        float level = affine_level(to, v);
        if (p.clip) pass = pass && affine_inside(to, level);
        passes |= (pass ? 1u : 0u) << e;
        codes[at] = code_byte(affine_clamp(to, level));
        if (values) values[at] = v;
    }
    if (mask) mask[i] = (unsigned char)passes;
}

KERNEL conv_block_bwd_f32(const float* __restrict__ dy, const unsigned char* __restrict__ mask, float* __restrict__ dv,
                          int rows, int row) {
    int bytes = (row + 7) / 8;
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= rows * bytes) return;
    int start = i / bytes * row, first = i % bytes * 8;
    unsigned passes = mask[i];
    for (int e = 0; e < 8 && first + e < row; e++) {
        int at = start + first + e;
        dv[at] = passes >> e & 1 ? dy[at] : 0.0f;
    }
}
