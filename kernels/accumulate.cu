// y += x: where two gradients of one value meet (src/autograd/accumulate.rs).
// Four elements per thread; traffic 3 * 4 bytes per element.
#include "include/quads.cuh"

KERNEL accumulate_f32(float* y, const float* __restrict__ x, int n) {
    quads_map(y, x, y, n, [](float sum, float v) { return sum + v; });
}
