//! Case table of the depthwise convolution of codes.

use super::conv2d_depthwise_int;
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, GradCheck};
use crate::ops::conv2d::{Conv2dParams, windows};
use crate::ops::conv2d_depthwise::geometry;
use crate::ops::conv2d_int::{coded, coded_inputs};
use crate::quant::Axis;
use crate::tensor::Shape;

/// `x`, `[r s]`, parameters, bits of `x` and `w`, bias.
fn case(label: &str, x: [usize; 4], [r, s]: [usize; 2], p: Conv2dParams, bits: [u8; 2], bias: bool) -> Case {
    let w = [x[3], r, s, 1];
    let g = geometry(x.into(), w.into(), p).expect("case shapes are valid");
    let run = move |t: &mut Tape, v: &[Var]| {
        let ((x, xq), (w, wq)) = (coded(t, &v[..3], bits[0], Axis::Tensor)?, coded(t, &v[3..6], bits[1], Axis::Outer)?);
        Ok(vec![conv2d_depthwise_int(t, [&x, &w], [&xq, &wq], v.get(6), p)?])
    };
    let name = format!("{label}_a{}w{}_x{}_f{r}x{s}_{p}", bits[0], bits[1], Shape::from(x));
    let outputs = g.n * g.p * g.q * g.c;
    let bytes = (g.n * g.h * g.w * g.c + g.c * r * s + 4 * outputs) as f64;
    let case = Case::new(name, coded_inputs(x.into(), w.into(), bits, bias), run).check(GradCheck::Defined);
    case.reduction((r * s).max(g.n * g.p * g.q)).cost((2 * outputs * r * s) as f64, bytes)
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let mut cases = vec![
        case("one", [1, 1, 1, 1], [1, 1], p(1, 0), [4, 4], true),
        case("centre", [1, 1, 1, 1], [3, 3], p(1, 1), [8, 8], false),
        case("primes", [2, 7, 5, 11], [3, 3], p(1, 1), [4, 4], true),
        case("image", [2, 8, 8, 3], [3, 3], p(1, 1), [8, 4], false),
        case("valid", [2, 7, 11, 13], [3, 5], p(1, 0), [3, 5], false),
        case("quads", [2, 5, 9, 12], [3, 3], p(1, 1), [8, 8], true),
        case("stride2_odd", [2, 9, 7, 5], [3, 3], p(2, 1), [8, 8], true),
        case("stride2_even", [2, 8, 8, 16], [3, 3], p(2, 1), [4, 4], false),
        case("stride3", [1, 11, 10, 4], [3, 2], p(3, 2), [2, 8], false),
        case("gap", [1, 7, 7, 2], [1, 1], p(3, 0), [8, 2], false),
        case("wide_pad", [1, 3, 4, 4], [3, 3], p(1, 4), [6, 6], true),
        case("dilated", [1, 9, 10, 3], [3, 3], p(1, 2).dilation(2), [4, 4], true),
        case("lka7", [1, 10, 8, 8], [7, 7], p(1, 9).dilation(3), [8, 8], true),
        case("mobilenet_s1", [64, 32, 32, 96], [3, 3], p(1, 1), [8, 8], false).bench(),
        case("mobilenet_s2", [64, 32, 32, 96], [3, 3], p(2, 1), [8, 8], false).bench(),
    ];
    for (label, filter, p) in windows() {
        cases.push(case(label, [2, 8, 10, 3], filter, p, [4, 8], true));
        cases.push(case(label, [1, 8, 9, 8], filter, p, [8, 4], false));
    }
    for bits in 2..=8 {
        cases.push(case("width", [1, 4, 5, 4], [3, 3], p(1, 1), [bits, 10 - bits], false));
    }
    cases
}
