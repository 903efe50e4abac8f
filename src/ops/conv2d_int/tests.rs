//! Every instruction set of this CPU against the definition in 64-bit integers, bit for bit.

use super::cpu_kernel::Isa;
use super::*;

/// Codes over the whole width.
fn codes(n: usize, bits: u8, seed: usize) -> Vec<i8> {
    let steps = 1usize << bits;
    (0..n).map(|i| (((i * 7919 + seed * 104_729) % 1009 * steps / 1009) as i16 - (steps / 2) as i16) as i8).collect()
}

fn geometry([n, h, w, c]: [usize; 4], [k, r, s]: [usize; 3], stride: usize, pad: usize) -> Geometry {
    with([n, h, w, c], [k, r, s], Conv2dParams::new(stride, pad))
}

fn with([n, h, w, c]: [usize; 4], [k, r, s]: [usize; 3], p: Conv2dParams) -> Geometry {
    Geometry::new(OP, [n, h, w, c].into(), [k, r, s, c].into(), p).unwrap()
}

/// `x` in `[lo, lo + 2]`; channels around 0, beyond it on either side, and far from it.
fn ranges(xbits: u8, lo: f32, wbits: u8, k: usize) -> Ranges<f32> {
    let w = |i: usize| {
        let (lo, hi) = [(-1.0, 0.7), (0.0, 1.5), (-0.3, -0.2), (2.0, 2.5), (-1.0, 1.0)][i % 5];
        Affine::new(lo - 0.01 * i as f32, hi, wbits)
    };
    Ranges::new(Affine::new(lo, lo + 2.0, xbits), (0..k).map(w).collect())
}

#[test]
fn all_instruction_sets_equal_the_definition() {
    let geometries = [
        geometry([2, 7, 19, 16], [3, 3, 3], 1, 1),
        geometry([1, 5, 7, 8], [2, 3, 3], 2, 1),
        geometry([1, 9, 33, 3], [16, 3, 3], 1, 1),
        geometry([2, 8, 10, 5], [37, 3, 3], 2, 1),
        geometry([1, 6, 6, 50], [70, 1, 1], 2, 0),
        geometry([1, 5, 4, 3], [4, 4, 2], 3, 2),
        geometry([1, 3, 4, 2], [3, 3, 3], 1, 4),
        geometry([1, 41, 3, 1], [1, 1, 1], 1, 0),
        with([2, 9, 12, 5], [7, 1, 7], Conv2dParams::new(1, 0).pads([0, 3, 0, 3])),
        with([1, 11, 10, 3], [33, 3, 2], Conv2dParams::new(1, 0).strides([3, 2]).pads([0, 1, 4, 0])),
    ];
    for (i, g) in geometries.iter().enumerate() {
        for xbits in 2..=8 {
            for wbits in 2..=8 {
                // All widths where it is cheap, a diagonal elsewhere.
                if i > 1 && (xbits + 3 * wbits + i as u8) % 7 != 0 {
                    continue;
                }
                for lo in [0.0, -0.6, 0.5, -3.0] {
                    let ranges = ranges(xbits, lo, wbits, g.k);
                    let (x, w) = (codes(g.n * g.h * g.w * g.c, xbits, 1), codes(g.k * g.r * g.s * g.c, wbits, 2));
                    let mut want = vec![0f32; g.n * g.p * g.q * g.k];
                    plain::fprop(&x, &w, &ranges, None, &mut want, g);
                    for isa in Isa::all() {
                        let plan = Plan::with(isa, &w, &ranges, g).expect("small sums");
                        let mut got = vec![f32::NAN; want.len()];
                        plan.run(&x, &mut got, |_, _, sums, y| y.copy_from_slice(sums));
                        let differ = got.iter().zip(&want).position(|(a, b)| a.to_bits() != b.to_bits());
                        assert_eq!(differ, None, "{isa:?} a{xbits} w{wbits} lo {lo} {g:?}");
                    }
                }
            }
        }
    }
}

/// The definition itself, against sums of products of values in f64.
#[test]
fn the_definition_is_the_convolution_of_the_values() {
    let g = geometry([1, 4, 5, 3], [4, 3, 3], 1, 1);
    let (x, w) = (codes(60, 4, 1), codes(108, 8, 2));
    let ax = Affine::new(0.4f64, 2.0, 4);
    let ranges = Ranges::new(ax, (0..4).map(|i| Affine::new(-1.0 - f64::from(i), 0.5, 8)).collect());
    let mut y = vec![0f64; 80];
    plain::fprop(&x, &w, &ranges, None, &mut y, &g);
    let at = |h: isize, v: isize, c: usize| {
        let inside = (0..4).contains(&h) && (0..5).contains(&v);
        if inside { ax.value(f64::from(x[(h as usize * 5 + v as usize) * 3 + c])) } else { 0.0 }
    };
    for (i, y) in y.iter().enumerate() {
        let (p, q, k) = (i / 20, i / 4 % 5, i % 4);
        let mut want = 0.0;
        for (j, w) in w[k * 27..][..27].iter().enumerate() {
            want +=
                at((p + j / 9) as isize - 1, (q + j / 3 % 3) as isize - 1, j % 3) * ranges.w[k].value(f64::from(*w));
        }
        assert!((y - want).abs() < 1e-12, "{y} {want}");
    }
}

/// Sums that may leave 32 bits, and zero points beyond all bounds, take the plain path and stay what they are.
#[test]
fn far_zero_points_are_exact_or_cut_off() {
    let g = geometry([1, 3, 3, 64], [2, 3, 3], 1, 1);
    let w = |lo: f32, hi: f32| Affine::new(lo, hi, 8);
    let far = Ranges::new(Affine::new(0.0, 1.0, 8), vec![w(0.3, 0.3), w(-1.0, 1.0)]);
    assert!(Plan::new(&codes(2 * 576, 8, 2), &far, &g).is_none());
    let mut y = vec![0f32; 18];
    plain::fprop(&codes(576, 8, 1), &codes(2 * 576, 8, 2), &far, None, &mut y, &g);
    assert!(y.iter().all(|v| v.is_finite()));
    let beyond = Ranges::new(Affine::new(1e30f32, 1e30, 8), vec![Affine::new(f32::NAN, 1.0, 8)]);
    assert_eq!((beyond.x_zero, beyond.w_zero[0]), (MAX_ZERO[0], 0));
    assert!(beyond.unit(&beyond.w[0]).is_nan());
}
