// Squared quantization error of rows under candidate ranges (src/ops/range_search.rs).
//
// layout    x [rows, length]; ranges [rows, candidates, 2]; partial [rows, candidates, pieces]
// mapping   grid (pieces of 8192 elements, candidates, rows), 256 threads; rows come from cache after the first candidate
// traffic   4 bytes per element from memory; about 10 operations per element and candidate
// order     thread stride, butterfly, warp order; pieces are summed on the host in order
#include "include/quant.cuh"
#include "include/reduce.cuh"

KERNEL range_search_f32(const float* __restrict__ x, const float* __restrict__ ranges, float* __restrict__ partial,
                        int rows, int length, int bits) {
    for (int row = blockIdx.z; row < rows; row += gridDim.z) {
        int candidate = row * (int)gridDim.y + (int)blockIdx.y;
        Affine a = affine_of(ranges[2 * candidate], ranges[2 * candidate + 1], bits);
        const float* v = x + row * length;
        float sum = 0.0f;
        int end = min(length, ((int)blockIdx.x + 1) * 8192);
        for (int i = blockIdx.x * 8192 + threadIdx.x; i < end; i += 256) {
            float d = __fsub_rn(affine_value(a, affine_code(a, v[i])), v[i]);
            sum += d * d;
        }
        sum = block_sum<256>(sum);
        if (threadIdx.x == 0) partial[candidate * (int)gridDim.x + (int)blockIdx.x] = sum;
    }
}
