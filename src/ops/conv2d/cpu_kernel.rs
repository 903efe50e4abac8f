//! The register-blocked inner kernels of the f32 CPU path, written once over a small vector trait and compiled for
//! AVX-512, AVX2 with FMA, and the portable baseline; the widest one this CPU has is taken at run time.
//!
//! The only `unsafe` of the CPU convolutions. Contract: the public functions check every range that the kernels will
//! touch against the slices they are given, and call an instruction set only after the CPU reported it; the kernels
//! below them do plain pointer arithmetic within those ranges.

mod lanes;
mod outer;

use lanes::Lanes;
use crate::device::VectorWidth;
use std::sync::OnceLock;

pub use outer::{Outer, outer};

/// Instruction set of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// The widest of this CPU that loops may use.
    pub fn widest() -> Self {
        static FOUND: OnceLock<Isa> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let may = |isa: &Self| isa.needs() <= VectorWidth::here();
            Self::all().into_iter().find(may).expect("portable is always there")
        })
    }
    fn needs(self) -> VectorWidth {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => VectorWidth::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => VectorWidth::Avx2,
            Self::Portable => VectorWidth::Portable,
        }
    }
    /// All that this CPU can run, widest first.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::is_x86_feature_detected!("avx512f") {
                all.push(Self::Avx512);
            }
            if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }
    /// Floats in a vector.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => 16,
            _ => 8,
        }
    }
    /// Whether few output channels are better computed as dot products along the `taps` neighbouring floats of a source
    /// row: lanes then run over taps, of which whole vectors must come out (what lies behind could be NaN).
    pub fn dots(self, k: usize, taps: usize) -> bool {
        k <= 4 && taps.is_multiple_of(self.lanes())
    }
    /// Output channels of a block of packed weights, for `k` output channels: one or two vectors.
    pub fn width(self, k: usize) -> usize {
        let vectors = k.div_ceil(self.lanes());
        if vectors == 1 || vectors == 3 { self.lanes() } else { 2 * self.lanes() }
    }
}

/// Rows of output pixels of a convolution without borders.
///
/// `out[row][col][k] (+)= bias[k] + sum_{r, e} x[row * x_step + r * x_row + col * x_pixel + e] * w[r][e][k]`, `e` over the
/// `taps` neighbouring floats (filter columns times channels) of one source row. All strides in floats.
pub struct Band<'a> {
    pub x: &'a [f32],
    pub x_step: usize,
    pub x_row: usize,
    pub x_pixel: usize,
    pub rows: usize,
    pub cols: usize,
    pub r: usize,
    pub taps: usize,
    /// `[k / width][r][taps][width]`, zero beyond `k`; where [`Isa::dots`], `[k][r][taps]`.
    pub w: &'a [f32],
    pub k: usize,
    /// Padded to whole blocks, zero where there is none.
    pub bias: &'a [f32],
    pub out_row: usize,
    pub out_pixel: usize,
    pub accumulate: bool,
}

/// Computes a band into `out` with the instructions of `isa`.
pub fn band(isa: Isa, b: &Band, out: &mut [f32]) {
    if b.rows == 0 || b.cols == 0 || b.k == 0 {
        return;
    }
    let dots = isa.dots(b.k, b.taps);
    let width = if dots { 1 } else { isa.width(b.k) };
    let blocks = b.k.div_ceil(width);
    let source = (b.rows - 1) * b.x_step + b.r.saturating_sub(1) * b.x_row + (b.cols - 1) * b.x_pixel + b.taps;
    assert!(b.x.len() >= source || b.r * b.taps == 0, "source of the band");
    assert!(b.w.len() >= blocks * b.r * b.taps * width && b.bias.len() >= blocks * width, "packed weights");
    assert!(out.len() >= (b.rows - 1) * b.out_row + (b.cols - 1) * b.out_pixel + b.k, "output of the band");
    // SAFETY: ranges checked above; an `Isa` exists only if the CPU has it.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => band_avx512(b, out, dots),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => band_avx2(b, out, dots),
            Isa::Portable if dots => dots_of::<[f32; 8], 1>(b, out),
            Isa::Portable => blocks_of::<[f32; 8], 1, 4>(b, out, width),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn band_avx512(b: &Band, out: &mut [f32], dots: bool) {
    use std::arch::x86_64::__m512;
    unsafe {
        match Isa::Avx512.width(b.k) {
            _ if dots => dots_of::<__m512, 6>(b, out),
            16 => blocks_of::<__m512, 1, 16>(b, out, 16),
            _ => blocks_of::<__m512, 2, 8>(b, out, 32),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn band_avx2(b: &Band, out: &mut [f32], dots: bool) {
    use std::arch::x86_64::__m256;
    unsafe {
        match Isa::Avx2.width(b.k) {
            _ if dots => dots_of::<__m256, 2>(b, out),
            8 => blocks_of::<__m256, 1, 8>(b, out, 8),
            _ => blocks_of::<__m256, 2, 4>(b, out, 16),
        }
    }
}

/// All channel blocks (of `width`, a multiple of `KV` vectors), rows and columns; `PX` pixels at a time where they last.
#[inline(always)]
unsafe fn blocks_of<V: Lanes, const KV: usize, const PX: usize>(b: &Band, out: &mut [f32], width: usize) {
    let lanes = KV * V::N;
    let (x, out) = (b.x.as_ptr(), out.as_mut_ptr());
    for block in 0..b.k.div_ceil(lanes) {
        let first = block * lanes;
        let t = Tile {
            x_row: b.x_row,
            x_pixel: b.x_pixel,
            r: b.r,
            taps: b.taps,
            w: unsafe { b.w.as_ptr().add(first / width * width * b.r * b.taps + first % width) },
            w_step: width,
            bias: unsafe { b.bias.as_ptr().add(first) },
            out_pixel: b.out_pixel,
            valid: (b.k - first).min(lanes),
            accumulate: b.accumulate,
        };
        for row in 0..b.rows {
            let mut col = 0;
            macro_rules! tiles {
                ($px:expr) => {
                    while b.cols - col >= $px {
                        unsafe {
                            let x = x.add(row * b.x_step + col * b.x_pixel);
                            let out = out.add(row * b.out_row + col * b.out_pixel + first);
                            tile::<V, KV, { $px }>(&t, x, out);
                        }
                        col += $px;
                    }
                };
            }
            tiles!(PX);
            if PX > 8 {
                tiles!(8);
            }
            if PX > 4 {
                tiles!(4);
            }
            tiles!(2);
            tiles!(1);
        }
    }
}

struct Tile {
    x_row: usize,
    x_pixel: usize,
    r: usize,
    taps: usize,
    w: *const f32,
    w_step: usize,
    bias: *const f32,
    out_pixel: usize,
    valid: usize,
    accumulate: bool,
}

/// `PX` neighbouring pixels times `KV` vectors of output channels, in registers.
#[inline(always)]
unsafe fn tile<V: Lanes, const KV: usize, const PX: usize>(t: &Tile, x: *const f32, out: *mut f32) {
    unsafe {
        let mut acc = [[V::load(t.bias); KV]; PX];
        for a in &mut acc {
            for (v, a) in a.iter_mut().enumerate() {
                *a = V::load(t.bias.add(v * V::N));
            }
        }
        let mut w = t.w;
        for r in 0..t.r {
            // One pointer per four pixels: more would not fit in the general registers.
            let mut from: [*const f32; 4] = std::array::from_fn(|j| x.wrapping_add(r * t.x_row + 4 * j * t.x_pixel));
            for _ in 0..t.taps {
                let row: [V; KV] = std::array::from_fn(|v| V::load(w.add(v * V::N)));
                for (j, a) in acc.iter_mut().enumerate() {
                    let s = V::splat(from[j / 4].add(j % 4 * t.x_pixel));
                    for (a, w) in a.iter_mut().zip(row) {
                        *a = a.fma(s, w);
                    }
                }
                w = w.add(t.w_step);
                for f in &mut from {
                    *f = f.wrapping_add(1);
                }
            }
        }
        for (j, a) in acc.iter().enumerate() {
            let to = out.add(j * t.out_pixel);
            if t.valid == KV * V::N {
                for (v, a) in a.iter().enumerate() {
                    let to = to.add(v * V::N);
                    let sum = if t.accumulate { a.add(V::load(to)) } else { *a };
                    sum.store(to);
                }
            } else {
                let mut lanes = [0f32; 32];
                for (v, a) in a.iter().enumerate() {
                    a.store(lanes.as_mut_ptr().add(v * V::N));
                }
                for (i, l) in lanes[..t.valid].iter().enumerate() {
                    let to = to.add(i);
                    *to = if t.accumulate { *to + l } else { *l };
                }
            }
        }
    }
}

/// A band of one to four output channels, `PX` pixels at a time where they last, lanes along the taps.
#[inline(always)]
unsafe fn dots_of<V: Lanes, const PX: usize>(b: &Band, out: &mut [f32]) {
    for row in 0..b.rows {
        let mut col = 0;
        macro_rules! pixels {
            ($px:expr) => {
                while b.cols - col >= $px {
                    unsafe {
                        let x = b.x.as_ptr().add(row * b.x_step + col * b.x_pixel);
                        let out = out.as_mut_ptr().add(row * b.out_row + col * b.out_pixel);
                        match b.k {
                            1 => dot_tile::<V, 1, { $px }>(b, x, out),
                            2 => dot_tile::<V, 2, { $px }>(b, x, out),
                            3 => dot_tile::<V, 3, { $px }>(b, x, out),
                            _ => dot_tile::<V, 4, { $px }>(b, x, out),
                        }
                    }
                    col += $px;
                }
            };
        }
        pixels!(PX);
        pixels!(1);
    }
}

#[inline(always)]
unsafe fn dot_tile<V: Lanes, const K: usize, const PX: usize>(b: &Band, x: *const f32, out: *mut f32) {
    unsafe {
        let mut acc = [[V::zero(); K]; PX];
        for r in 0..b.r {
            let x = x.add(r * b.x_row);
            let w = b.w.as_ptr().add(r * b.taps);
            for e in (0..b.taps).step_by(V::N) {
                let ws: [V; K] = std::array::from_fn(|k| V::load(w.add(k * b.r * b.taps + e)));
                for (j, a) in acc.iter_mut().enumerate() {
                    let v = V::load(x.add(j * b.x_pixel + e));
                    for (a, w) in a.iter_mut().zip(ws) {
                        *a = a.fma(v, w);
                    }
                }
            }
        }
        for (j, a) in acc.iter().enumerate() {
            for (k, a) in a.iter().enumerate() {
                let to = out.add(j * b.out_pixel + k);
                let sum = a.sum() + b.bias[k];
                *to = if b.accumulate { *to + sum } else { sum };
            }
        }
    }
}
