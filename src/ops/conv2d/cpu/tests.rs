//! Every instruction set of this CPU, not only the widest, against the definition in f64; NaN that must not spread.

use super::super::{Conv2dParams, plain};
use super::*;

fn ramp(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&v| f64::from(v)).collect()
}

/// Terms are products of numbers up to 1; four roundings of each for what tiles add and subtract before and after.
fn close(what: &str, g: &Geometry, got: &[f32], want: &[f64]) {
    let tolerance = 4.0 * f64::from(f32::EPSILON) * g.reduction().max(4 * 9 * g.k) as f64;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*got) - want).abs() < tolerance, "{what} of {g:?} [{i}] = {got}, expected {want}");
    }
}

fn geometry([n, h, w, c]: [usize; 4], [k, r, s]: [usize; 3], stride: usize, pad: usize) -> Geometry {
    with([n, h, w, c], [k, r, s], Conv2dParams::new(stride, pad))
}

fn with([n, h, w, c]: [usize; 4], [k, r, s]: [usize; 3], p: Conv2dParams) -> Geometry {
    Geometry::new("conv2d", [n, h, w, c].into(), [k, r, s, c].into(), p).unwrap()
}

#[test]
fn all_instruction_sets_agree_with_the_definition() {
    let geometries = [
        geometry([3, 7, 19, 16], [3, 3, 3], 1, 1),
        geometry([1, 5, 7, 8], [2, 3, 3], 2, 1),
        geometry([2, 9, 33, 3], [16, 3, 3], 1, 1),
        geometry([2, 8, 10, 5], [37, 3, 3], 2, 1),
        geometry([1, 6, 6, 50], [70, 1, 1], 2, 0),
        geometry([2, 5, 4, 3], [4, 4, 2], 3, 2),
        geometry([1, 4, 4, 32], [1, 1, 1], 1, 0),
        // By Winograd's tiles: even and odd sizes, with and without padding, more images than parts of a filter gradient.
        geometry([2, 8, 8, 32], [32, 3, 3], 1, 1),
        geometry([3, 7, 9, 32], [48, 3, 3], 1, 1),
        geometry([19, 5, 4, 48], [32, 3, 3], 1, 0),
        geometry([1, 3, 1, 32], [32, 3, 3], 1, 2),
        geometry([1, 21, 70, 64], [32, 3, 3], 1, 1),
        with([2, 6, 5, 32], [32, 3, 3], Conv2dParams::new(1, 0).pads([0, 2, 1, 1])),
        // What differs between axes and sides.
        with([2, 9, 12, 5], [7, 1, 7], Conv2dParams::new(1, 0).pads([0, 3, 0, 3])),
        with([1, 30, 40, 24], [16, 5, 3], Conv2dParams::new(1, 0).strides([1, 2]).pads([2, 0, 1, 3])),
        with([2, 11, 10, 3], [33, 3, 2], Conv2dParams::new(1, 0).strides([3, 2]).pads([0, 1, 4, 0])),
        with([1, 1, 9, 4], [5, 1, 3], Conv2dParams::new(1, 0).strides([4, 1]).pads([0, 0, 0, 1])),
    ];
    assert_eq!(geometries.iter().filter(|g| Winograd::serves(g)).count(), 6);
    for isa in Isa::all() {
        for g in &geometries {
            let (x, w) = (ramp(g.n * g.h * g.w * g.c, 1), ramp(g.k * g.r * g.s * g.c, 2));
            let (dy, bias) = (ramp(g.n * g.p * g.q * g.k, 3), ramp(g.k, 4));
            let mut y = dy.clone();
            let mut want = wide(&dy);
            let rows = vec![(); g.n * g.p];
            correlate(isa, &x, krsc(&w, g), Some(&bias), &mut y, GradMode::Overwrite, g, rows, |_, _| ());
            plain::fprop(&wide(&x), &wide(&w), Some(&wide(&bias)), &mut want, g);
            close(&format!("{isa:?} y"), g, &y, &want);

            let mut dx = x.clone();
            let mut want = wide(&x);
            transpose(isa, &dy, krsc(&w, g), &mut dx, GradMode::Accumulate, g);
            plain::dgrad(&wide(&dy), &wide(&w), &mut want, GradMode::Accumulate, g);
            close(&format!("{isa:?} dx"), g, &dx, &want);

            let mut want = wide(&w);
            plain::wgrad(&wide(&x), &wide(&dy), &mut want, GradMode::Overwrite, g);
            close(&format!("{isa:?} dw"), g, &filter_gradient(isa, (&x, 0.0), &dy, g), &want);
        }
    }
}

#[test]
fn upsampling_agrees_with_the_definition_for_all_instruction_sets() {
    for isa in Isa::all() {
        for (x, k) in [([1, 1, 1, 1], 1), ([2, 3, 5, 7], 3), ([18, 4, 4, 16], 40), ([1, 9, 30, 24], 16)] {
            let g = geometry(x, [k, 3, 3], 1, 1);
            let (x, w) = (ramp(g.n * g.h * g.w * g.c, 1), ramp(k * 9 * g.c, 2));
            let (dy, bias) = (ramp(4 * g.n * g.h * g.w * k, 3), ramp(k, 4));
            let mut y = dy.clone();
            let mut want = wide(&dy);
            upsample::fprop(isa, &x, &w, Some(&bias), &mut y, &g);
            plain::upsample_fprop(&wide(&x), &wide(&w), Some(&wide(&bias)), &mut want, &g);
            close(&format!("{isa:?} y"), &g, &y, &want);

            let mut dx = x.clone();
            let mut want = wide(&x);
            upsample::dgrad(isa, &dy, &w, &mut dx, GradMode::Accumulate, &g);
            plain::upsample_dgrad(&wide(&dy), &wide(&w), &mut want, GradMode::Accumulate, &g);
            close(&format!("{isa:?} dx"), &g, &dx, &want);

            let mut want = wide(&w);
            plain::upsample_wgrad(&wide(&x), &wide(&dy), &mut want, GradMode::Overwrite, &g);
            close(&format!("{isa:?} dw"), &g, &upsample::wgrad(isa, &x, &dy, &g), &want);
        }
    }
}

/// A NaN reaches exactly the outputs whose windows hold it, whatever lies beside it in the scratch rows.
#[test]
fn nan_stays_in_its_window() {
    for isa in Isa::all() {
        for (c, k) in [(16, 3), (3, 16), (5, 2)] {
            let g = geometry([1, 6, 9, c], [k, 3, 3], 1, 1);
            let (mut x, w) = (ramp(g.h * g.w * c, 1), ramp(k * 9 * c, 2));
            x[(2 * g.w + 4) * c] = f32::NAN;
            let mut y = vec![0f32; g.p * g.q * k];
            correlate(isa, &x, krsc(&w, &g), None, &mut y, GradMode::Overwrite, &g, vec![(); g.p], |_, _| ());
            for (i, y) in y.iter().enumerate() {
                let (p, q) = (i / k / g.q, i / k % g.q);
                let touched = (1..=3).contains(&p) && (3..=5).contains(&q);
                assert_eq!(y.is_nan(), touched, "{isa:?} c{c} k{k} output {p},{q}");
            }
        }
    }
}
