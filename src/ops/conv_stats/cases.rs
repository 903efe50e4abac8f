//! Case table.

use super::{After, conv_stats};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Fill, Input};
use crate::ops::conv_bn_tune::TuneNorm;
use crate::ops::conv2d::{Conv2dParams, Geometry};
use crate::tensor::Shape;

/// What a case has.
#[derive(Clone, Copy)]
struct With {
    residual: bool,
    relu: bool,
    stats: bool,
}

fn case(label: &str, x: [usize; 4], [k, r]: [usize; 2], p: Conv2dParams, with: With) -> Case {
    let w = [k, r, r, x[3]];
    let g = Geometry::new("conv_stats", x.into(), w.into(), p).expect("case shapes are valid");
    let positive = Fill::Uniform { low: 0.3, high: 2.0 };
    // x, w, mean, var, gamma, beta, residual.
    let mut inputs = vec![Input::grad(x), Input::grad(w), Input::plain([k]), Input::plain([k]).fill(positive)];
    inputs.extend([Input::grad([k]), Input::grad([k])]);
    inputs.push(Input { grad: with.residual, ..Input::plain([g.n, g.p, g.q, g.k]) });
    let run = move |t: &mut Tape, v: &[Var]| {
        let norm = TuneNorm {
            gamma: Some(&v[4]),
            beta: Some(&v[5]),
            mean: &v[2].value,
            var: &v[3].value,
            eps: 1e-5,
            scaled: None,
        };
        let after = After { residual: with.residual.then_some(&v[6]), relu: with.relu, stats: with.stats };
        let (u, stats) = conv_stats(t, [&v[0], &v[1]], None, norm, p, after)?;
        Ok(std::iter::once(u).chain(stats.into_iter().flat_map(|(mean, var)| [mean, var])).collect())
    };
    let name = format!("{label}_x{}_w{}_{p}", Shape::from(x), Shape::from(w));
    // As conv_bn_tune's; gradients of the variance are products of three such sums.
    let case = Case::new(name, inputs, run).reduction(g.reduction().max(g.n * g.p * g.q)).slack(4.0);
    case.cost(g.flops(), g.bytes())
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let all = With { residual: true, relu: true, stats: true };
    vec![
        case("one", [1, 1, 1, 1], [1, 1], p(1, 0), all),
        case("primes", [2, 7, 5, 3], [5, 3], p(1, 1), all),
        case("no_residual", [2, 6, 5, 8], [12, 3], p(2, 1), With { residual: false, ..all }),
        case("no_relu", [2, 4, 5, 4], [7, 1], p(1, 0), With { relu: false, ..all }),
        case("statistics", [2, 4, 5, 4], [7, 3], p(1, 1), With { residual: false, relu: false, ..all }),
        case("no_statistics", [2, 5, 7, 4], [9, 3], p(1, 1), With { stats: false, ..all }),
        case("relu", [1, 9, 10, 3], [4, 3], p(1, 2).dilation(2), With { residual: false, stats: false, ..all }),
        case("convolution", [1, 3, 4, 37], [3, 3], p(1, 1), With { residual: false, relu: false, stats: false }),
        case("dilated", [1, 9, 10, 3], [4, 3], p(1, 2).dilation(2), all),
        case("bands", [2, 33, 20, 16], [16, 3], p(1, 1), all),
        // Channels in eights: one kernel with the convolution.
        case("eights", [2, 7, 9, 3], [8, 3], p(1, 1), all),
        case("eights_wide", [1, 9, 8, 12], [72, 3], p(2, 1), all),
        case("eights_statistics", [2, 4, 5, 4], [24, 1], p(1, 0), With { residual: false, relu: false, ..all }),
        case("eights_no_statistics", [2, 12, 13, 16], [32, 3], p(1, 1), With { stats: false, ..all }),
        case("resnet20_16", [64, 32, 32, 16], [16, 3], p(1, 1), all).bench(),
        case("resnet20_64", [64, 8, 8, 64], [64, 3], p(1, 1), all).bench(),
    ]
}
