//! Products of a filter gradient, under the contract of the module above.

use super::Isa;
use super::lanes::Lanes;

/// Part of a filter gradient: rows of pixels that meet one filter row.
///
/// `dw[i * dw_k + e] += sum_{row, col} dy[row * dy_row + col * dy_pixel + i] * x[row * x_step + col * x_pixel + e]` for
/// `i < k` and `e < taps`, rounded up to whole vectors: `x` and `dw` must reach so far.
pub struct Outer<'a> {
    pub x: &'a [f32],
    pub x_step: usize,
    pub x_pixel: usize,
    pub dy: &'a [f32],
    pub dy_row: usize,
    pub dy_pixel: usize,
    pub rows: usize,
    pub cols: usize,
    pub k: usize,
    pub taps: usize,
    pub dw_k: usize,
}

/// Adds the products into `dw` with the instructions of `isa`.
pub fn outer(isa: Isa, o: &Outer, dw: &mut [f32]) {
    if o.rows == 0 || o.cols == 0 || o.k == 0 || o.taps == 0 {
        return;
    }
    let taps = o.taps.next_multiple_of(isa.lanes());
    assert!(o.x.len() >= (o.rows - 1) * o.x_step + (o.cols - 1) * o.x_pixel + taps, "source of the products");
    assert!(o.dy.len() >= (o.rows - 1) * o.dy_row + (o.cols - 1) * o.dy_pixel + o.k, "gradient of the products");
    assert!(dw.len() >= (o.k - 1) * o.dw_k + taps, "sum of the products");
    // SAFETY: ranges checked above; an `Isa` exists only if the CPU has it.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => outer_avx512(o, dw),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => outer_avx2(o, dw),
            Isa::Portable => outer_of::<[f32; 8], 4, 1, 4>(o, dw),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn outer_avx512(o: &Outer, dw: &mut [f32]) {
    unsafe { outer_of::<std::arch::x86_64::__m512, 8, 3, 16>(o, dw) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn outer_avx2(o: &Outer, dw: &mut [f32]) {
    unsafe { outer_of::<std::arch::x86_64::__m256, 4, 2, 8>(o, dw) }
}

/// `EV` vectors of filter elements times `KB` output channels where they last, then fewer; `ONE` channels for one vector.
#[inline(always)]
unsafe fn outer_of<V: Lanes, const KB: usize, const EV: usize, const ONE: usize>(o: &Outer, dw: &mut [f32]) {
    let vectors = o.taps.div_ceil(V::N);
    let dw = dw.as_mut_ptr();
    let mut e = 0;
    macro_rules! columns {
        ($ev:expr, $kb:expr) => {
            while vectors - e >= $ev {
                let mut k = 0;
                macro_rules! channels {
                    ($n:expr) => {
                        while o.k - k >= $n {
                            unsafe { products::<V, { $n }, { $ev }>(o, e * V::N, k, dw.add(k * o.dw_k + e * V::N)) };
                            k += $n;
                        }
                    };
                }
                channels!($kb);
                channels!(4);
                channels!(3);
                channels!(1);
                e += $ev;
            }
        };
    }
    // Threes where they come out even, as with 3 filter columns; else twos.
    if EV < 3 || vectors % 3 == 0 {
        columns!(EV, KB);
    }
    if EV > 1 {
        columns!(2, KB);
    }
    columns!(1, ONE);
}

#[inline(always)]
unsafe fn products<V: Lanes, const KB: usize, const EV: usize>(o: &Outer, e: usize, k: usize, dw: *mut f32) {
    unsafe {
        let mut acc: [[V; EV]; KB] =
            std::array::from_fn(|i| std::array::from_fn(|v| V::load(dw.add(i * o.dw_k + v * V::N))));
        for row in 0..o.rows {
            let mut x = o.x.as_ptr().add(row * o.x_step + e);
            let mut dy = o.dy.as_ptr().add(row * o.dy_row + k);
            for _ in 0..o.cols {
                let xs: [V; EV] = std::array::from_fn(|v| V::load(x.add(v * V::N)));
                for (i, a) in acc.iter_mut().enumerate() {
                    let s = V::splat(dy.add(i));
                    for (a, x) in a.iter_mut().zip(xs) {
                        *a = a.fma(s, x);
                    }
                }
                x = x.wrapping_add(o.x_pixel);
                dy = dy.wrapping_add(o.dy_pixel);
            }
        }
        for (i, a) in acc.iter().enumerate() {
            for (v, a) in a.iter().enumerate() {
                a.store(dw.add(i * o.dw_k + v * V::N));
            }
        }
    }
}
