// Rows of a table by label (src/ops/embedding.rs).
//
// mapping   fwd one thread per output element; bwd one block per table row, its threads over the columns
// traffic   fwd 8 bytes per element; bwd reads all labels per row, and each dy element once
// order     bwd adds the samples in order
#include "include/device.cuh"

KERNEL embedding_fwd_f32(const float* __restrict__ table, const int* __restrict__ labels, float* __restrict__ y, int n,
                         int d, int v) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * d) return;
    int label = labels[i / d];
    y[i] = label >= 0 && label < v ? table[(size_t)label * d + i % d] : __int_as_float(0x7fc00000);
}

KERNEL embedding_bwd_f32(const float* __restrict__ dy, const int* __restrict__ labels, float* __restrict__ dtable,
                         int n, int d) {
    int row = blockIdx.x;
    for (int j = threadIdx.x; j < d; j += blockDim.x) {
        float sum = 0.0f;
        for (int i = 0; i < n; i++) {
            if (labels[i] == row) sum += dy[(size_t)i * d + j];
        }
        dtable[(size_t)row * d + j] = sum;
    }
}
