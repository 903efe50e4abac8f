// Fully connected layer: three matrix products and the bias gradient (src/ops/linear.rs).
//
// mapping   a block of 256 threads makes a 32 x 32 tile of the output, 2 x 2 elements per thread, from one slice of the
//           sum (blockIdx.z) by panels of 32 terms in shared memory; several slices are then added by a second kernel
// traffic   each operand is read once per 32 rows or columns of the output
// order     terms of a slice in order, slices in order
#include "include/device.cuh"

struct Product {
    int m, n, k, depth, slices;
};

// a is [m][k] or, with A_DOWN, [k][m]; b is [k][n] or, with B_DOWN false, [n][k]. Neighbouring threads load
// neighbouring addresses either way.
template <bool A_DOWN, bool B_DOWN>
DEV void product(const float* a, const float* b, const float* bias, float* out, Product p) {
    SMEM(float, as, [32][33]);  // [term][row]
    SMEM(float, bs, [32][33]);  // [term][column]
    int t = threadIdx.x;
    int tx = t % 16, ty = t / 16;
    int row0 = blockIdx.y * 32, col0 = blockIdx.x * 32;
    int begin = blockIdx.z * p.depth;
    int end = min(begin + p.depth, p.k);
    float sum[2][2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};
    for (int l0 = begin; l0 < end; l0 += 32) {
        for (int i = t; i < 1024; i += 256) {
            int fast = i % 32, slow = i / 32;
            int l = l0 + (A_DOWN ? slow : fast), r = row0 + (A_DOWN ? fast : slow);
            bool in = l < end && r < p.m;
            float v = in ? a[A_DOWN ? (size_t)l * p.m + r : (size_t)r * p.k + l] : 0.0f;
            as[l - l0][r - row0] = v;
            l = l0 + (B_DOWN ? slow : fast);
            int c = col0 + (B_DOWN ? fast : slow);
            in = l < end && c < p.n;
            v = in ? b[B_DOWN ? (size_t)l * p.n + c : (size_t)c * p.k + l] : 0.0f;
            bs[l - l0][c - col0] = v;
        }
        __syncthreads();
#pragma unroll 8
        for (int l = 0; l < 32; l++) {
            float a0 = as[l][ty], a1 = as[l][ty + 16];
            float b0 = bs[l][tx], b1 = bs[l][tx + 16];
            sum[0][0] += a0 * b0;
            sum[0][1] += a0 * b1;
            sum[1][0] += a1 * b0;
            sum[1][1] += a1 * b1;
        }
        __syncthreads();
    }
    float* slice = out + (size_t)blockIdx.z * p.m * p.n;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int r = row0 + ty + 16 * i, c = col0 + tx + 16 * j;
            if (r < p.m && c < p.n) slice[(size_t)r * p.n + c] = sum[i][j] + (bias ? bias[c] : 0.0f);
        }
    }
}

// y[n k] = x[n c] w[k c]^T + bias
KERNEL linear_fwd_f32(const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,
                      float* __restrict__ y, Product p) {
    product<false, false>(x, w, bias, y, p);
}

// dx[n c] = dy[n k] w[k c]
KERNEL linear_bwd_dx_f32(const float* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias,
                         float* __restrict__ dx, Product p) {
    product<false, true>(dy, w, bias, dx, p);
}

// dw[k c] = dy[n k]^T x[n c]
KERNEL linear_bwd_dw_f32(const float* __restrict__ dy, const float* __restrict__ x, const float* __restrict__ bias,
                         float* __restrict__ dw, Product p) {
    product<true, true>(dy, x, bias, dw, p);
}

KERNEL linear_slices_f32(const float* __restrict__ partial, const float* __restrict__ bias, float* __restrict__ out,
                         Product p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int count = p.m * p.n;
    if (i >= count) return;
    float sum = bias ? bias[i % p.n] : 0.0f;
    for (int s = 0; s < p.slices; s++) sum += partial[(size_t)s * count + i];
    out[i] = sum;
}

// Neighbouring threads take neighbouring outputs; n is a batch.
KERNEL linear_bwd_db_f32(const float* __restrict__ dy, float* __restrict__ db, int n, int k) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= k) return;
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += dy[(size_t)i * k + j];
    db[j] = sum;
}
