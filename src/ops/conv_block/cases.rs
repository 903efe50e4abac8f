//! Case table: operands are quantized here, so that the gradients of the whole way are checked too.

use super::{Operand, Then, conv_block};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Fill, GradCheck, Input};
use crate::ops::conv_bn_tune::TuneNorm;
use crate::ops::conv2d::{Conv2dParams, Geometry};
use crate::ops::fake_quant::{Codes, FakeQuantSpec, Ste, dequantize, fake_quant_coded, values_of_codes};
use crate::quant::Axis;
use crate::tensor::Shape;

/// What a case has.
#[derive(Clone, Copy)]
struct With {
    bits: [u8; 3],
    /// Whether `x` comes with codes.
    coded: bool,
    residual: Residual,
    relu: bool,
    bias: bool,
    ste: Ste,
}

#[derive(Clone, Copy, PartialEq)]
enum Residual {
    None,
    Values,
    Codes,
}

fn quantized(t: &mut Tape, v: &[Var], bits: u8, axis: Axis) -> Result<(Var, Codes)> {
    fake_quant_coded(t, &v[0], &v[1], &v[2], FakeQuantSpec { bits, axis, ste: Ste::Identity })
}

fn case(label: &str, x: [usize; 4], [k, r]: [usize; 2], p: Conv2dParams, with: With) -> Case {
    let w = [k, r, r, x[3]];
    let g = Geometry::new("conv_block", x.into(), w.into(), p).expect("case shapes are valid");
    let out = Shape::from([g.n, g.p, g.q, g.k]);
    let mut inputs = Vec::new();
    let mut quantizer = |shape: Shape, bits: u8, axis: Axis, used: bool| {
        let [v, lo, hi] = values_of_codes(shape, bits, axis);
        let n = lo.len();
        inputs.push(Input { grad: used, ..Input::plain(shape).fill(Fill::Values(v)) });
        inputs.extend([lo, hi].map(|r| Input::plain([n]).fill(Fill::Values(r))));
    };
    quantizer(x.into(), with.bits[0], Axis::Tensor, true);
    quantizer(w.into(), with.bits[1], Axis::Outer, true);
    quantizer(out, with.bits[0], Axis::Tensor, with.residual != Residual::None);
    // Mean, variance, gamma, beta, bias; then the range of the output, which clamps some of it.
    inputs.push(Input::plain([k]));
    inputs.push(Input::plain([k]).fill(Fill::Uniform { low: 0.3, high: 2.0 }));
    inputs.extend([Input::grad([k]), Input::grad([k]), Input { grad: with.bias, ..Input::plain([k]) }]);
    let reach = (r * r * x[3]) as f64;
    let learned = matches!(with.ste, Ste::Lsq | Ste::LsqUnscaled);
    for end in [if with.relu { 0.0 } else { -1.35 * reach.sqrt() }, 1.7 * reach.sqrt()] {
        let end = Fill::Values(vec![f64::from(end as f32)]);
        inputs.push(Input { grad: learned, ..Input::plain([1]).fill(end) });
    }
    let run = move |t: &mut Tape, v: &[Var]| {
        let (x, xq) = quantized(t, &v[..3], with.bits[0], Axis::Tensor)?;
        let (w, wq) = quantized(t, &v[3..6], with.bits[1], Axis::Outer)?;
        let (r, rq) = quantized(t, &v[6..9], with.bits[0], Axis::Tensor)?;
        let norm = TuneNorm {
            gamma: Some(&v[11]),
            beta: Some(&v[12]),
            mean: &v[9].value,
            var: &v[10].value,
            eps: 1e-5,
            scaled: None,
        };
        let residual = match with.residual {
            Residual::None => None,
            Residual::Values => Some(Operand { var: &r, codes: None }),
            Residual::Codes => Some(Operand { var: &r, codes: Some(&rq) }),
        };
        let x = Operand { var: &x, codes: with.coded.then_some(&xq) };
        let w = Operand { var: &w, codes: with.coded.then_some(&wq) };
        let then = Then { residual, relu: with.relu, lo: &v[14], hi: &v[15], bits: with.bits[2], ste: with.ste };
        let (y, codes) = conv_block(t, [x, w], with.bias.then_some(&v[13]), norm, p, then)?;
        Ok(vec![dequantize(t, &y, &codes)?])
    };
    let name = format!("{label}_{:?}_x{}_w{}_{p}", with.ste, Shape::from(x), Shape::from(w)).to_lowercase();
    let bytes = (g.n * g.h * g.w * g.c + g.k * g.r * g.s * g.c + g.n * g.p * g.q * g.k) as f64;
    // Two terms of dgamma may cancel, and so may those of a learned range.
    let case = Case::new(name, inputs, run).check(GradCheck::Defined).slack(4.0);
    case.reduction(g.reduction().max(g.n * g.p * g.q)).cost(g.flops(), bytes)
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let plain =
        With { bits: [4, 4, 4], coded: true, residual: Residual::None, relu: true, bias: false, ste: Ste::Identity };
    let values = With { residual: Residual::Values, ..plain };
    let codes = With { residual: Residual::Codes, ..plain };
    let of = |with: With, ste: Ste| With { ste, ..with };
    let mut cases = vec![
        case("one", [1, 1, 1, 1], [1, 1], p(1, 0), plain),
        case("primes", [2, 7, 5, 3], [5, 3], p(1, 1), With { bias: true, ..codes }),
        case("image", [2, 8, 8, 3], [16, 3], p(1, 1), With { coded: false, bits: [8, 8, 4], ..plain }),
        case("image", [2, 5, 7, 3], [7, 3], p(1, 1), With { coded: false, ..of(values, Ste::Clipped) }),
        case("stride2", [2, 9, 7, 5], [6, 3], p(2, 1), values),
        case("no_relu", [1, 6, 5, 8], [12, 3], p(1, 1), With { relu: false, ..values }),
        case("no_relu", [1, 6, 5, 8], [3, 3], p(1, 1), With { relu: false, ..of(codes, Ste::Clipped) }),
        case("dilated", [1, 9, 10, 3], [4, 3], p(1, 2).dilation(2), codes),
        case("eight_bits", [2, 6, 6, 16], [19, 1], p(2, 0), With { bits: [8, 8, 8], ..plain }),
        case("c37", [1, 5, 6, 37], [50, 3], p(1, 1), of(plain, Ste::Clipped)),
        // Channels in eights: one kernel with the convolution, by how the input's channels come.
        case("eights_any", [2, 5, 7, 3], [8, 3], p(1, 1), With { bias: true, ..of(values, Ste::Clipped) }),
        case("eights_c4", [1, 6, 5, 12], [40, 3], p(2, 1), of(codes, Ste::Clipped)),
        case("eights_n16", [1, 7, 11, 16], [8, 3], p(1, 1), With { bias: true, ..plain }),
        case("eights_n32", [1, 5, 9, 16], [24, 1], p(1, 0), With { relu: false, ..of(codes, Ste::LsqUnscaled) }),
        case("eights_n64", [1, 5, 6, 32], [72, 3], p(1, 2).dilation(2), codes),
        case("eights_wgmma64", [1, 5, 6, 64], [72, 3], p(1, 1), codes),
        case("long_row", [1, 2, 40, 4], [9, 3], p(1, 1), of(codes, Ste::Clipped)),
        case("learned", [2, 7, 5, 4], [6, 3], p(1, 1), of(values, Ste::Lsq)),
        case("learned", [2, 7, 5, 4], [6, 3], p(1, 1), With { relu: false, ..of(codes, Ste::LsqUnscaled) }),
        case("learned_image", [1, 6, 5, 3], [8, 3], p(1, 1), With { coded: false, ..of(plain, Ste::Lsq) }),
    ];
    for (label, hw, c) in [("resnet20_16", 32, 16), ("resnet20_64", 8, 64)] {
        cases.push(case(label, [64, hw, hw, c], [c, 3], p(1, 1), codes).bench());
    }
    cases
}
