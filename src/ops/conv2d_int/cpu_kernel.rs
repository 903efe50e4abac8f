//! The register-blocked inner kernel of integer convolutions on the CPU: a row of output pixels, sums of products of bytes
//! in i32, written once over a small vector trait and compiled for AVX-512 VNNI, AVX2 and the portable baseline.
//!
//! Both operands lie in words of four bytes: four `u8` activations against four `i8` weights (VNNI multiplies these and adds
//! all four to a sum), or two `i16` of either (AVX2 and the portable path: no instruction there adds products of bytes
//! without saturating). Sums wrap; callers see to it that the true ones fit.
//!
//! The only `unsafe` of the integer convolution. Contract: [`row`] checks every range that the kernels will touch against
//! the slices it is given, and calls an instruction set only after the CPU reported it.

mod lanes;

use lanes::Lanes;
use crate::device::VectorWidth;
use std::sync::OnceLock;

/// Instruction set of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    #[cfg(target_arch = "x86_64")]
    Vnni,
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
            Self::Vnni => VectorWidth::Avx512,
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
            let has512 = std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw");
            if has512 && std::is_x86_feature_detected!("avx512vnni") {
                all.push(Self::Vnni);
            }
            if std::is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
            }
        }
        all.push(Self::Portable);
        all
    }
    /// Words in a vector.
    pub fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => 16,
            _ => 8,
        }
    }
    /// Bytes of an element: words hold four elements of one, or two of two.
    pub fn bytes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => 1,
            _ => 2,
        }
    }
    /// Output channels of a block of packed weights, for `k` output channels: one or two vectors.
    pub fn width(self, k: usize) -> usize {
        let vectors = k.div_ceil(self.lanes());
        if vectors == 1 || vectors == 3 { self.lanes() } else { 2 * self.lanes() }
    }
}

/// A row of output pixels.
///
/// `out[col * k + i] = sum_{r, e} x[r * x_row + col * x_pixel + 4 e ..][..4] . w[block][r][e][lane]`, `e < words`, `i` the
/// `lane`-th channel of its block. All `x` strides in bytes.
pub struct Row<'a> {
    pub x: &'a [u8],
    pub x_row: usize,
    pub x_pixel: usize,
    pub cols: usize,
    pub r: usize,
    pub words: usize,
    /// `[k / width][r][words][width]`, zero beyond `k`.
    pub w: &'a [i32],
    pub k: usize,
}

/// Computes a row into `out[cols * k]` with the instructions of `isa`.
pub fn row(isa: Isa, b: &Row, out: &mut [i32]) {
    if b.cols == 0 || b.k == 0 {
        return;
    }
    let width = isa.width(b.k);
    let source = b.r.saturating_sub(1) * b.x_row + (b.cols - 1) * b.x_pixel + 4 * b.words;
    assert!(b.x.len() >= source, "source of the row");
    assert!(b.w.len() >= b.k.div_ceil(width) * b.r * b.words * width, "packed weights");
    assert!(out.len() >= b.cols * b.k, "output of the row");
    // SAFETY: ranges checked above; an `Isa` exists only if the CPU has it.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Vnni => row_vnni(b, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => row_avx2(b, out),
            Isa::Portable => blocks_of::<lanes::Baseline, 1, 4>(b, out, width),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn row_vnni(b: &Row, out: &mut [i32]) {
    use std::arch::x86_64::__m512i;
    unsafe {
        match Isa::Vnni.width(b.k) {
            16 => blocks_of::<__m512i, 1, 16>(b, out, 16),
            _ => blocks_of::<__m512i, 2, 8>(b, out, 32),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn row_avx2(b: &Row, out: &mut [i32]) {
    use std::arch::x86_64::__m256i;
    unsafe {
        match Isa::Avx2.width(b.k) {
            8 => blocks_of::<__m256i, 1, 8>(b, out, 8),
            _ => blocks_of::<__m256i, 2, 4>(b, out, 16),
        }
    }
}

/// All channel blocks (of `width`, a multiple of `KV` vectors) and columns; `PX` pixels at a time where they last.
#[inline(always)]
unsafe fn blocks_of<V: Lanes, const KV: usize, const PX: usize>(b: &Row, out: &mut [i32], width: usize) {
    let lanes = KV * V::N;
    let (x, out) = (b.x.as_ptr(), out.as_mut_ptr());
    for block in 0..b.k.div_ceil(lanes) {
        let first = block * lanes;
        let t = Tile {
            x_row: b.x_row,
            x_pixel: b.x_pixel,
            r: b.r,
            words: b.words,
            w: unsafe { b.w.as_ptr().add(first / width * width * b.r * b.words + first % width) },
            w_step: width,
            k: b.k,
            valid: (b.k - first).min(lanes),
        };
        let mut col = 0;
        macro_rules! tiles {
            ($px:expr) => {
                while b.cols - col >= $px {
                    unsafe { tile::<V, KV, { $px }>(&t, x.add(col * b.x_pixel), out.add(col * b.k + first)) };
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

struct Tile {
    x_row: usize,
    x_pixel: usize,
    r: usize,
    words: usize,
    w: *const i32,
    w_step: usize,
    k: usize,
    valid: usize,
}

/// `PX` neighbouring pixels times `KV` vectors of output channels, in registers.
#[inline(always)]
unsafe fn tile<V: Lanes, const KV: usize, const PX: usize>(t: &Tile, x: *const u8, out: *mut i32) {
    unsafe {
        let mut acc = [[V::zero(); KV]; PX];
        let mut w = t.w;
        for r in 0..t.r {
            // One pointer per four pixels: more would not fit in the general registers.
            let mut from: [*const u8; 4] = std::array::from_fn(|j| x.wrapping_add(r * t.x_row + 4 * j * t.x_pixel));
            for _ in 0..t.words {
                let row: [V; KV] = std::array::from_fn(|v| V::load(w.add(v * V::N)));
                for (j, a) in acc.iter_mut().enumerate() {
                    let s = V::splat(from[j / 4].add(j % 4 * t.x_pixel));
                    for (a, w) in a.iter_mut().zip(row) {
                        *a = a.dot(s, w);
                    }
                }
                w = w.add(t.w_step);
                for f in &mut from {
                    *f = f.wrapping_add(4);
                }
            }
        }
        for (j, a) in acc.iter().enumerate() {
            let to = out.add(j * t.k);
            if t.valid == KV * V::N {
                for (v, a) in a.iter().enumerate() {
                    a.store(to.add(v * V::N));
                }
            } else {
                let mut lanes = [0i32; 32];
                for (v, a) in a.iter().enumerate() {
                    a.store(lanes.as_mut_ptr().add(v * V::N));
                }
                std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, t.valid);
            }
        }
    }
}
