//! Case table: values are quantized here, so that the gradients of the whole way are checked too.

use super::{Codes, conv2d_int, linear_int};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Fill, GradCheck, Input};
use crate::ops::conv2d::{Conv2dParams, Geometry, windows};
use crate::ops::fake_quant::{FakeQuantSpec, Ste, fake_quant, fake_quant_codes, values_of_codes};
use crate::quant::Axis;
use crate::tensor::Shape;

/// Values and codes of `v = [x, lo, hi]`.
pub(crate) fn coded(t: &mut Tape, v: &[Var], bits: u8, axis: Axis) -> Result<(Var, Codes)> {
    let (x, lo, hi) = (&v[0], &v[1], &v[2]);
    let values = fake_quant_codes(&x.value, &lo.value, &hi.value, bits, axis)?;
    let codes = Codes { values, lo: lo.value.clone(), hi: hi.value.clone(), bits };
    Ok((fake_quant(t, x, lo, hi, FakeQuantSpec { bits, axis, ste: Ste::Identity })?, codes))
}

/// Values whose codes are known, with their ranges: of `x` per tensor, of `w` per filter; a bias.
pub(crate) fn coded_inputs(x: Shape, w: Shape, [xbits, wbits]: [u8; 2], bias: bool) -> Vec<Input> {
    let mut inputs = Vec::new();
    for (shape, bits, axis) in [(x, xbits, Axis::Tensor), (w, wbits, Axis::Outer)] {
        let [v, lo, hi] = values_of_codes(shape, bits, axis);
        let n = lo.len();
        inputs.push(Input::grad(shape).fill(Fill::Values(v)));
        inputs.extend([lo, hi].map(|r| Input::plain([n]).fill(Fill::Values(r))));
    }
    if bias {
        inputs.push(Input::grad([w[0]]));
    }
    inputs
}

fn case(label: &str, x: [usize; 4], [k, r, s]: [usize; 3], p: Conv2dParams, bits: [u8; 2], bias: bool) -> Case {
    let w = [k, r, s, x[3]];
    let g = Geometry::new("conv2d_int", x.into(), w.into(), p).expect("case shapes are valid");
    let run = move |t: &mut Tape, v: &[Var]| {
        let ((x, xq), (w, wq)) = (coded(t, &v[..3], bits[0], Axis::Tensor)?, coded(t, &v[3..6], bits[1], Axis::Outer)?);
        Ok(vec![conv2d_int(t, [&x, &w], [&xq, &wq], v.get(6), p)?])
    };
    let name = format!("{label}_a{}w{}_x{}_w{}_{p}", bits[0], bits[1], Shape::from(x), Shape::from(w));
    // Codes are bytes.
    let bytes = (g.n * g.h * g.w * g.c + g.k * g.r * g.s * g.c + 4 * g.n * g.p * g.q * g.k) as f64;
    let case = Case::new(name, coded_inputs(x.into(), w.into(), bits, bias), run).check(GradCheck::Defined);
    case.reduction(g.reduction()).cost(g.flops(), bytes)
}

fn linear_case(n: usize, c: usize, k: usize, bits: [u8; 2]) -> Case {
    let run = move |t: &mut Tape, v: &[Var]| {
        let ((x, xq), (w, wq)) = (coded(t, &v[..3], bits[0], Axis::Tensor)?, coded(t, &v[3..6], bits[1], Axis::Outer)?);
        Ok(vec![linear_int(t, [&x, &w], [&xq, &wq], v.get(6))?])
    };
    let name = format!("linear_a{}w{}_{n}x{c}_{k}", bits[0], bits[1]);
    let case = Case::new(name, coded_inputs([n, c].into(), [k, c].into(), bits, true), run).check(GradCheck::Defined);
    case.reduction(c.max(k).max(n)).cost(2.0 * (n * c * k) as f64, (n * c + c * k + 4 * n * k) as f64)
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let mut cases = vec![
        case("one", [1, 1, 1, 1], [1, 1, 1], p(1, 0), [4, 4], true),
        case("centre", [1, 1, 1, 1], [1, 3, 3], p(1, 1), [8, 8], false),
        case("primes", [2, 7, 5, 3], [5, 3, 3], p(1, 1), [4, 4], true),
        case("valid", [2, 7, 11, 13], [7, 3, 5], p(1, 0), [3, 5], false),
        case("image", [2, 8, 8, 3], [16, 3, 3], p(1, 1), [8, 4], false),
        case("stride2_odd", [2, 9, 7, 5], [6, 3, 3], p(2, 1), [8, 8], true),
        case("stride2_even", [2, 8, 8, 16], [32, 3, 3], p(2, 1), [4, 4], false),
        case("stride3", [1, 11, 10, 4], [3, 3, 2], p(3, 2), [2, 8], false),
        case("gap", [1, 7, 7, 2], [3, 1, 1], p(3, 0), [8, 2], false),
        case("one_by_one_s2", [2, 6, 6, 8], [19, 1, 1], p(2, 0), [7, 7], false),
        case("wide_pad", [1, 3, 4, 2], [3, 3, 3], p(1, 4), [6, 6], true),
        case("dilated", [1, 9, 10, 3], [4, 3, 3], p(1, 2).dilation(2), [4, 4], true),
        case("c16", [3, 8, 8, 16], [16, 3, 3], p(1, 1), [8, 8], true),
        case("c37_k50", [1, 5, 6, 37], [50, 3, 3], p(1, 1), [4, 4], false),
        case("n64", [2, 7, 5, 32], [68, 3, 3], p(1, 1), [5, 8], true),
        case("wgmma64", [2, 7, 5, 64], [72, 3, 3], p(1, 1), [5, 8], true),
        case("wgmma64", [1, 5, 6, 128], [64, 1, 1], p(2, 0), [4, 4], false),
        case("c4_k36", [1, 6, 5, 12], [36, 3, 3], p(1, 1), [8, 3], false),
        linear_case(3, 37, 10, [8, 8]),
        linear_case(1, 16, 17, [4, 4]),
    ];
    for (label, [r, s], p) in windows() {
        cases.push(case(label, [2, 8, 10, 3], [5, r, s], p, [4, 8], true));
        cases.push(case(label, [1, 8, 9, 16], [18, r, s], p, [8, 4], false));
    }
    cases.push(case(
        "wgmma64_uneven",
        [1, 6, 7, 64],
        [72, 3, 2],
        p(1, 0).strides([1, 2]).pads([0, 2, 1, 1]),
        [4, 4],
        true,
    ));
    for bits in 2..=8 {
        cases.push(case("width", [1, 4, 5, 4], [3, 3, 3], p(1, 1), [bits, 10 - bits], false));
    }
    for (label, hw, c, k, stride) in [
        ("resnet20_16", 32, 16, 16, 1),
        ("resnet20_32", 16, 32, 32, 1),
        ("resnet20_64", 8, 64, 64, 1),
        ("resnet20_down32", 32, 16, 32, 2),
        ("resnet20_down64", 16, 32, 64, 2),
    ] {
        cases.push(case(label, [200, hw, hw, c], [k, 3, 3], p(stride, 1), [4, 4], false).bench());
    }
    cases.push(case("resnet20_16", [200, 32, 32, 16], [16, 3, 3], p(1, 1), [8, 8], false).bench());
    cases
}
