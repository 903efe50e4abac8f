// The data gradient in gather form: the pixels of dx fall into stride_h * stride_w classes by h and w modulo them; within a class the
// taps that hit are the same for all pixels, an arithmetic progression, so a class is a dense convolution.
#pragma once
#include "conv_gather.cuh"

// The taps of one dimension that hit a class.
struct ClassTaps {
    int first, count;  // tap, in steps of `every`
    int start;         // source coordinate of the first tap at the class's first pixel

    METHOD ClassTaps(int residue, int taps, int every, int stride, int pad, int dilation) : first(0), count(0), start(0) {
        for (int t = 0; t < every && t < taps; t++) {
            int d = residue + pad - t * dilation;
            if (d % stride == 0) {
                first = t, count = (taps - t + every - 1) / every, start = d / stride;
                break;
            }
        }
    }
};

// The class of a block: blockIdx.z. every_h, every_w: hitting taps are this far apart, stride / gcd(stride, dilation).
struct PixelClass {
    const ConvShape& z;
    int h, w, rows_h, rows_w;
    ClassTaps r, s;

    METHOD PixelClass(const ConvShape& z_, int every_h, int every_w)
        : z(z_), h(blockIdx.z / z.stride_w), w(blockIdx.z % z.stride_w), rows_h((z.h - h + z.stride_h - 1) / z.stride_h),
          rows_w((z.w - w + z.stride_w - 1) / z.stride_w), r(h, z.r, every_h, z.stride_h, z.pad_h, z.dilation_h),
          s(w, z.s, every_w, z.stride_w, z.pad_w, z.dilation_w) {}
    METHOD int rows() const { return z.n * rows_h * rows_w; }
    METHOD Window window(int every_h, int every_w) const {
        int step_h = every_h * z.dilation_h / z.stride_h, step_w = every_w * z.dilation_w / z.stride_w;
        return {z.n, rows_h, rows_w, z.p, z.q, z.k, 1, 1, r.start, s.start, -step_h, -step_w, r.count, s.count};
    }
    // Offset of a row in dx, -1 beyond the last.
    METHOD int offset(int row) const {
        if (row >= rows()) return -1;
        int b = row % rows_w, a = row / rows_w % rows_h, n = row / rows_w / rows_h;
        return ((n * z.h + a * z.stride_h + h) * z.w + b * z.stride_w + w) * z.c;
    }
};
