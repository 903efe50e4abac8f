// The data gradient in gather form: the pixels of dx fall into stride^2 classes by (h, w) modulo stride; within a class the
// taps that hit are the same for all pixels, an arithmetic progression, so a class is a dense convolution.
#pragma once
#include "conv_gather.cuh"

// The taps of one dimension that hit a class.
struct ClassTaps {
    int first, count;  // tap, in steps of `every`
    int start;         // source coordinate of the first tap at the class's first pixel

    METHOD ClassTaps(int residue, int taps, int every, const ConvShape& z) : first(0), count(0), start(0) {
        for (int t = 0; t < every && t < taps; t++) {
            int d = residue + z.pad - t * z.dilation;
            if (d % z.stride == 0) {
                first = t, count = (taps - t + every - 1) / every, start = d / z.stride;
                break;
            }
        }
    }
};

// The class of a block: blockIdx.z. every: hitting taps are this far apart, stride / gcd(stride, dilation).
struct PixelClass {
    const ConvShape& z;
    int h, w, rows_h, rows_w;
    ClassTaps r, s;

    METHOD PixelClass(const ConvShape& z_, int every)
        : z(z_), h(blockIdx.z / z.stride), w(blockIdx.z % z.stride), rows_h((z.h - h + z.stride - 1) / z.stride),
          rows_w((z.w - w + z.stride - 1) / z.stride), r(h, z.r, every, z), s(w, z.s, every, z) {}
    METHOD int rows() const { return z.n * rows_h * rows_w; }
    METHOD Window window(int every) const {
        int step = every * z.dilation / z.stride;
        return {z.n, rows_h, rows_w, z.p, z.q, z.k, 1, r.start, s.start, -step, -step, r.count, s.count};
    }
    // Offset of a row in dx, -1 beyond the last.
    METHOD int offset(int row) const {
        if (row >= rows()) return -1;
        int b = row % rows_w, a = row / rows_w % rows_h, n = row / rows_w / rows_h;
        return ((n * z.h + a * z.stride + h) * z.w + b * z.stride + w) * z.c;
    }
};
