// Height and width resized by the nearest pixel or bilinearly, NHWC (src/ops/resize/mod.rs).
//
// mapping   one thread per element written, which computes its coordinates; backward finds the pixels of the output that read its
//           own by bisection: source coordinates never descend
// traffic   reads one or four pixels per output, neighbours from L1; backward as many as there are outputs per input, times four
// order     fixed: rows, then columns in ascending order
// numbers   coordinates in f32 with single roundings, the same as on the CPU
#include "include/device.cuh"

struct Axis {
    int input, output;
    float scale;
};

// mode: 0 linear, else nearest with 1 halves down, 2 halves up, 3 floor, 4 ceil.
// coordinates: 0 half pixel, 1 PyTorch's half pixel, 2 aligned corners, 3 asymmetric.
struct Resize {
    int n, c, mode, coordinates;
    Axis y, x;
};

// The pixels behind one of the output, with their weights.
struct Taps {
    int a, b;
    float u, v;
};

DEV float source(int o, Axis a, int coordinates) {
    float at = (float)o;
    if (a.scale == 1.0f) return at;
    if (a.output == 1 && (coordinates == 1 || coordinates == 2)) return 0.0f;
    if (coordinates == 2) return __fdiv_rn(__fmul_rn(at, (float)(a.input - 1)), (float)(a.output - 1));
    if (coordinates == 3) return __fdiv_rn(at, a.scale);
    return __fsub_rn(__fdiv_rn(__fadd_rn(at, 0.5f), a.scale), 0.5f);
}

DEV float clamped(float at, float last) { return at < 0.0f ? 0.0f : at > last ? last : at; }

DEV Taps taps(int o, Axis a, const Resize& p) {
    float at = source(o, a, p.coordinates), last = (float)(a.input - 1);
    Taps t;
    t.u = t.v = 0.5f;
    if (p.mode == 0) {
        at = clamped(at, last);
        float first = floorf(at), second = clamped(first + 1.0f, last);
        if (first != second) {
            t.u = __fsub_rn(second, at);
            t.v = __fsub_rn(at, first);
        }
        t.a = (int)first;
        t.b = (int)second;
        return t;
    }
    bool down = p.mode == 3 || (p.mode == 1 && at == truncf(at) + 0.5f);
    at = down ? floorf(at) : p.mode == 4 ? ceilf(at) : roundf(at);
    t.a = t.b = (int)clamped(at, last);
    return t;
}

// Where element i of an image of [h, w, c] lies.
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

template <typename T>
DEV void nearest(const T* x, T* y, const Resize& p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n * p.y.output * p.x.output * p.c) return;
    Place o = place(i, p.y.output, p.x.output, p.c);
    int row = taps(o.y, p.y, p).a, column = taps(o.x, p.x, p).a;
    y[i] = x[((o.n * p.y.input + row) * p.x.input + column) * p.c + o.c];
}

KERNEL resize_nearest_f32(const float* __restrict__ x, float* __restrict__ y, Resize p) { nearest(x, y, p); }
KERNEL resize_nearest_i8(const int8_t* __restrict__ x, int8_t* __restrict__ y, Resize p) { nearest(x, y, p); }

KERNEL resize_linear_f32(const float* __restrict__ x, float* __restrict__ y, Resize p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n * p.y.output * p.x.output * p.c) return;
    Place o = place(i, p.y.output, p.x.output, p.c);
    Taps r = taps(o.y, p.y, p), q = taps(o.x, p.x, p);
    const float* above = x + (o.n * p.y.input + r.a) * p.x.input * p.c + o.c;
    const float* below = x + (o.n * p.y.input + r.b) * p.x.input * p.c + o.c;
    float first = above[q.a * p.c] * q.u + above[q.b * p.c] * q.v;
    float second = below[q.a * p.c] * q.u + below[q.b * p.c] * q.v;
    y[i] = first * r.u + second * r.v;
}

// The first pixel of the output that reads pixel i of the input or one behind it.
DEV int first_reader(int i, Axis a, const Resize& p) {
    int low = 0, high = a.output;
    while (low < high) {
        int middle = (low + high) / 2;
        if (taps(middle, a, p).b < i) low = middle + 1;
        else high = middle;
    }
    return low;
}

DEV float weight(Taps t, int i) { return (t.a == i ? t.u : 0.0f) + (t.b == i ? t.v : 0.0f); }

KERNEL resize_bwd_f32(const float* __restrict__ dy, float* __restrict__ dx, Resize p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.n * p.y.input * p.x.input * p.c) return;
    Place at = place(i, p.y.input, p.x.input, p.c);
    int left = first_reader(at.x, p.x, p);
    float sum = 0.0f;
    for (int oy = first_reader(at.y, p.y, p); oy < p.y.output; oy++) {
        Taps row = taps(oy, p.y, p);
        if (row.a > at.y) break;
        for (int ox = left; ox < p.x.output; ox++) {
            Taps column = taps(ox, p.x, p);
            if (column.a > at.x) break;
            float d = dy[((at.n * p.y.output + oy) * p.x.output + ox) * p.c + at.c];
            sum += d * (weight(row, at.y) * weight(column, at.x));
        }
    }
    dx[i] = sum;
}
