// Normals, uniforms and labels from Philox4x32-10 (src/ops/random.rs).
//
// mapping   one thread per counter block = four elements
// traffic   4 bytes written per element
// order     no reductions; element i depends on (seed, stream, i) alone
#include "include/philox.cuh"

struct RandomParams {
    unsigned long long seed, stream;
    const unsigned* counter;
    unsigned long long times;
    int n;
    unsigned classes;
    float low, width;
};

DEV uint4 random_words(const RandomParams& p, int block) {
    unsigned long long stream = p.stream;
    if (p.counter) stream += (p.counter[0] | (unsigned long long)p.counter[1] << 32) * p.times;
    return philox((unsigned)block, 0u, (unsigned)stream, (unsigned)(stream >> 32), (unsigned)p.seed,
                  (unsigned)(p.seed >> 32));
}

// f64, rounded once: the CPU's value to one unit in the last place.
DEV void box_muller(unsigned a, unsigned b, float* x, float* y) {
    double u = ((double)(a >> 8) + 1.0) * (1.0 / 16777216.0);
    double v = (double)(b >> 8) * (1.0 / 16777216.0);
    double r = sqrt(-2.0 * log(u));
    double t = 6.283185307179586476925286766559 * v;
    *x = (float)(r * cos(t));
    *y = (float)(r * sin(t));
}

KERNEL random_normal_f32(float* __restrict__ out, RandomParams p) {
    int block = blockIdx.x * blockDim.x + threadIdx.x;
    int i = 4 * block;
    if (i >= p.n) return;
    uint4 w = random_words(p, block);
    float v[4];
    box_muller(w.x, w.y, &v[0], &v[1]);
    box_muller(w.z, w.w, &v[2], &v[3]);
    for (int j = 0; j < 4 && i + j < p.n; ++j) out[i + j] = v[j];
}

KERNEL random_uniform_f32(float* __restrict__ out, RandomParams p) {
    int block = blockIdx.x * blockDim.x + threadIdx.x;
    int i = 4 * block;
    if (i >= p.n) return;
    uint4 q = random_words(p, block);
    unsigned w[4] = {q.x, q.y, q.z, q.w};
    for (int j = 0; j < 4 && i + j < p.n; ++j) {
        float u = (float)(w[j] >> 8) * (1.0f / 16777216.0f);
        // Never contracted to a fused multiply-add, or the devices would differ.
        out[i + j] = __fadd_rn(p.low, __fmul_rn(p.width, u));
    }
}

KERNEL random_labels_i32(int* __restrict__ out, RandomParams p) {
    int block = blockIdx.x * blockDim.x + threadIdx.x;
    int i = 4 * block;
    if (i >= p.n) return;
    uint4 q = random_words(p, block);
    unsigned w[4] = {q.x, q.y, q.z, q.w};
    for (int j = 0; j < 4 && i + j < p.n; ++j) out[i + j] = (int)(((unsigned long long)w[j] * p.classes) >> 32);
}
