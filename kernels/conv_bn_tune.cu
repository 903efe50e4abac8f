// Filters scaled by batch normalization, and what their gradient becomes (src/ops/conv_bn_tune.rs). The convolutions
// themselves: conv2d_*.cu.
//
// layout    w, dw [k, length]; vectors [k]; layers to be scaled in a table by value
// mapping   one block per output channel (scale: blockIdx.y is the layer): 128 threads, for the gradient 1024 where it comes in parts. A channel's row of parts
//           is added up by the block that needs it, which saves the launch that would do nothing else
// traffic   scale 8 bytes per weight; grad 8 + 4 per part
// order     parts as conv2d_sum_f32 (conv2d_wgrad.cu); weights of a thread, butterfly, warps
// tried     not yet on a GPU; by calculation, parts added by the last block to finish one (a counter in memory), also a launch
//           less: one multiprocessor then reads all parts of a tile, 9.7 MB at 32 channels batch 200, which takes longer than the
//           launch that it saves; here each channel's block reads its own, 0.3 MB
#include "include/reduce.cuh"
#include "include/vec.cuh"

// Mirrors Row of src/ops/conv_bn_tune/scale.rs: gamma, beta and bias may be null: 1, 0 and 0.
struct TuneLayer {
    const float *gamma, *beta, *bias, *mean, *var, *w;
    float *scaled, *shift;
    int k, length;
    float eps;
    int padding;
};
struct TuneLayers {
    TuneLayer of[48];
};

KERNEL conv_bn_tune_scale_f32(TuneLayers layers) {
    const TuneLayer& l = layers.of[blockIdx.y];
    int k = blockIdx.x;
    if (k >= l.k) return;
    float scale = 1.0f / sqrtf(l.var[k] + l.eps);
    if (l.gamma) scale *= l.gamma[k];
    const float* w = l.w + (size_t)k * l.length;
    float* scaled = l.scaled + (size_t)k * l.length;
    for (int i = threadIdx.x; i < l.length; i += 128) scaled[i] = scale * w[i];
    if (threadIdx.x == 0) l.shift[k] = (l.beta ? l.beta[k] : 0.0f) + scale * ((l.bias ? l.bias[k] : 0.0f) - l.mean[k]);
}

// Sizes and parts of the gradient, mirrored in src/ops/conv_bn_tune/rule.rs.
struct TuneParts {
    int k, length;  // channels, elements of a filter
    int filters;    // parts of dscaled, 0 if neither dw nor dgamma is wanted
    int sums;       // parts of dshift
};

// The sum of n parts in the order of conv2d_sum_f32 (conv2d_wgrad.cu), group g of its eight groups. V neighbouring elements.
template <int V>
DEV void add_group(float (&sum)[V], const float* part, int n, int apart, int g) {
    int per_group = (n + 7) / 8, begin = g * per_group, end = min(begin + per_group, n);
#pragma unroll 8
    for (int i = begin; i < end; i++) {
        const float* from = part + (size_t)i * apart;
        if constexpr (V == 4) {
            float4 v = load_float4(from);
            sum[0] += v.x, sum[1] += v.y, sum[2] += v.z, sum[3] += v.w;
        } else {
            sum[0] += *from;
        }
    }
}

// row[i] = sum of the parts of row[i], for the `length` elements of a row. 1024 threads: eight groups of parts, each over 128 * V
// elements at once.
template <int V>
DEV void add_row(float* row, const TuneParts& p) {
    SMEM(float, group, [8][128 * V]);
    int lane = threadIdx.x % 128, g = threadIdx.x / 128;
    for (int first = 0; first < p.length; first += 128 * V) {
        int i = first + lane * V;
        float sum[V] = {};
        if (i < p.length) add_group<V>(sum, row + i, p.filters, p.k * p.length, g);
#pragma unroll
        for (int e = 0; e < V; e++) group[g][lane * V + e] = sum[e];
        __syncthreads();
        if (g == 0 && i < p.length) {
#pragma unroll
            for (int e = 0; e < V; e++) {
                for (int j = 1; j < 8; j++) sum[e] += group[j][lane * V + e];
                row[i + e] = sum[e];
            }
        }
        __syncthreads();
    }
}

// dscaled [p.filters][k][length] = parts of the gradient of the scaled filter, sums [p.sums][k] = those of the output's sums.
// dw may be null. dgamma, dshift, dbias [k]. beta is not read. 1024 threads where p.filters > 1: dscaled's first part then
// becomes their sum. Else 128.
KERNEL __launch_bounds__(1024) conv_bn_tune_grad_f32(const float* __restrict__ gamma, const float* __restrict__ beta,
                                                     const float* __restrict__ bias, const float* __restrict__ mean,
                                                     const float* __restrict__ var, const float* __restrict__ w,
                                                     float* dscaled, const float* __restrict__ sums,
                                                     float* __restrict__ dw, float* __restrict__ dgamma,
                                                     float* __restrict__ dshift, float* __restrict__ dbias, TuneParts p,
                                                     float eps, float keep) {
    SMEM(float, warps, [4]);
    SMEM(float, groups, [8]);
    int k = blockIdx.x, last = (int)threadIdx.x - ((int)blockDim.x - 8);
    if (last >= 0) {
        float sum[1] = {};
        add_group<1>(sum, sums + k, p.sums, p.k, last);
        groups[last] = sum[0];
    }
    float* row = dscaled + (size_t)k * p.length;
    if (p.filters > 1) {
        if (p.length % 4 == 0) {
            add_row<4>(row, p);
        } else {
            add_row<1>(row, p);
        }
    }
    float inverse = 1.0f / sqrtf(var[k] + eps), scale = gamma ? gamma[k] * inverse : inverse;
    float along = 0.0f;
    if (p.filters > 0 && threadIdx.x < 128) {
        for (int i = threadIdx.x; i < p.length; i += 128) {
            float d = row[i];
            along += d * w[(size_t)k * p.length + i];
            if (dw) {
                float* to = dw + (size_t)k * p.length + i;
                *to = keep != 0.0f ? scale * d + keep * *to : scale * d;
            }
        }
    }
    along = warp_sum(along);
    if (threadIdx.x % 32 == 0 && threadIdx.x < 128) warps[threadIdx.x / 32] = along;
    __syncthreads();
    if (threadIdx.x == 0) {
        along = warps[0];
        for (int i = 1; i < 4; i++) along += warps[i];
        float sum = groups[0];
        for (int i = 1; i < 8; i++) sum += groups[i];
        dgamma[k] = inverse * (along + ((bias ? bias[k] : 0.0f) - mean[k]) * sum);
        dshift[k] = sum;
        dbias[k] = scale * sum;
    }
}
