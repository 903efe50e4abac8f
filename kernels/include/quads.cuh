// Element by element, four neighbours per thread: 16 bytes per access where the addresses allow it, else (and at the ragged end)
// one by one. Launched with ceil(n / 4) threads (`Launch::over_quads`); f sees one element at a time, so that results do
// not depend on the width.
#pragma once
#include "vec.cuh"

DEV bool quads_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// y[i] = f(a[i])
template <class F>
DEV void quads_map(const float* a, float* y, int n, F f) {
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 4 <= n && quads_aligned(a) && quads_aligned(y)) {
        float4 u = load_float4(a + i);
        store_float4(y + i, make_float4(f(u.x), f(u.y), f(u.z), f(u.w)));
        return;
    }
#pragma unroll 1
    for (int end = i + 4 < n ? i + 4 : n; i < end; i++) y[i] = f(a[i]);
}

// y[i] = f(a[i], b[i])
template <class F>
DEV void quads_map(const float* a, const float* b, float* y, int n, F f) {
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 4 <= n && quads_aligned(a) && quads_aligned(b) && quads_aligned(y)) {
        float4 u = load_float4(a + i), v = load_float4(b + i);
        store_float4(y + i, make_float4(f(u.x, v.x), f(u.y, v.y), f(u.z, v.z), f(u.w, v.w)));
        return;
    }
#pragma unroll 1
    for (int end = i + 4 < n ? i + 4 : n; i < end; i++) y[i] = f(a[i], b[i]);
}

// f(p[i], g[i], m[i]), which changes p and m
template <class F>
DEV void quads_update(float* p, const float* g, float* m, int n, F f) {
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 4 <= n && quads_aligned(p) && quads_aligned(g) && quads_aligned(m)) {
        float4 u = load_float4(p + i), v = load_float4(g + i), w = load_float4(m + i);
        f(u.x, v.x, w.x), f(u.y, v.y, w.y), f(u.z, v.z, w.z), f(u.w, v.w, w.w);
        store_float4(p + i, u), store_float4(m + i, w);
        return;
    }
#pragma unroll 1
    for (int end = i + 4 < n ? i + 4 : n; i < end; i++) f(p[i], g[i], m[i]);
}

// f(p[i], g[i], m[i], v[i]), which changes p, m and v
template <class F>
DEV void quads_update(float* p, const float* g, float* m, float* v, int n, F f) {
    int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 4 <= n && quads_aligned(p) && quads_aligned(g) && quads_aligned(m) && quads_aligned(v)) {
        float4 a = load_float4(p + i), b = load_float4(g + i), c = load_float4(m + i), d = load_float4(v + i);
        f(a.x, b.x, c.x, d.x), f(a.y, b.y, c.y, d.y), f(a.z, b.z, c.z, d.z), f(a.w, b.w, c.w, d.w);
        store_float4(p + i, a), store_float4(m + i, c), store_float4(v + i, d);
        return;
    }
#pragma unroll 1
    for (int end = i + 4 < n ? i + 4 : n; i < end; i++) f(p[i], g[i], m[i], v[i]);
}
