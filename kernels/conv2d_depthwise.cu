// Depthwise convolution (src/ops/conv2d_depthwise). Filters are packed to [r s c] first, so that neighbouring threads,
// which serve neighbouring channels, read neighbouring weights.
//
// mapping   fprop, dgrad: a thread computes four outputs of one row for one channel (vec4: four channels). With strides of 1
//           they lie a dilation apart, so that their sources overlap: a window of four in registers slides over the
//           filter row, one load for four products. wgrad: 32 channels x 8 pixel lanes per block, up to eight taps of
//           one filter row in registers; a block per filter row (group of eight taps) and part of the pixels
// traffic   fprop, dgrad: each source row is read r times, through the caches; wgrad: x r times, dy r times
// order     taps ascending; pixels of a lane, lanes, parts
// tried     -
// measured  not yet measured on a GPU
#include "include/depthwise_shape.cuh"
#include "include/vec.cuh"

template <int V>
struct Channels {
    float v[V];
};

template <int V>
DEV Channels<V> fetch(const float* __restrict__ from, bool inside) {
    Channels<V> a;
    if constexpr (V == 4) {
        float4 f = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (inside) f = load_float4(from);
        a.v[0] = f.x, a.v[1] = f.y, a.v[2] = f.z, a.v[3] = f.w;
    } else {
        a.v[0] = inside ? *from : 0.0f;
    }
    return a;
}

template <int V>
DEV void add_product(Channels<V>& sum, const Channels<V>& a, const Channels<V>& b) {
#pragma unroll
    for (int i = 0; i < V; i++) sum.v[i] += a.v[i] * b.v[i];
}

// How coordinates of one axis meet.
struct DepthwiseAxis {
    int stride, pad, dilation;
};

// The coordinate that output coordinate `at` meets on the source side at tap t, or -1.
template <bool TRANSPOSED>
DEV int meets(DepthwiseAxis g, int at, int t, int length) {
    int i;
    if (TRANSPOSED) {
        int scaled = at + g.pad - t * g.dilation;
        i = scaled < 0 || scaled % g.stride != 0 ? -1 : scaled / g.stride;
    } else {
        i = at * g.stride + t * g.dilation - g.pad;
    }
    return i < length ? i : -1;
}

// TRANSPOSED: from = dy, out = dx; else from = x, out = y.
template <int V, bool TRANSPOSED>
DEV void gather(const DepthwiseShape& g, const float* __restrict__ from, const float* __restrict__ w,
                const float* __restrict__ bias, float* __restrict__ out, float beta) {
    const int from_h = TRANSPOSED ? g.p : g.h, from_w = TRANSPOSED ? g.q : g.w;
    const int out_h = TRANSPOSED ? g.h : g.p, out_w = TRANSPOSED ? g.w : g.q;
    const bool dense = g.stride_h == 1 && g.stride_w == 1;
    int step = dense ? g.dilation_w : 1;
    int strips = (out_w + 4 * step - 1) / (4 * step) * step, groups = g.c / V;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= g.n * out_h * strips * groups) return;
    int c = i % groups * V;
    i /= groups;
    int strip = i % strips, row = i / strips % out_h, n = i / strips / out_h;
    int first = strip % step + strip / step * 4 * step;
    const float* image = from + n * from_h * from_w * g.c + c;
    w += c;

    Channels<V> sum[4];
#pragma unroll
    for (int k = 0; k < 4; k++) sum[k] = fetch<V>(bias ? bias + c : w, bias != nullptr);

    if (dense) {
        // The transposed sum is a convolution with the filter turned round.
        int top = TRANSPOSED ? g.pad_h - (g.r - 1) * g.dilation_h : -g.pad_h;
        int left = TRANSPOSED ? g.pad_w - (g.s - 1) * g.dilation_w : -g.pad_w;
        for (int r = 0; r < g.r; r++) {
            int h = row + top + r * g.dilation_h;
            if (h < 0 || h >= from_h) continue;
            const float* line = image + h * from_w * g.c;
            const float* tap = w + (TRANSPOSED ? (g.r - r) * g.s - 1 : r * g.s) * g.c;
            int col = first + left;
            Channels<V> window[4];
#pragma unroll
            for (int k = 0; k < 3; k++, col += step) {
                window[k] = fetch<V>(line + col * g.c, (unsigned)col < (unsigned)from_w);
            }
            for (int s = 0; s < g.s; s++, col += step) {
                window[3] = fetch<V>(line + col * g.c, (unsigned)col < (unsigned)from_w);
                Channels<V> weight = fetch<V>(tap, true);
                tap += TRANSPOSED ? -g.c : g.c;
#pragma unroll
                for (int k = 0; k < 4; k++) add_product(sum[k], window[k], weight);
#pragma unroll
                for (int k = 0; k < 3; k++) window[k] = window[k + 1];
            }
        }
    } else {
        DepthwiseAxis down = {g.stride_h, g.pad_h, g.dilation_h}, across = {g.stride_w, g.pad_w, g.dilation_w};
        for (int r = 0; r < g.r; r++) {
            int h = meets<TRANSPOSED>(down, row, r, from_h);
            if (h < 0) continue;
            const float* line = image + h * from_w * g.c;
            for (int s = 0; s < g.s; s++) {
                Channels<V> weight = fetch<V>(w + (r * g.s + s) * g.c, true);
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    int col = meets<TRANSPOSED>(across, first + k, s, from_w);
                    add_product(sum[k], fetch<V>(line + col * g.c, col >= 0), weight);
                }
            }
        }
    }

#pragma unroll
    for (int k = 0; k < 4; k++) {
        int col = first + k * step;
        if (col >= out_w) break;
        float* to = out + ((n * out_h + row) * out_w + col) * g.c + c;
        if constexpr (V == 4) {
            float4 v = make_float4(sum[k].v[0], sum[k].v[1], sum[k].v[2], sum[k].v[3]);
            if (beta != 0.0f) {
                float4 old = load_float4(to);
                v.x += beta * old.x, v.y += beta * old.y, v.z += beta * old.z, v.w += beta * old.w;
            }
            store_float4(to, v);
        } else {
            *to = beta != 0.0f ? sum[k].v[0] + beta * *to : sum[k].v[0];
        }
    }
}

KERNEL conv2d_depthwise_fprop_f32(DepthwiseShape g, const float* __restrict__ x, const float* __restrict__ w,
                                  const float* __restrict__ bias, float* __restrict__ y, float beta) {
    gather<1, false>(g, x, w, bias, y, beta);
}
KERNEL conv2d_depthwise_fprop_vec4_f32(DepthwiseShape g, const float* __restrict__ x, const float* __restrict__ w,
                                       const float* __restrict__ bias, float* __restrict__ y, float beta) {
    gather<4, false>(g, x, w, bias, y, beta);
}
KERNEL conv2d_depthwise_dgrad_f32(DepthwiseShape g, const float* __restrict__ dy, const float* __restrict__ w,
                                  const float* __restrict__ bias, float* __restrict__ dx, float beta) {
    gather<1, true>(g, dy, w, bias, dx, beta);
}
KERNEL conv2d_depthwise_dgrad_vec4_f32(DepthwiseShape g, const float* __restrict__ dy, const float* __restrict__ w,
                                       const float* __restrict__ bias, float* __restrict__ dx, float beta) {
    gather<4, true>(g, dy, w, bias, dx, beta);
}

// packed[tap][c] = w[c][tap]
KERNEL conv2d_depthwise_pack_f32(const float* __restrict__ w, float* __restrict__ packed, int c, int taps) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < c * taps) packed[i] = w[i % c * taps + i / c];
}

// partial[part][tap][c]; blockIdx: channels / 32, (filter row, group of eight taps), part.
KERNEL conv2d_depthwise_wgrad_partial_f32(DepthwiseShape g, const float* __restrict__ x, const float* __restrict__ dy,
                                          float* __restrict__ partial, int pixels_per_part) {
    SMEM(float, held, [8][8][32]);
    int groups = (g.s + 7) / 8, r = blockIdx.y / groups, s0 = blockIdx.y % groups * 8;
    int lane = threadIdx.x / 32, channel = threadIdx.x % 32, c = blockIdx.x * 32 + channel;
    int begin = blockIdx.z * pixels_per_part, end = min(begin + pixels_per_part, g.n * g.p * g.q);
    float sum[8] = {};
    if (c < g.c) {
        for (int pixel = begin + lane; pixel < end; pixel += 8) {
            int q = pixel % g.q, rest = pixel / g.q, n = rest / g.p;
            int h = rest % g.p * g.stride_h + r * g.dilation_h - g.pad_h;
            if (h < 0 || h >= g.h) continue;
            float d = dy[pixel * g.c + c];
            const float* line = x + (n * g.h + h) * g.w * g.c + c;
            int col = q * g.stride_w + s0 * g.dilation_w - g.pad_w;
#pragma unroll
            for (int k = 0; k < 8; k++, col += g.dilation_w) {
                if (s0 + k < g.s && (unsigned)col < (unsigned)g.w) sum[k] += d * line[col * g.c];
            }
        }
    }
#pragma unroll
    for (int k = 0; k < 8; k++) held[lane][k][channel] = sum[k];
    __syncthreads();
    // The pixel lanes of tap `lane`.
    float total = held[0][lane][channel];
    for (int k = 1; k < 8; k++) total += held[k][lane][channel];
    if (c < g.c && s0 + lane < g.s) {
        partial[((int)blockIdx.z * g.r * g.s + r * g.s + s0 + lane) * g.c + c] = total;
    }
}

// dw[c][tap] = beta dw + sum over parts of partial[part][tap][c]
KERNEL conv2d_depthwise_wgrad_final_f32(const float* __restrict__ partial, float* __restrict__ dw, int c, int taps,
                                        int parts, float beta) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c * taps) return;
    float sum = 0.0f;
    for (int part = 0; part < parts; part++) sum += partial[part * c * taps + i];
    float* to = dw + i % c * taps + i / c;
    *to = beta != 0.0f ? sum + beta * *to : sum;
}
