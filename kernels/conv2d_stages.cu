// Convolutions with many channels (src/ops/conv2d): forward and data gradient in TF32 and BF16, what conv2d_fprop.cu and
// conv2d_dgrad.cu compute, with operands copied to shared memory by cp.async instead of through registers.
//
// layout    x NHWC, w KRSC, y NPQK, all f32; 16-byte aligned, c % 4 == 0, dgrad also k % 4 == 0
// mapping   include/conv_stages.cuh. Rows and columns as in the kernels above, row tiles of 128, column tiles of 64 or 128 (the
//           suffix); 8 warps with warp tiles of 32x32 or 32x64. Grid: row tiles, column tiles, dgrad also classes.
// pipeline  slices of 32 channels of a tap, four stages (64 columns) or three (128), 96 KiB: two blocks share a multiprocessor of
//           sm_90, one fits any from sm_80 on. Two or three slices are in flight while one is multiplied; one barrier per slice.
//           Copies of padding are zeros without a branch (cp.async of 0 bytes).
// traffic   from DRAM 4 bytes * (x + w + y); from L2 every input r*s times per column tile, every filter once per row tile.
//           Shared memory bounds it: of a slice of 128 columns 32 KiB are written and 96 KiB read, 1024 cycles at 128 bytes, for
//           524288 multiply-adds. 64 columns: 24 and 64 KiB, 704 cycles for half of them.
// order     taps, then channels, ascending. TF32: bit for bit that of the kernels above where c (dgrad: k) % 32 == 0. BF16: the
//           same groups of sixteen terms
// tried     -
// measured  not yet measured on a GPU
#include "include/conv_classes.cuh"
#include "include/conv_stages.cuh"
#include "include/grad_output.cuh"

template <ConvMath MATH, int COLS>
DEV void dgrad_stages(ConvShape z, const float* dy, const float* w, const float* bias, float* dx, float beta, int every,
                      const GradFinish& f) {
    // The host sends other shapes to the general kernel. Known to be equal, the steps of both axes share a register.
    z.stride_w = z.stride_h, z.dilation_w = z.dilation_h;
    PixelClass part(z, every, every);
    int first_row = blockIdx.x * CONV_ROWS, first_col = blockIdx.y * COLS;
    if (first_row >= part.rows()) return;
    Window g = part.window(every, every);
    StagedPixels pixels(g, dy, first_row);
    StagedChannels<MATH, COLS> channels(w, z, part.r.first, part.s.first, every, every, first_col);
    Accumulator<MATH, COLS> sums;
    run_stages<Stages<COLS>::MOST>(g, pixels, channels, sums);
    // Computed again: kept, it would take registers that the products need.
    int same = opaque(every);
    PixelClass again(z, same, same);
    GradOutput out(dx, bias, beta, z.c, f);
    sums.drain([&](int row) { return again.offset(first_row + row); },
               [&](int at, int col, float v0, float v1) { out.pair(at, first_col + col, v0, v1); });
}

#define STAGES(MATH, math, COLS)                                                                                     \
    KERNEL __launch_bounds__(CONV_THREADS, 2) conv2d_fprop_##math##_stages##COLS(                                    \
        ConvShape z, const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias,       \
        float* __restrict__ y, float beta) {                                                                         \
        typedef Accumulator<MATH, COLS>::Columns Columns;                                                            \
        fprop_stages<MATH, COLS, Stages<COLS>::MOST>(z, x, w, PlainOutput<Columns>(y, bias, beta, z.k));                               \
    }                                                                                                                \
    KERNEL __launch_bounds__(CONV_THREADS, 2) conv2d_dgrad_##math##_stages##COLS(                                    \
        ConvShape z, const float* __restrict__ dy, const float* __restrict__ w, const float* __restrict__ bias,      \
        float* __restrict__ dx, float beta, GradFinish f, int every_h, int) {                                        \
        dgrad_stages<MATH, COLS>(z, dy, w, bias, dx, beta, every_h, f);                                              \
    }

STAGES(TF32, tf32, 64)
STAGES(TF32, tf32, 128)
STAGES(BF16, bf16, 128)
