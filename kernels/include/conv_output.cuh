// What a convolution hands its sums to while they are in registers. An Output has
//
//   void start(int col)                             before all others; col: the block's first column
//   void put(int group, int pixel, float (&v)[W])   one output pixel's columns of a group (Columns of conv_tile.cuh), by whole
//                                                   warps; pixel -1 and columns beyond the last are to be left out
//   void finish()                                   at the end, by the whole block
#pragma once
#include "conv_tile.cuh"

// y = beta * y + value + bias.
template <class Columns>
struct PlainOutput {
    ConvOutput to;
    int first;

    METHOD PlainOutput(float* y, const float* bias, float beta, int cols) : to(y, bias, beta, cols), first(0) {}
    METHOD void start(int col) { first = col; }
    METHOD void put(int group, int pixel, const float (&v)[Columns::WIDTH]) const {
        int row = pixel < 0 ? -1 : pixel * to.cols;
#pragma unroll
        for (int e = 0; e < Columns::WIDTH; e += 2) to.pair(row, first + Columns::first(group) + e, v[e], v[e + 1]);
    }
    METHOD void finish() const {}
};
