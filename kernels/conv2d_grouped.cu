// Grouped convolution (src/ops/conv2d_grouped): output channel k sees the channels of its group j = k / group_k alone,
//   y[n,p,q,k] = bias[k] + sum over r,s,i of x[n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, j*group_c + i] * w[k,r,s,i]
// and the gradients of x and w. Filters are packed first, output channels of a pass last, so that neighbouring threads, which
// serve neighbouring channels, read neighbouring weights.
//
// layout    x NHWC, w [k r s group_c], y NPQK, all f32
// mapping   fprop, dgrad: a thread computes four neighbouring outputs of a row for one channel (vec4: four channels of a group, 16
//           products for a load of four weights and four of the source). wgrad: 32 output channels x 8 pixel lanes per block, up to
//           eight channels of the group at one tap in registers; a block per (tap, eight channels) and part of the pixels
// traffic   fprop, dgrad: a source pixel is read r*s times by each thread of its group, at once and through the caches. wgrad: x and dy
//           r*s times, dy once more for every eight channels of a group
// order     taps, then channels of the group, ascending; wgrad: pixels of a lane, lanes, parts
// tried     -
// measured  not yet measured on a GPU
#include "include/grouped_shape.cuh"
#include "include/vec.cuh"

// packed[tap][i][k] = w[k][tap][i] for fprop; for dgrad packed[tap][kk][c] = w[j * group_k + kk][tap][i], c = j * group_c + i.
KERNEL conv2d_grouped_pack_f32(const float* __restrict__ w, float* __restrict__ packed, GroupedShape g, int transposed) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, taps = g.r * g.s;
    if (at >= g.k * taps * g.group_c) return;
    int channels = transposed ? g.c : g.k, terms = transposed ? g.group_k : g.group_c;
    int channel = at % channels, term = at / channels % terms, tap = at / channels / terms;
    int k = transposed ? channel / g.group_c * g.group_k + term : channel, i = transposed ? channel % g.group_c : term;
    packed[at] = w[(k * taps + tap) * g.group_c + i];
}

// TRANSPOSED: from = dy, out = dx; else from = x, out = y. w as conv2d_grouped_pack_f32 writes it. V divides the group's outputs.
template <int V, bool TRANSPOSED>
DEV void gather(const GroupedShape& g, const float* __restrict__ from, const float* __restrict__ w,
                const float* __restrict__ bias, float* __restrict__ out, float beta) {
    const int from_h = TRANSPOSED ? g.p : g.h, from_w = TRANSPOSED ? g.q : g.w, from_c = TRANSPOSED ? g.k : g.c;
    const int out_h = TRANSPOSED ? g.h : g.p, out_w = TRANSPOSED ? g.w : g.q, out_c = TRANSPOSED ? g.c : g.k;
    const int terms = TRANSPOSED ? g.group_k : g.group_c, width = TRANSPOSED ? g.group_c : g.group_k;
    int strips = (out_w + 3) / 4, columns = out_c / V;
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= g.n * out_h * strips * columns) return;
    int c = at % columns * V;
    at /= columns;
    int first = at % strips * 4, row = at / strips % out_h, n = at / strips / out_h;
    const float* image = from + n * from_h * from_w * from_c + c / width * terms;
    w += c;

    float sum[4][V];
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int v = 0; v < V; v++) sum[j][v] = bias ? bias[c + v] : 0.0f;
    }
    for (int r = 0; r < g.r; r++) {
        int h = grouped_meets<TRANSPOSED>(grouped_rows(g), row, r, from_h);
        if (h < 0) continue;
        for (int s = 0; s < g.s; s++) {
            int col[4];
#pragma unroll
            for (int j = 0; j < 4; j++) col[j] = grouped_meets<TRANSPOSED>(grouped_cols(g), first + j, s, from_w);
            const float* weights = w + (r * g.s + s) * terms * out_c;
            for (int i = 0; i < terms; i++, weights += out_c) {
                float weight[V];
                if constexpr (V == 4) {
                    float4 f = load_float4(weights);
                    weight[0] = f.x, weight[1] = f.y, weight[2] = f.z, weight[3] = f.w;
                } else {
                    weight[0] = *weights;
                }
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float a = col[j] >= 0 ? image[(h * from_w + col[j]) * from_c + i] : 0.0f;
#pragma unroll
                    for (int v = 0; v < V; v++) sum[j][v] += a * weight[v];
                }
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if (first + j >= out_w) break;
        float* to = out + ((n * out_h + row) * out_w + first + j) * out_c + c;
        if constexpr (V == 4) {
            float4 v = make_float4(sum[j][0], sum[j][1], sum[j][2], sum[j][3]);
            if (beta != 0.0f) {
                float4 old = load_float4(to);
                v.x += beta * old.x, v.y += beta * old.y, v.z += beta * old.z, v.w += beta * old.w;
            }
            store_float4(to, v);
        } else {
            *to = beta != 0.0f ? sum[j][0] + beta * *to : sum[j][0];
        }
    }
}

KERNEL conv2d_grouped_fprop_f32(GroupedShape g, const float* __restrict__ x, const float* __restrict__ w,
                                const float* __restrict__ bias, float* __restrict__ y, float beta) {
    gather<1, false>(g, x, w, bias, y, beta);
}
KERNEL conv2d_grouped_fprop_vec4_f32(GroupedShape g, const float* __restrict__ x, const float* __restrict__ w,
                                     const float* __restrict__ bias, float* __restrict__ y, float beta) {
    gather<4, false>(g, x, w, bias, y, beta);
}
KERNEL conv2d_grouped_dgrad_f32(GroupedShape g, const float* __restrict__ dy, const float* __restrict__ w,
                                const float* __restrict__ bias, float* __restrict__ dx, float beta) {
    gather<1, true>(g, dy, w, bias, dx, beta);
}
KERNEL conv2d_grouped_dgrad_vec4_f32(GroupedShape g, const float* __restrict__ dy, const float* __restrict__ w,
                                     const float* __restrict__ bias, float* __restrict__ dx, float beta) {
    gather<4, true>(g, dy, w, bias, dx, beta);
}

// partial[part][tap][i][k]; blockIdx: output channels / 32, (tap, eight channels of the group), part.
KERNEL __launch_bounds__(256) conv2d_grouped_wgrad_partial_f32(GroupedShape g, const float* __restrict__ x,
                                                               const float* __restrict__ dy, float* __restrict__ partial,
                                                               int pixels_per_part) {
    SMEM(float, held, [8][8][32]);
    int eights = (g.group_c + 7) / 8, tap = blockIdx.y / eights, first = blockIdx.y % eights * 8;
    int r = tap / g.s, s = tap % g.s;
    int lane = threadIdx.x / 32, channel = threadIdx.x % 32, k = blockIdx.x * 32 + channel;
    int begin = blockIdx.z * pixels_per_part, end = min(begin + pixels_per_part, g.n * g.p * g.q);
    float sum[8] = {};
    if (k < g.k) {
        const float* group = x + k / g.group_k * g.group_c + first;
        for (int pixel = begin + lane; pixel < end; pixel += 8) {
            int q = pixel % g.q, rest = pixel / g.q, n = rest / g.p;
            int h = grouped_meets<false>(grouped_rows(g), rest % g.p, r, g.h);
            int col = grouped_meets<false>(grouped_cols(g), q, s, g.w);
            if (h < 0 || col < 0) continue;
            float d = dy[pixel * g.k + k];
            const float* from = group + ((n * g.h + h) * g.w + col) * g.c;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (first + i < g.group_c) sum[i] += d * from[i];
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) held[lane][i][channel] = sum[i];
    __syncthreads();
    // The pixel lanes of channel first + lane.
    float total = held[0][lane][channel];
    for (int i = 1; i < 8; i++) total += held[i][lane][channel];
    if (k < g.k && first + lane < g.group_c) {
        partial[(((int)blockIdx.z * g.r * g.s + tap) * g.group_c + first + lane) * g.k + k] = total;
    }
}

// dw[k][term] = beta dw + sum over parts of partial[part][term][k], terms = taps * group_c.
KERNEL conv2d_grouped_wgrad_final_f32(const float* __restrict__ partial, float* __restrict__ dw, int k, int terms,
                                      int parts, float beta) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= k * terms) return;
    float sum = 0.0f;
    for (int part = 0; part < parts; part++) sum += partial[part * k * terms + i];
    float* to = dw + i % k * terms + i / k;
    *to = beta != 0.0f ? sum + beta * *to : sum;
}
