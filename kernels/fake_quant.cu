// Fake quantization (src/ops/fake_quant): y = value(code(x)) under the rule of include/quant.cuh, one range per row.
//
// layout    x [rows, length], lo and hi [rows]
// mapping   grid (pieces of a row, rows), 256 threads; four elements per thread with 16-byte accesses where the row
//           length and the addresses allow; learned backward: 4096 elements per block
// traffic   fwd 8 bytes per element (+1 for the mask, +1 for the codes); codes 5; values 5; clipped bwd 9; learned bwd 12
// order     sums for lo and hi: thread stride, butterfly, warp order, then pieces by one block per row
#include "include/quant.cuh"
#include "include/reduce.cuh"

struct FakeQuantParams {
    int rows, length, bits, vector;
    float factor;
    int relu;
};

DEV float fake_quant(Affine a, float x, unsigned char* inside, signed char* byte) {
    float level = affine_level(a, x), code = affine_clamp(a, level);
    *inside = affine_inside(a, level) ? 1 : 0;
    *byte = code_byte(code);
    return affine_value(a, code);
}

KERNEL fake_quant_fwd_f32(const float* __restrict__ x, const float* __restrict__ lo, const float* __restrict__ hi,
                          float* __restrict__ y, unsigned char* __restrict__ mask, signed char* __restrict__ codes,
                          FakeQuantParams p) {
    int i = (blockIdx.x * 256 + threadIdx.x) * p.vector;
    if (i >= p.length) return;
    for (int row = blockIdx.y; row < p.rows; row += gridDim.y) {
        Affine a = affine_of(lo[row], hi[row], p.bits);
        int at = row * p.length + i;
        unsigned char m[4];
        signed char c[4];
        if (p.vector == 4) {
            float4 v = *reinterpret_cast<const float4*>(x + at);
            float4 r;
            r.x = fake_quant(a, v.x, &m[0], &c[0]);
            r.y = fake_quant(a, v.y, &m[1], &c[1]);
            r.z = fake_quant(a, v.z, &m[2], &c[2]);
            r.w = fake_quant(a, v.w, &m[3], &c[3]);
            *reinterpret_cast<float4*>(y + at) = r;
            if (mask != nullptr) {
                *reinterpret_cast<uchar4*>(mask + at) = make_uchar4(m[0], m[1], m[2], m[3]);
            }
            if (codes != nullptr) {
                *reinterpret_cast<char4*>(codes + at) = make_char4(c[0], c[1], c[2], c[3]);
            }
        } else {
            y[at] = fake_quant(a, x[at], &m[0], &c[0]);
            if (mask != nullptr) mask[at] = m[0];
            if (codes != nullptr) codes[at] = c[0];
        }
    }
}

KERNEL fake_quant_codes_f32(const float* __restrict__ x, const float* __restrict__ lo, const float* __restrict__ hi,
                            signed char* __restrict__ codes, FakeQuantParams p) {
    int i = (blockIdx.x * 256 + threadIdx.x) * p.vector;
    if (i >= p.length) return;
    for (int row = blockIdx.y; row < p.rows; row += gridDim.y) {
        Affine a = affine_of(lo[row], hi[row], p.bits);
        int at = row * p.length + i;
        if (p.vector == 4) {
            float4 v = *reinterpret_cast<const float4*>(x + at);
            *reinterpret_cast<char4*>(codes + at) =
                make_char4(code_byte(affine_code(a, v.x)), code_byte(affine_code(a, v.y)),
                           code_byte(affine_code(a, v.z)), code_byte(affine_code(a, v.w)));
        } else {
            codes[at] = code_byte(affine_code(a, x[at]));
        }
    }
}

KERNEL fake_quant_values_f32(const signed char* __restrict__ codes, const float* __restrict__ lo,
                             const float* __restrict__ hi, float* __restrict__ y, int n, int bits) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i < n) y[i] = affine_value(affine_of(lo[0], hi[0], bits), (float)codes[i]);
}

KERNEL fake_quant_clipped_bwd_f32(const float* __restrict__ dy, const unsigned char* __restrict__ mask,
                                  float* __restrict__ dx, int n) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i < n) dx[i] = mask[i] ? dy[i] : 0.0f;
}

KERNEL fake_quant_learned_bwd_f32(const float* __restrict__ x, const float* __restrict__ lo,
                                  const float* __restrict__ hi, const float* __restrict__ dy, float* __restrict__ dx,
                                  float* __restrict__ partial, FakeQuantParams p) {
    for (int row = blockIdx.y; row < p.rows; row += gridDim.y) {
        float low = lo[row], width = __fsub_rn(hi[row], low);
        float r = width < 1e-8f ? 0.0f : 1.0f / width;
        Affine a = affine_of(low, hi[row], p.bits);
        float to_lo = 0.0f, to_hi = 0.0f;
        int end = min(p.length, (int)(blockIdx.x + 1) * 4096);
        for (int i = blockIdx.x * 4096 + threadIdx.x; i < end; i += 256) {
            int at = row * p.length + i;
            float v = x[at], g = dy[at];
            float level = affine_level(a, v);
            bool inside = affine_inside(a, level);
            float up = (affine_value(a, affine_clamp(a, level)) - (inside ? v : low)) * r;
            to_hi += up * g;
            to_lo += (inside ? -up : 1.0f - up) * g;
            if (dx != nullptr) dx[at] = inside && (!p.relu || v > 0.0f) ? g : 0.0f;
        }
        to_lo = block_sum<256>(to_lo);
        to_hi = block_sum<256>(to_hi);
        if (threadIdx.x == 0) {
            int at = 2 * (row * (int)gridDim.x + (int)blockIdx.x);
            partial[at] = to_lo;
            partial[at + 1] = to_hi;
        }
    }
}

KERNEL fake_quant_learned_finish_f32(const float* __restrict__ partial, float* __restrict__ dlo,
                                     float* __restrict__ dhi, int pieces, FakeQuantParams p) {
    int row = blockIdx.x;
    float to_lo = 0.0f, to_hi = 0.0f;
    for (int i = threadIdx.x; i < pieces; i += 256) {
        to_lo += partial[2 * (row * pieces + i)];
        to_hi += partial[2 * (row * pieces + i) + 1];
    }
    to_lo = block_sum<256>(to_lo);
    to_hi = block_sum<256>(to_hi);
    if (threadIdx.x == 0) {
        dlo[row] = to_lo * p.factor;
        dhi[row] = to_hi * p.factor;
    }
}
