//! Case table of the grouped convolution of codes.

use super::{OP, conv2d_grouped_int};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, GradCheck};
use crate::ops::conv2d::{Conv2dParams, windows};
use crate::ops::conv2d_grouped::Groups;
use crate::ops::conv2d_int::{coded, coded_inputs};
use crate::quant::Axis;
use crate::tensor::Shape;

/// `x`, `[k r s]`, groups, parameters, bits of `x` and `w`, bias.
fn case(
    label: &str,
    x: [usize; 4],
    [k, r, s]: [usize; 3],
    groups: usize,
    p: Conv2dParams,
    bits: [u8; 2],
    bias: bool,
) -> Case {
    let w = [k, r, s, x[3] / groups];
    let g = Groups::new(OP, x.into(), w.into(), groups, p).expect("case shapes are valid");
    let run = move |t: &mut Tape, v: &[Var]| {
        let ((x, xq), (w, wq)) = (coded(t, &v[..3], bits[0], Axis::Tensor)?, coded(t, &v[3..6], bits[1], Axis::Outer)?);
        Ok(vec![conv2d_grouped_int(t, [&x, &w], [&xq, &wq], v.get(6), groups, p)?])
    };
    let name = format!("{label}_a{}w{}_x{}_w{}_g{groups}_{p}", bits[0], bits[1], Shape::from(x), Shape::from(w));
    let elements = |shape: [usize; 4]| shape.iter().product::<usize>();
    // Codes are bytes.
    let bytes = (elements(g.x()) + elements(g.w()) + 4 * elements(g.y())) as f64;
    let case = Case::new(name, coded_inputs(x.into(), w.into(), bits, bias), run).check(GradCheck::Defined);
    case.reduction(g.each.reduction()).cost(g.flops(), bytes)
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let mut cases = vec![
        case("one", [1, 1, 1, 1], [1, 1, 1], 1, p(1, 0), [4, 4], true),
        case("centre", [1, 1, 1, 2], [2, 3, 3], 2, p(1, 1), [8, 8], false),
        case("single", [2, 5, 6, 7], [5, 3, 3], 1, p(1, 1), [4, 8], true),
        case("two", [2, 7, 5, 6], [10, 3, 3], 2, p(1, 1), [4, 4], true),
        case("three", [1, 6, 7, 9], [21, 3, 3], 3, p(1, 1), [3, 5], false),
        case("image", [2, 8, 8, 3], [6, 3, 3], 3, p(1, 1), [8, 4], true),
        case("multiplier2", [2, 7, 5, 11], [22, 3, 3], 11, p(1, 1), [8, 8], true),
        case("multiplier4", [1, 6, 5, 20], [80, 3, 3], 20, p(1, 1), [4, 4], true),
        case("depthwise", [2, 6, 7, 13], [13, 3, 3], 13, p(1, 1), [4, 4], false),
        case("primes", [2, 7, 11, 15], [35, 3, 5], 5, p(1, 0), [6, 7], false),
        case("wide", [2, 6, 5, 16], [24, 3, 3], 2, p(1, 1), [8, 8], true),
        case("wide_s2", [1, 9, 7, 27], [33, 3, 3], 3, p(2, 1), [4, 4], false),
        case("blocks", [2, 6, 7, 84], [84, 3, 3], 21, p(1, 1), [8, 8], true),
        case("straddle", [1, 5, 4, 48], [72, 3, 3], 24, p(1, 1), [5, 8], true),
        case("stride2_odd", [2, 9, 7, 12], [16, 3, 3], 4, p(2, 1), [8, 8], true),
        case("stride3", [1, 11, 10, 4], [6, 3, 2], 2, p(3, 2), [2, 8], false),
        case("gap", [1, 7, 7, 4], [4, 1, 1], 2, p(3, 0), [8, 2], false),
        case("one_by_one", [2, 5, 6, 20], [30, 1, 1], 5, p(1, 0), [7, 7], true),
        case("wide_pad", [1, 3, 4, 4], [6, 3, 3], 2, p(1, 4), [6, 6], true),
        case("dilated", [1, 9, 10, 8], [12, 3, 3], 4, p(1, 2).dilation(2), [4, 4], true),
        case("dilated_wide", [1, 7, 8, 20], [18, 3, 3], 2, p(1, 2).dilation(2), [8, 8], true),
        case("resnext_14", [32, 14, 14, 128], [128, 3, 3], 32, p(1, 1), [8, 8], false).bench(),
        case("resnext_7", [32, 7, 7, 1024], [1024, 3, 3], 32, p(1, 1), [8, 8], false).bench(),
        case("regnet_16", [32, 14, 14, 320], [320, 3, 3], 20, p(1, 1), [8, 8], false).bench(),
        case("regnet_8", [32, 28, 28, 64], [64, 3, 3], 8, p(1, 1), [8, 8], false).bench(),
    ];
    for (label, [r, s], p) in windows() {
        cases.push(case(label, [2, 8, 10, 6], [9, r, s], 3, p, [4, 8], true));
        cases.push(case(label, [1, 8, 9, 16], [32, r, s], 2, p, [8, 4], false));
    }
    for bits in 2..=8 {
        cases.push(case("width", [1, 4, 5, 8], [6, 3, 3], 2, p(1, 1), [bits, 10 - bits], false));
        cases.push(case("width_wide", [1, 4, 5, 16], [16, 3, 3], 2, p(1, 1), [bits, 10 - bits], false));
    }
    cases
}
