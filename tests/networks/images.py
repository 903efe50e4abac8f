"""Images from a formula that the tests repeat: coarse blocks and fine noise from one linear congruential generator."""
import numpy as np

def draws(seed, n):
    """`n` multiples of 1/128 in [-1, 1): s' = 1664525 s + 1013904223 mod 2^32, the value is (s' >> 24) / 128 - 1."""
    values, state = np.empty(n, np.float32), seed & 0xFFFFFFFF
    for i in range(n):
        state = (1664525 * state + 1013904223) & 0xFFFFFFFF
        values[i] = (state >> 24) / 128 - 1
    return values

def images(seed, shape):
    """f32 `[n, c, h, w]`: a draw per block of a 4 x 4 grid, plus half a draw per pixel; the blocks' draws come first."""
    n, c, h, w = shape
    blocks = draws(seed, n * c * 16).reshape(n, c, 4, 4)
    fine = draws(seed + 1, n * c * h * w).reshape(shape)
    rows, columns = np.arange(h) * 4 // h, np.arange(w) * 4 // w
    return np.ascontiguousarray(blocks[:, :, rows][:, :, :, columns] + fine / 2, np.float32)
