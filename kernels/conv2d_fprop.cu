// Convolution forward (src/ops/conv2d): y[n,p,q,k] = bias[k] + sum over r,s,c of
//   x[n, p*stride - pad + r*dilation, q*stride - pad + s*dilation, c] * w[k,r,s,c]
// (zero outside the image). Also the data gradient of upsample + convolution, which is a 4x4 convolution of stride 2.
//
// layout    x NHWC, w KRSC, y NPQK, all f32
// mapping   include/conv_fprop.cuh: column tiles of 16, 32 or 64 (the suffix), `any` takes every shape
// traffic   from DRAM 4 bytes * (x + w + y); x is read r*s times from L2
// order     depth ascending
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_fprop.cuh"

#define FPROP(name, MATH, COLS, VEC)                                                                             \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                    \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, \
             float* __restrict__ y, float beta) {                                                                \
        typedef Accumulator<MATH, COLS>::Columns Columns;                                                        \
        fprop<MATH, COLS, VEC>(z, x, w, PlainOutput<Columns>(y, bias, beta, z.k));                               \
    }

FPROP(conv2d_fprop_f32_n16, F32, 16, true)
FPROP(conv2d_fprop_f32_n32, F32, 32, true)
FPROP(conv2d_fprop_f32_n64, F32, 64, true)
FPROP(conv2d_fprop_f32_any, F32, 32, false)
FPROP(conv2d_fprop_tf32_n16, TF32, 16, true)
FPROP(conv2d_fprop_tf32_n32, TF32, 32, true)
FPROP(conv2d_fprop_tf32_n64, TF32, 64, true)
FPROP(conv2d_fprop_tf32_any, TF32, 32, false)
FPROP(conv2d_fprop_bf16_n16, BF16, 16, true)
FPROP(conv2d_fprop_bf16_n32, BF16, 32, true)
FPROP(conv2d_fprop_bf16_n64, BF16, 64, true)
FPROP(conv2d_fprop_bf16_any, BF16, 32, false)
