// Grad-CAM of a pool and linear head (src/ops/grad_cam.rs): cam = relu(<w[label], x[pixel]>).
//
// layout    x, dx [n, pixels, c]; cam, dcam [n, pixels]; weights [classes, c]
// mapping   fwd: one warp per pixel; bwd: one thread per element of dx
// traffic   4 bytes per element of x either way
// order     channels of a lane, butterfly
#include "include/reduce.cuh"

struct CamSizes {
    int n, pixels, c, classes;
};

KERNEL grad_cam_fwd_f32(const float* __restrict__ x, const float* __restrict__ weights, const int* __restrict__ labels,
                        float* __restrict__ cam, CamSizes s) {
    int pixel = (blockIdx.x * 256 + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (pixel >= s.n * s.pixels) return;
    int label = labels[pixel / s.pixels];
    float sum = 0.0f;
    if (label < 0 || label >= s.classes) {
        // A label outside the classes must show.
        sum = NAN;
    } else {
        for (int c = lane; c < s.c; c += 32) sum += weights[label * s.c + c] * x[pixel * s.c + c];
    }
    sum = warp_sum(sum);
    if (lane == 0) cam[pixel] = sum <= 0.0f ? 0.0f : sum;
}

KERNEL grad_cam_bwd_f32(const float* __restrict__ dcam, const float* __restrict__ weights,
                        const int* __restrict__ labels, const float* __restrict__ cam, float* __restrict__ dx,
                        CamSizes s) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= s.n * s.pixels * s.c) return;
    int pixel = i / s.c, label = labels[pixel / s.pixels];
    if (label < 0 || label >= s.classes) {
        dx[i] = NAN;
    } else {
        dx[i] = cam[pixel] > 0.0f ? dcam[pixel] * weights[label * s.c + i % s.c] : 0.0f;
    }
}
