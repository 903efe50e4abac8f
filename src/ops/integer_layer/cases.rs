//! Case table. Codes are drawn as values and quantized here; the f64 oracle takes the same ones.

use super::{Branch, Finish, IntegerLayer, Steps};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Fill, GradCheck, Input};
use crate::ops::conv2d::{Conv2dParams, Geometry, windows};
use crate::ops::conv2d_int::Ranges;
use crate::ops::fake_quant::{fake_quant_codes, values_of_codes};
use crate::ops::random::philox;
use crate::quant::{Affine, Axis};
use crate::tensor::{DType, Shape};

/// What is added.
#[derive(Clone, Copy, PartialEq)]
enum Other {
    Nothing,
    Values,
    Codes,
}

/// A drawn number in `-1..1`.
fn draw(i: usize, stream: u32) -> f32 {
    let [u, ..] = philox([i as u32, stream, 0, 0], [17, 0]);
    u as f32 / 2_147_483_648.0 - 1.0
}

/// Steps of `k` channels; the output's codes, where wanted, have `bits`.
fn steps(k: usize, bits: Option<u8>, [bias, norm, relu]: [bool; 3]) -> Steps {
    let per =
        |stream: u32, scale: f32, shift: f32| -> Vec<f32> { (0..k).map(|i| shift + scale * draw(i, stream)).collect() };
    Steps {
        bias: bias.then(|| per(1, 0.5, 0.0)),
        norm: norm.then(|| [per(2, 0.7, 0.1), per(3, 1.0, 0.3), per(4, 0.6, 0.2)]),
        relu,
        to: bits.map(|b| Affine::new(if relu { 0.0 } else { -1.7 }, 3.3, b)),
    }
}

/// Codes of `v = [x, lo, hi]` as drawn by [`values_of_codes`].
fn coded(v: &[Var], range: Affine<f32>, bits: u8) -> Result<Branch> {
    Ok(Branch::Codes(fake_quant_codes(&v[0].value, &v[1].value, &v[2].value, bits, Axis::Tensor)?, range))
}

/// The inputs that draw codes of `shape`, and their quantizer.
fn code_inputs(shape: Shape, bits: u8) -> (Vec<Input>, Affine<f32>) {
    let [v, lo, hi] = values_of_codes(shape, bits, Axis::Tensor);
    let range = Affine::new(lo[0] as f32, hi[0] as f32, bits);
    let ends = [lo, hi].map(|r| Input::plain([1]).fill(Fill::Values(r)));
    (std::iter::once(Input::plain(shape).fill(Fill::Values(v))).chain(ends).collect(), range)
}

fn residual(other: Other, v: &[Var], range: Option<Affine<f32>>) -> Result<Option<Branch>> {
    Ok(match (other, range) {
        (Other::Values, _) => Some(Branch::Real(v[0].value.clone())),
        (Other::Codes, Some(range)) => Some(coded(v, range, 5)?),
        _ => None,
    })
}

fn other_inputs(other: Other, shape: Shape) -> (Vec<Input>, Option<Affine<f32>>) {
    match other {
        Other::Nothing => (Vec::new(), None),
        Other::Values => (vec![Input::plain(shape)], None),
        Other::Codes => {
            let (inputs, range) = code_inputs(shape, 5);
            (inputs, Some(range))
        }
    }
}

/// Widths of x, w and, where it is codes, y.
type Bits = (u8, u8, Option<u8>);

fn case(
    label: &str,
    x: [usize; 4],
    filter: [usize; 3],
    p: Conv2dParams,
    bits: Bits,
    with: [bool; 3],
    other: Other,
) -> Case {
    let ([k, r, s], (x_bits, w_bits, y_bits)) = (filter, bits);
    let g = Geometry::new("integer_layer", x.into(), [k, r, s, x[3]].into(), p).expect("case shapes are valid");
    let (mut inputs, range) = code_inputs(x.into(), x_bits);
    let (others, other_range) = other_inputs(other, [g.n, g.p, g.q, g.k].into());
    inputs.extend(others);
    let half = 1i32 << (w_bits - 1);
    let run = move |t: &mut Tape, v: &[Var]| {
        let codes: Vec<i8> = (0..k * r * s * g.c).map(|i| (draw(i, 5) * half as f32).floor() as i8).collect();
        let filters = (0..k).map(|i| Affine::new(-0.6 - 0.2 * draw(i, 6), 0.7 + 0.3 * draw(i, 7), w_bits)).collect();
        let device = &t.device();
        let layer = IntegerLayer::new(device, &codes, w_bits, Ranges::new(range, filters), g, steps(k, y_bits, with))?;
        let (x, residual) = (coded(v, range, x_bits)?, residual(other, &v[3..], other_range)?);
        let y = match v[0].dtype() {
            DType::F64 => layer.run_f64(x.tensor(), residual.as_ref())?,
            _ => layer.run(x.tensor(), residual.as_ref())?,
        };
        Ok(vec![Var::constant(y.tensor().clone())])
    };
    let to = y_bits.map_or("f32".into(), |b| b.to_string());
    let name = format!("{label}_a{x_bits}w{w_bits}_{to}_x{}_k{k}r{r}s{s}_{p}", Shape::from(x));
    let out = if y_bits.is_some() { 1 } else { 4 };
    let bytes = g.n * g.h * g.w * g.c + k * r * s * g.c * usize::from(w_bits) / 8 + out * g.n * g.p * g.q * g.k;
    Case::new(name, inputs, run).check(GradCheck::None).cost(g.flops(), bytes as f64)
}

fn finish_case(label: &str, shape: &[usize], codes: bool, to: Option<u8>, with: [bool; 3], other: Other) -> Case {
    let (shape, k) = (Shape::new(shape), shape[shape.len() - 1]);
    let (mut inputs, range) = match codes {
        true => code_inputs(shape, 4),
        false => (vec![Input::plain(shape)], Affine::new(0.0, 1.0, 4)),
    };
    let own = inputs.len();
    let (others, other_range) = other_inputs(other, shape);
    inputs.extend(others);
    let run = move |t: &mut Tape, v: &[Var]| {
        let finish = Finish::new(&t.device(), k, steps(k, to, with))?;
        let x = if codes { coded(v, range, 4)? } else { Branch::Real(v[0].value.clone()) };
        let residual = residual(other, &v[own..], other_range)?;
        let y = match v[0].dtype() {
            DType::F64 => finish.run_f64(&x, residual.as_ref())?,
            _ => finish.run(&x, residual.as_ref())?,
        };
        Ok(vec![Var::constant(y.tensor().clone())])
    };
    let bytes = shape.elements() * (if codes { 1 } else { 4 } + if to.is_some() { 1 } else { 4 });
    Case::new(format!("finish_{label}_{shape}"), inputs, run).check(GradCheck::None).cost(0.0, bytes as f64)
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let (all, none) = ([true; 3], [false; 3]);
    let mut cases = vec![
        case("one", [1, 1, 1, 1], [1, 1, 1], p(1, 0), (4, 4, None), none, Other::Nothing),
        case("primes", [2, 7, 5, 3], [5, 3, 3], p(1, 1), (4, 4, Some(4)), all, Other::Values),
        case("c4", [1, 6, 5, 12], [36, 3, 3], p(1, 1), (8, 3, Some(8)), [false, true, true], Other::Codes),
        case("stride2", [2, 9, 8, 16], [32, 3, 3], p(2, 1), (4, 4, Some(4)), [false, true, true], Other::Nothing),
        case("stride2_w8", [2, 9, 8, 16], [32, 3, 3], p(2, 1), (4, 8, Some(4)), [false, true, true], Other::Codes),
        case("packed16", [3, 8, 8, 16], [16, 3, 3], p(1, 1), (4, 4, Some(4)), [false, true, true], Other::Codes),
        case("packed37", [1, 5, 6, 48], [37, 3, 3], p(1, 1), (4, 3, None), [true, false, false], Other::Values),
        case("packed68", [2, 7, 5, 32], [68, 1, 1], p(1, 0), (8, 4, Some(8)), all, Other::Nothing),
        case("dilated", [1, 9, 10, 16], [16, 3, 3], p(1, 2).dilation(2), (4, 4, Some(3)), all, Other::Nothing),
        case("wgmma64", [1, 5, 6, 64], [72, 3, 3], p(1, 1), (8, 8, Some(8)), [true, false, true], Other::Codes),
        case("wgmma64_packed", [2, 4, 5, 96], [66, 3, 3], p(2, 1), (4, 4, Some(4)), all, Other::Values),
        case("linear", [3, 1, 1, 64], [10, 1, 1], p(1, 0), (4, 4, None), [true, false, false], Other::Nothing),
        finish_case("quantize", &[3, 5, 7, 3], false, Some(8), none, Other::Nothing),
        finish_case("values", &[2, 3, 3, 5], true, None, none, Other::Nothing),
        finish_case("norm", &[2, 3, 5, 7], false, None, [false, true, false], Other::Nothing),
        finish_case("sum", &[1, 3, 4, 5], true, Some(4), [false, false, true], Other::Codes),
        finish_case("all", &[2, 5, 3, 37], false, Some(4), all, Other::Values),
        finish_case("row", &[3, 11], false, None, [true, false, true], Other::Nothing),
    ];
    for (label, [r, s], p) in windows() {
        cases.push(case(label, [2, 8, 10, 3], [5, r, s], p, (4, 4, Some(4)), all, Other::Values));
        cases.push(case(label, [1, 8, 9, 16], [18, r, s], p, (8, 4, None), none, Other::Nothing));
    }
    let uneven = p(1, 0).strides([1, 2]).pads([0, 2, 1, 1]);
    cases.push(case("wgmma64_uneven", [1, 6, 7, 64], [72, 3, 2], uneven, (4, 8, Some(4)), all, Other::Codes));
    for bits in 2..=8 {
        let widths = (bits, 10 - bits, Some(bits));
        cases.push(case("width", [1, 4, 5, 16], [17, 3, 3], p(1, 1), widths, [true, true, false], Other::Nothing));
    }
    for (hw, c) in [(32, 16), (16, 32), (8, 64)] {
        for bits in [4, 8] {
            let shape = ([200, hw, hw, c], [c, 3, 3]);
            let widths = (bits, bits, Some(bits));
            let with = [false, true, true];
            let case = case("resnet20", shape.0, shape.1, p(1, 1), widths, with, Other::Codes);
            // Of millions of values some lie at the edge between two codes, where f32 and f64 may part: one code of 128.
            cases.push(case.slack(1.2e4).bench());
        }
    }
    cases
}
