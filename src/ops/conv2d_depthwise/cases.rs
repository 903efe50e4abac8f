//! Case table of the depthwise convolution.

use super::{conv2d_depthwise, geometry};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Input};
use crate::ops::conv2d::{Conv2dParams, windows};
use crate::tensor::Shape;

/// `x`, `[r s]`, parameters, bias.
fn case(label: &str, x: [usize; 4], [r, s]: [usize; 2], p: Conv2dParams, bias: bool) -> Case {
    let c = x[3];
    let w = [c, r, s, 1];
    let g = geometry(x.into(), w.into(), p).expect("case shapes are valid");
    let mut inputs = vec![Input::grad(x), Input::grad(w)];
    if bias {
        inputs.push(Input::grad([c]));
    }
    let run = move |t: &mut Tape, v: &[Var]| Ok(vec![conv2d_depthwise(t, &v[0], &v[1], v.get(2), p)?]);
    let name = format!("{label}_x{}_f{r}x{s}_{p}", Shape::from(x));
    let outputs = g.n * g.p * g.q * c;
    let bytes = 4.0 * (g.n * g.h * g.w * c + c * r * s + outputs) as f64;
    Case::new(name, inputs, run).reduction((r * s).max(g.n * g.p * g.q)).cost((2 * outputs * r * s) as f64, bytes)
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let mut cases = vec![
        case("one", [1, 1, 1, 1], [1, 1], p(1, 0), true),
        case("centre", [1, 1, 1, 1], [3, 3], p(1, 1), false),
        case("primes", [2, 7, 5, 11], [3, 3], p(1, 1), true),
        case("image", [2, 8, 8, 3], [3, 3], p(1, 1), false),
        case("valid", [2, 7, 11, 13], [3, 5], p(1, 0), false),
        case("quads", [2, 5, 9, 12], [3, 3], p(1, 1), true),
        case("blocks", [1, 4, 5, 44], [3, 3], p(1, 1), true),
        case("stride2_odd", [2, 9, 7, 5], [3, 3], p(2, 1), true),
        case("stride2_even", [2, 8, 8, 16], [3, 3], p(2, 1), false),
        case("stride3", [1, 11, 10, 4], [3, 2], p(3, 2), false),
        case("gap", [1, 7, 7, 2], [1, 1], p(3, 0), false),
        case("wide_pad", [1, 3, 4, 4], [3, 3], p(1, 4), true),
        case("even_filter", [2, 6, 5, 3], [2, 4], p(1, 1), false),
        case("dilated", [1, 9, 10, 4], [3, 3], p(1, 2).dilation(2), true),
        case("dilated_s2", [1, 9, 10, 3], [3, 3], p(2, 2).dilation(2), false),
        case("stride2_dilated3", [1, 9, 10, 4], [3, 3], p(2, 3).dilation(3), true),
        case("lka5", [1, 6, 7, 16], [5, 5], p(1, 2), true),
        case("lka7", [1, 10, 8, 8], [7, 7], p(1, 9).dilation(3), true),
        // More than eight columns of taps, several parts of the filter gradient.
        case("wide_filter", [1, 7, 13, 5], [1, 11], p(1, 5), false),
        case("parts", [3, 16, 13, 4], [3, 3], p(1, 1), true),
        case("lka5_128", [64, 16, 16, 128], [5, 5], p(1, 2), true).bench(),
        case("lka7_128", [64, 16, 16, 128], [7, 7], p(1, 9).dilation(3), true).bench(),
        case("lka5_64", [64, 32, 32, 64], [5, 5], p(1, 2), true).bench(),
        case("lka7_64", [64, 32, 32, 64], [7, 7], p(1, 9).dilation(3), true).bench(),
        case("mobilenet_s1", [64, 32, 32, 96], [3, 3], p(1, 1), false).bench(),
        case("mobilenet_s2", [64, 32, 32, 96], [3, 3], p(2, 1), false).bench(),
    ];
    for (label, filter, p) in windows() {
        cases.push(case(label, [2, 8, 10, 3], filter, p, true));
        cases.push(case(label, [1, 8, 9, 8], filter, p, false));
    }
    cases
}
