// Crop, resize and flip (src/ops/crop_flip.rs): bilinear samples of one box per image.
//
// mapping   one thread per element of the output (fwd) or of dx (bwd, which gathers: the outputs that meet a pixel lie in
//           a range of rows times a range of columns, so nothing is added atomically)
// traffic   fwd 8 bytes per element and cached neighbours; bwd 8
// order     bwd: output rows, then columns, ascending
#include "include/device.cuh"

// Mirrors Sizes of src/ops/crop_flip.rs.
struct CropSizes {
    int n, h, w, c, p, q;
};

struct Axis {
    float start, step;  // of the box; input pixels per output pixel
    int count, length;  // outputs, input pixels
};

struct Sample {
    int first, second;
    float share;  // of the second
};

DEV Axis axis_of(float start, float extent, int count, int length) {
    Axis a;
    a.start = start, a.step = extent / (float)count, a.count = count, a.length = length;
    return a;
}

// A box of no size or place makes its image NaN, which shows.
DEV bool proper(const float* box) {
    bool finite = true;
    for (int i = 0; i < 4; i++) finite = finite && fabsf(box[i]) < 1e30f;
    return finite && box[2] >= 1e-3f && box[3] >= 1e-3f;
}

DEV Sample sample(Axis a, int i) {
    float at = a.start + ((float)i + 0.5f) * a.step - 0.5f;
    at = fminf(fmaxf(at, 0.0f), (float)(a.length - 1));
    float low = floorf(at);
    Sample s;
    s.first = (int)low;
    s.second = min(s.first + 1, a.length - 1);
    s.share = at - low;
    return s;
}

// The share of input pixel `at` in output i.
DEV float share_of(Axis a, int i, int at) {
    Sample s = sample(a, i);
    return (s.first == at ? 1.0f - s.share : 0.0f) + (s.second == at ? s.share : 0.0f);
}

// Output that samples nearest to `at`, as a float, clamped to the outputs.
DEV float output_at(Axis a, float at) {
    return fminf(fmaxf((at + 0.5f - a.start) / a.step - 0.5f, 0.0f), (float)(a.count - 1));
}

// Outputs that may meet input pixel `at`: those sampled within one pixel of it, and one more on each side for rounding.
// What lies outside the image is clamped to its border.
DEV int first_output(Axis a, int at) { return at == 0 ? 0 : max((int)floorf(output_at(a, (float)(at - 1))) - 1, 0); }
DEV int last_output(Axis a, int at) {
    return at == a.length - 1 ? a.count - 1 : min((int)ceilf(output_at(a, (float)(at + 1))) + 1, a.count - 1);
}

KERNEL crop_flip_fwd_f32(const float* __restrict__ x, const float* __restrict__ boxes, const int* __restrict__ flips,
                         float* __restrict__ y, CropSizes s) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= s.n * s.p * s.q * s.c) return;
    int c = i % s.c, pixel = i / s.c, n = pixel / s.q / s.p;
    const float* box = boxes + n * 4;
    if (!proper(box)) {
        y[i] = NAN;
        return;
    }
    int col = flips[n] != 0 ? s.q - 1 - pixel % s.q : pixel % s.q;
    Sample v = sample(axis_of(box[0], box[2], s.p, s.h), pixel / s.q % s.p);
    Sample u = sample(axis_of(box[1], box[3], s.q, s.w), col);
    const float* image = x + n * s.h * s.w * s.c + c;
    const float* above = image + v.first * s.w * s.c;
    const float* below = image + v.second * s.w * s.c;
    float left = above[u.first * s.c], right = above[u.second * s.c];
    left += (below[u.first * s.c] - left) * v.share;
    right += (below[u.second * s.c] - right) * v.share;
    y[i] = left + (right - left) * u.share;
}

KERNEL crop_flip_bwd_f32(const float* __restrict__ dy, const float* __restrict__ boxes, const int* __restrict__ flips,
                         float* __restrict__ dx, CropSizes s) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= s.n * s.h * s.w * s.c) return;
    int c = i % s.c, pixel = i / s.c, col = pixel % s.w, row = pixel / s.w % s.h, n = pixel / s.w / s.h;
    const float* box = boxes + n * 4;
    if (!proper(box)) {
        dx[i] = NAN;
        return;
    }
    Axis rows = axis_of(box[0], box[2], s.p, s.h), cols = axis_of(box[1], box[3], s.q, s.w);
    bool flip = flips[n] != 0;
    int left = first_output(cols, col), right = last_output(cols, col), bottom = last_output(rows, row);
    float sum = 0.0f;
    for (int p = first_output(rows, row); p <= bottom; p++) {
        float weight = share_of(rows, p, row);
        if (weight == 0.0f) continue;
        const float* line = dy + (n * s.p + p) * s.q * s.c + c;
        float part = 0.0f;
        for (int q = left; q <= right; q++) {
            float share = share_of(cols, q, col);
            if (share != 0.0f) part += share * line[(flip ? s.q - 1 - q : q) * s.c];
        }
        sum += weight * part;
    }
    dx[i] = sum;
}
