//! Case table of the grouped convolution.

use super::{Groups, OP, conv2d_grouped};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Input};
use crate::ops::conv2d::{Conv2dParams, windows};
use crate::tensor::Shape;

/// `x`, `[k r s]`, groups, parameters, bias.
fn case(label: &str, x: [usize; 4], [k, r, s]: [usize; 3], groups: usize, p: Conv2dParams, bias: bool) -> Case {
    let w = [k, r, s, x[3] / groups];
    let g = Groups::new(OP, x.into(), w.into(), groups, p).expect("case shapes are valid");
    let mut inputs = vec![Input::grad(x), Input::grad(w)];
    if bias {
        inputs.push(Input::grad([k]));
    }
    let run = move |t: &mut Tape, v: &[Var]| Ok(vec![conv2d_grouped(t, &v[0], &v[1], v.get(2), groups, p)?]);
    let name = format!("{label}_x{}_w{}_g{groups}_{p}", Shape::from(x), Shape::from(w));
    let elements = |shape: [usize; 4]| shape.iter().product::<usize>();
    let bytes = 4.0 * (elements(g.x()) + elements(g.w()) + elements(g.y())) as f64;
    Case::new(name, inputs, run).reduction(g.each.reduction()).cost(g.flops(), bytes)
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let mut cases = vec![
        case("one", [1, 1, 1, 1], [1, 1, 1], 1, p(1, 0), true),
        case("centre", [1, 1, 1, 2], [2, 3, 3], 2, p(1, 1), false),
        case("single", [2, 5, 6, 7], [5, 3, 3], 1, p(1, 1), true),
        case("two", [2, 7, 5, 6], [10, 3, 3], 2, p(1, 1), true),
        case("three", [1, 6, 7, 9], [21, 3, 3], 3, p(1, 1), false),
        case("image", [2, 8, 8, 3], [6, 3, 3], 3, p(1, 1), true),
        case("multiplier2", [2, 7, 5, 11], [22, 3, 3], 11, p(1, 1), true),
        case("multiplier3", [1, 6, 5, 5], [15, 3, 3], 5, p(2, 1), false),
        case("multiplier4", [1, 6, 5, 20], [80, 3, 3], 20, p(1, 1), true),
        case("depthwise", [2, 6, 7, 13], [13, 3, 3], 13, p(1, 1), false),
        case("reduce", [1, 5, 6, 24], [4, 3, 3], 4, p(1, 1), true),
        case("primes", [2, 7, 11, 15], [35, 3, 5], 5, p(1, 0), false),
        // Groups as wide as vectors: a blocked convolution each on the CPU.
        case("wide", [2, 6, 5, 16], [24, 3, 3], 2, p(1, 1), true),
        case("wide_s2", [1, 9, 7, 27], [33, 3, 3], 3, p(2, 1), false),
        case("tiles", [1, 5, 6, 64], [64, 3, 3], 2, p(1, 1), true),
        // Several blocks of vectors, wide and narrow; groups that straddle vectors.
        case("blocks", [2, 6, 7, 84], [84, 3, 3], 21, p(1, 1), true),
        case("straddle", [1, 5, 4, 48], [72, 3, 3], 24, p(1, 1), true),
        case("eights", [1, 5, 4, 16], [32, 3, 3], 4, p(1, 1), false),
        case("stride2_odd", [2, 9, 7, 12], [16, 3, 3], 4, p(2, 1), true),
        case("stride2_even", [2, 8, 8, 8], [8, 3, 3], 2, p(2, 1), false),
        case("stride3", [1, 11, 10, 4], [6, 3, 2], 2, p(3, 2), false),
        case("gap", [1, 7, 7, 4], [4, 1, 1], 2, p(3, 0), false),
        case("one_by_one", [2, 5, 6, 20], [30, 1, 1], 5, p(1, 0), true),
        case("wide_pad", [1, 3, 4, 4], [6, 3, 3], 2, p(1, 4), true),
        case("even_filter", [2, 6, 5, 6], [9, 2, 4], 3, p(1, 1), false),
        case("dilated", [1, 9, 10, 8], [12, 3, 3], 4, p(1, 2).dilation(2), true),
        case("dilated_wide", [1, 7, 8, 20], [18, 3, 3], 2, p(1, 2).dilation(2), true),
        case("dilated_s2", [1, 9, 10, 4], [4, 3, 3], 2, p(2, 2).dilation(2), false),
        // Several parts of the filter gradient, several jobs and bands of rows.
        case("parts", [3, 19, 13, 8], [8, 3, 3], 2, p(1, 1), true),
        case("resnext_14", [32, 14, 14, 128], [128, 3, 3], 32, p(1, 1), false).bench(),
        case("resnext_56", [8, 56, 56, 128], [128, 3, 3], 32, p(1, 1), false).bench(),
        case("resnext_7", [32, 7, 7, 1024], [1024, 3, 3], 32, p(1, 1), false).bench(),
        case("resnext_s2", [8, 56, 56, 256], [256, 3, 3], 32, p(2, 1), false).bench(),
        case("regnet_16", [32, 14, 14, 320], [320, 3, 3], 20, p(1, 1), false).bench(),
        case("regnet_8", [32, 28, 28, 64], [64, 3, 3], 8, p(1, 1), false).bench(),
        case("multiplier2_28", [32, 28, 28, 64], [128, 3, 3], 64, p(1, 1), false).bench(),
    ];
    for (label, [r, s], p) in windows() {
        cases.push(case(label, [2, 8, 10, 6], [9, r, s], 3, p, true));
        cases.push(case(label, [1, 8, 9, 16], [32, r, s], 2, p, false));
    }
    cases
}
