// What a data gradient's kernel does with its sums: dx = beta * dx + value + bias, and, where it is the last to add to dx, what the
// layer that made x would do with it (src/autograd/finish.rs): with a bit `keep` per element and m rows of c channels
//
//   kept = keep * dx            dx = kept + dmean[c] / m + 2 dvar[c] / m (y - mean[c])
//
// each where its pointer is set, every operation as conv_stats_bwd_f32 and conv_block_bwd_f32 do it.
#pragma once
#include "conv_output.cuh"

// Mirrors Params of src/ops/conv2d/grad_finish.rs. c in eights, dx 8-byte aligned.
struct GradFinish {
    const unsigned char* mask;  // bit i % 8 of byte i / 8
    const float *y, *mean, *dmean, *dvar;
    float* kept;
    float inverse_rows;
    int any;
};

struct GradOutput {
    ConvOutput to;
    const GradFinish& f;

    METHOD GradOutput(float* dx, const float* bias, float beta, int cols, const GradFinish& f_)
        : to(dx, bias, beta, cols), f(f_) {}
    METHOD float moved(float v, float y, int col) const {
        return v + (f.dmean[col] * f.inverse_rows + 2.0f * f.dvar[col] * f.inverse_rows * (y - f.mean[col]));
    }
    METHOD void pair(int row, int col, float v0, float v1) const {
        if (!f.any) {
            to.pair(row, col, v0, v1);
            return;
        }
        if (row < 0 || col >= to.cols) return;
        // Hidden: the compiler would keep addresses of neighbouring pairs in registers.
        int at = opaque(row + col);
        float2* dx = reinterpret_cast<float2*>(to.y + at);
        if (to.beta != 0.0f) {
            float2 old = *dx;
            v0 += to.beta * old.x, v1 += to.beta * old.y;
        }
        unsigned keep = f.mask ? f.mask[at / 8] >> at % 8 : 3u;
        v0 = keep & 1 ? v0 : 0.0f, v1 = keep & 2 ? v1 : 0.0f;
        if (f.kept) *reinterpret_cast<float2*>(f.kept + at) = make_float2(v0, v1);
        if (f.y) {
            float2 y = *reinterpret_cast<const float2*>(f.y + at);
            v0 = moved(v0, y.x, col), v1 = moved(v1, y.y, col + 1);
        }
        *dx = make_float2(v0, v1);
    }
};

// The same as an Output of conv_output.cuh.
template <class Columns>
struct GradColumns {
    GradOutput to;
    int first;

    METHOD GradColumns(float* dx, const float* bias, float beta, int cols, const GradFinish& f)
        : to(dx, bias, beta, cols, f), first(0) {}
    METHOD void start(int col) { first = col; }
    METHOD void put(int group, int pixel, const float (&v)[Columns::WIDTH]) const {
        int row = pixel < 0 ? -1 : pixel * to.to.cols;
#pragma unroll
        for (int e = 0; e < Columns::WIDTH; e += 2) to.pair(row, first + Columns::first(group) + e, v[e], v[e + 1]);
    }
    METHOD void finish() const {}
};
