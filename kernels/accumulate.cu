// y += x: where two gradients of one value meet (src/autograd/accumulate.rs).
// One thread per element; traffic 3 * 4 bytes per element.
#include "include/device.cuh"

KERNEL accumulate_f32(float* __restrict__ y, const float* __restrict__ x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += x[i];
}
