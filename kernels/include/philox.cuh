// Philox4x32-10 (Salmon et al., SC 2011): four random words from a counter and a key; twin of ops::random::philox.
#pragma once
#include "device.cuh"

DEV uint4 philox(unsigned a, unsigned b, unsigned c, unsigned d, unsigned k0, unsigned k1) {
    for (int round = 0; round < 10; ++round) {
        if (round > 0) {
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        unsigned long long x = (unsigned long long)a * 0xD2511F53u;
        unsigned long long y = (unsigned long long)c * 0xCD9E8D57u;
        a = (unsigned)(y >> 32) ^ b ^ k0;
        b = (unsigned)y;
        c = (unsigned)(x >> 32) ^ d ^ k1;
        d = (unsigned)x;
    }
    return make_uint4(a, b, c, d);
}
