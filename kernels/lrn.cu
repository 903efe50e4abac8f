// Local response normalization over channels (src/ops/lrn.rs).
//
// mapping   one thread per element; bwd forms the sums of all windows that hold its channel anew
// traffic   fwd 8 bytes per element, bwd 12, neighbours from L1
// order     channels in ascending order
#include "include/device.cuh"

// n elements of c channels; a window reaches `before` and `after` its middle.
struct LrnShape {
    int n, c, before, after;
};
struct LrnNumbers {
    float slope, beta, bias;
};

// bias + slope * sum of the squares around channel i of a row.
DEV float window_sum(const float* row, int i, LrnShape p, LrnNumbers v) {
    float sum = 0.0f;
    int end = min(i + p.after, p.c - 1);
    for (int j = max(i - p.before, 0); j <= end; j++) sum += row[j] * row[j];
    return v.bias + v.slope * sum;
}

// `unused` keeps both launches alike.
KERNEL lrn_fwd_f32(const float* __restrict__ x, const float* __restrict__ unused, float* __restrict__ y, LrnShape p,
                   LrnNumbers v) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n) return;
    y[i] = x[i] * powf(window_sum(x + i / p.c * p.c, i % p.c, p, v), -v.beta);
}

KERNEL lrn_bwd_f32(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ dx, LrnShape p,
                   LrnNumbers v) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n) return;
    int channel = i % p.c, start = i - channel;
    float sum = 0.0f, own = 0.0f;
    int end = min(channel + p.before, p.c - 1);
    for (int j = max(channel - p.after, 0); j <= end; j++) {
        float s = window_sum(x + start, j, p, v);
        float power = dy[start + j] * powf(s, -v.beta);
        if (j == channel) own = power;
        sum += x[start + j] * power / s;
    }
    dx[i] = own - 2.0f * v.slope * v.beta * x[i] * sum;
}
