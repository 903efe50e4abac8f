// A student's layer (src/ops/conv_block): normalization, residual sum, ReLU, quantizer; codes and a bit per element for the
// gradient. It is the last step of a convolution of codes (`fprop_int`) or of values (`fprop_f32` and the other maths), else
// a pass of its own (`fwd`). Gradients of the convolution: conv2d_*.cu, conv_bn_tune.cu.
//
// layout    z, codes, residual, values NPQK as [rows = n p, row = q k]; mask [rows, ceil(row / 8)] bytes; x NHWC and w KRSC
// mapping   fwd, bwd: one thread per eight elements of a row. fprop_int: include/conv_int.cuh, column tiles of 16, 32 or 64
//           (the suffix), `c4` and `any` where channels do not come in sixteens, conv_int_wgmma.cuh. Images: include/conv_fprop.cuh. Values of many
//           channels: include/conv_stages.cuh. k in eights for all, so that a byte of the mask is one group of columns
// traffic   fwd 4 bytes z + 1 codes + 1/8 mask (+ 1 or 4 residual, + 4 values where they are kept); bwd 8 + 1/8. fprop: bytes
//           of x + w instead of z
// order     no reductions but those of the products; every operation rounded as those that it stands for
// tried     -
// measured  not yet measured on a GPU
#include "include/block_step.cuh"
#include "include/conv_fprop.cuh"
#include "include/conv_int_wgmma.cuh"
#include "include/conv_stages.cuh"
#include "include/int_value.cuh"

KERNEL conv_block_fwd_f32(const float* __restrict__ z, ConvBlock p) {
    int bytes = (p.row + 7) / 8;
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.rows * bytes) return;
    int start = i / bytes * p.row, first = i % bytes * 8;
    BlockStep step(p);
    unsigned passes = 0;
    for (int e = 0; e < 8 && first + e < p.row; e++) {
        int at = start + first + e;
        float v = z[at];
        passes |= (step.apply(step.column((first + e) % p.k), v, at, p.codes[at]) ? 1u : 0u) << e;
        if (step.flags & BLOCK_VALUES) p.values[at] = v;
    }
    if (step.flags & BLOCK_MASK) p.mask[i] = (unsigned char)passes;
}

struct BlockSink {
    const ConvShape& z;
    IntValues values;
    BlockStep step;
    IntValues::Column from[2];
    BlockStep::Column to[2];

    METHOD BlockSink(const ConvShape& z_, const IntValues& values_, const ConvBlock& p) : z(z_), values(values_), step(p) {}
    template <int COLS, int V>
    METHOD void prepare(int first_col, Wide* room) {
        values.prepare<COLS, V>(first_col, room);
    }
    METHOD void columns(int col) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (col + e < z.k) from[e] = values.column(col + e), to[e] = step.column(col + e);
        }
    }
    METHOD void put(const IntPixel& pixel, int col, const int (&dots)[2], int ones) const {
        bool inside = pixel.inside && col < z.k;
        float v[2] = {0.0f, 0.0f};
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (inside) v[e] = values.value(from[e], pixel, dots[e], ones);
        }
        step.put<2>(to, pixel.row, col, inside, v);
    }
};

#define BLOCK_INT(name, COLS, V, BLOCKS)                                                                               \
    KERNEL __launch_bounds__(CONV_THREADS, BLOCKS)                                                                     \
        name(ConvShape z, const signed char* __restrict__ x, const signed char* __restrict__ w, Quantizers q,          \
             const Wide* __restrict__ taps, const float* __restrict__ bias, ConvBlock p) {                             \
        conv_int<COLS, V, false>(z, x, w, BlockSink(z, IntValues(z, w, q, taps, bias), p));                               \
    }

#define BLOCK_INT_WGMMA(name, COLS)                                                                                    \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                          \
        name(ConvShape z, const signed char* __restrict__ x, const signed char* __restrict__ w, Quantizers q,          \
             const Wide* __restrict__ taps, const float* __restrict__ bias, ConvBlock p) {                             \
        conv_int_wgmma<COLS, false>(z, x, w, BlockSink(z, IntValues(z, w, q, taps, bias), p));                         \
    }

BLOCK_INT(conv_block_fprop_int_n16, 16, 16, 2)
BLOCK_INT(conv_block_fprop_int_n32, 32, 16, 2)
BLOCK_INT(conv_block_fprop_int_n64, 64, 16, 2)
BLOCK_INT(conv_block_fprop_int_c4, 32, 4, 2)
BLOCK_INT(conv_block_fprop_int_any, 32, 1, 1)
BLOCK_INT_WGMMA(conv_block_fprop_int_wgmma64, 64)
BLOCK_INT_WGMMA(conv_block_fprop_int_wgmma128, 128)

// Images: values, of channels that do not come in fours.
#define BLOCK_IMAGE(name, MATH, COLS, VEC)                                                                            \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                          \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,    \
             ConvBlock p) {                                                                                            \
        fprop<MATH, COLS, VEC>(z, x, w, BlockOutput<Accumulator<MATH, COLS>::Columns>(p, bias));                       \
    }

BLOCK_IMAGE(conv_block_fprop_f32_any, F32, 32, false)
BLOCK_IMAGE(conv_block_fprop_tf32_any, TF32, 32, false)
BLOCK_IMAGE(conv_block_fprop_bf16_any, BF16, 32, false)

// Values of many channels.
#define BLOCK_STAGES(name, MATH, COLS, COUNT)                                                                         \
    KERNEL __launch_bounds__(CONV_THREADS, 2)                                                                          \
        name(ConvShape z, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,    \
             ConvBlock p) {                                                                                            \
        fprop_stages<MATH, COLS, COUNT>(z, x, w, BlockOutput<Accumulator<MATH, COLS>::Columns>(p, bias));              \
    }

BLOCK_STAGES(conv_block_fprop_tf32_stages64, TF32, 64, 4)

KERNEL conv_block_bwd_f32(const float* __restrict__ dy, const unsigned char* __restrict__ mask, float* __restrict__ dv,
                          int rows, int row) {
    int bytes = (row + 7) / 8;
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= rows * bytes) return;
    int start = i / bytes * row, first = i % bytes * 8;
    unsigned passes = mask[i];
    for (int e = 0; e < 8 && first + e < row; e++) {
        int at = start + first + e;
        dv[at] = passes >> e & 1 ? dy[at] : 0.0f;
    }
}
