// Pooling, NHWC (src/ops/pool.rs).
//
// mapping   global fwd: a block per image and 32 channels, 8 rows of threads over the pixels; else one thread per
//           element written: backward gathers from the windows over a pixel, so nothing is added atomically
// traffic   reads the larger of the two images once (from L2 on for overlapping windows), writes the other
// order     fixed: windows and pixels in ascending order
#include "include/device.cuh"

KERNEL pool_global_fwd_f32(const float* __restrict__ x, float* __restrict__ y, int pixels, int c) {
    SMEM(float, part, [8][33]);
    int lane = threadIdx.x % 32, row = threadIdx.x / 32;
    int channel = blockIdx.y * 32 + lane;
    float sum = 0.0f;
    if (channel < c) {
        const float* image = x + (size_t)blockIdx.x * pixels * c;
        for (int i = row; i < pixels; i += 8) sum += image[(size_t)i * c + channel];
    }
    part[row][lane] = sum;
    __syncthreads();
    if (row == 0 && channel < c) {
        for (int i = 1; i < 8; i++) sum += part[i][lane];
        y[(size_t)blockIdx.x * c + channel] = sum / (float)pixels;
    }
}

KERNEL pool_global_bwd_f32(const float* __restrict__ dy, float* __restrict__ dx, int n, int pixels, int c) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = dy[i / (pixels * c) * c + i % c] / (float)pixels;
}

// bottom, right: one past the last row and column that an average counts; count_pad: those before the image count too.
// count: what every average divides by, 0 if windows differ.
struct Pool {
    int n, h, w, c, oh, ow, kh, kw, sh, sw, top, left, bottom, right, count_pad, count;
};

struct Place {
    int n, y, x, c;
};
DEV Place place(int i, int h, int w, int c) {
    Place p;
    p.c = i % c;
    i /= c;
    p.x = i % w;
    i /= w;
    p.y = i % h;
    p.n = i / h;
    return p;
}

KERNEL pool_max_fwd_f32(const float* __restrict__ x, float* __restrict__ y, int* __restrict__ from, Pool p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n * p.oh * p.ow * p.c) return;
    Place o = place(i, p.oh, p.ow, p.c);
    int top = o.y * p.sh - p.top, left = o.x * p.sw - p.left;
    float best = 0.0f;
    int at = -1;
    for (int iy = max(top, 0); iy < min(top + p.kh, p.h); iy++) {
        for (int ix = max(left, 0); ix < min(left + p.kw, p.w); ix++) {
            float v = x[((o.n * p.h + iy) * p.w + ix) * p.c + o.c];
            if (at < 0 || v > best || (v != v && best == best)) {
                best = v;
                at = iy * p.w + ix;
            }
        }
    }
    y[i] = best;
    from[i] = at;
}

// The windows over coordinate v: first and one past the last.
DEV int first_window(int v, int k, int stride, int pad) {
    int start = v + pad - k + 1;
    return start <= 0 ? 0 : (start + stride - 1) / stride;
}
DEV int last_window(int v, int count, int stride, int pad) { return min((v + pad) / stride + 1, count); }

// What the average of window (oy, ox) divides by.
DEV int covered(int oy, int ox, Pool p) {
    if (p.count) return p.count;
    int top = oy * p.sh - p.top, left = ox * p.sw - p.left;
    int rows = min(top + p.kh, p.bottom) - (p.count_pad ? top : max(top, 0));
    int columns = min(left + p.kw, p.right) - (p.count_pad ? left : max(left, 0));
    return rows * columns;
}

KERNEL pool_max_bwd_f32(const float* __restrict__ dy, const int* __restrict__ from, float* __restrict__ dx, Pool p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n * p.h * p.w * p.c) return;
    Place at = place(i, p.h, p.w, p.c);
    float sum = 0.0f;
    int rows = last_window(at.y, p.oh, p.sh, p.top), columns = last_window(at.x, p.ow, p.sw, p.left);
    for (int oy = first_window(at.y, p.kh, p.sh, p.top); oy < rows; oy++) {
        for (int ox = first_window(at.x, p.kw, p.sw, p.left); ox < columns; ox++) {
            int o = ((at.n * p.oh + oy) * p.ow + ox) * p.c + at.c;
            if (from[o] == at.y * p.w + at.x) sum += dy[o];
        }
    }
    dx[i] = sum;
}

KERNEL pool_avg_fwd_f32(const float* __restrict__ x, float* __restrict__ y, Pool p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n * p.oh * p.ow * p.c) return;
    Place o = place(i, p.oh, p.ow, p.c);
    int top = o.y * p.sh - p.top, left = o.x * p.sw - p.left;
    float sum = 0.0f;
    for (int iy = max(top, 0); iy < min(top + p.kh, p.h); iy++) {
        for (int ix = max(left, 0); ix < min(left + p.kw, p.w); ix++) {
            sum += x[((o.n * p.h + iy) * p.w + ix) * p.c + o.c];
        }
    }
    y[i] = sum / (float)covered(o.y, o.x, p);
}

KERNEL pool_avg_bwd_f32(const float* __restrict__ dy, float* __restrict__ dx, Pool p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n * p.h * p.w * p.c) return;
    Place at = place(i, p.h, p.w, p.c);
    float sum = 0.0f;
    int rows = last_window(at.y, p.oh, p.sh, p.top), columns = last_window(at.x, p.ow, p.sw, p.left);
    for (int oy = first_window(at.y, p.kh, p.sh, p.top); oy < rows; oy++) {
        for (int ox = first_window(at.x, p.kw, p.sw, p.left); ox < columns; ox++) {
            float d = dy[((at.n * p.oh + oy) * p.ow + ox) * p.c + at.c];
            sum += p.count ? d : d / (float)covered(oy, ox, p);
        }
    }
    dx[i] = p.count ? sum / (float)p.count : sum;
}
