//! Cases of activations.

use super::{Activation, activation};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Fill, Input};
use crate::tensor::Shape;

pub fn cases() -> Vec<Case> {
    let bend = Fill::Away { scale: 1.0, step: 100.0, gap: 0.01 };
    // Both bends are passed. Values keep away from them.
    let two = |ends: f64| Fill::Away { scale: ends, step: ends, gap: 0.05 * ends };
    let wide = Fill::Normal { scale: 4.0 };
    let kinds = [
        (Activation::Relu, bend.clone()),
        (Activation::LeakyRelu(0.2), bend.clone()),
        (Activation::Tanh, bend.clone()),
        (Activation::RELU6, two(6.0)),
        (Activation::Clip { low: -1.0, high: 1.0 }, two(1.0)),
        (Activation::Sigmoid, wide.clone()),
        (Activation::HardSigmoid { alpha: 0.2, beta: 0.5 }, two(2.5)),
        (Activation::Silu, wide.clone()),
        (Activation::HardSwish, two(3.0)),
        (Activation::Elu(1.3), bend),
        (Activation::Gelu { tanh: false }, wide.clone()),
        (Activation::Gelu { tanh: true }, wide.clone()),
        (Activation::Mish, wide.clone()),
        (Activation::Softplus, wide),
    ];
    let mut cases = Vec::new();
    for (kind, fill) in kinds {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![activation(t, &v[0], kind)?]);
        let form = if kind == (Activation::Gelu { tanh: true }) { "_tanh" } else { "" };
        for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3]] {
            let name = format!("{}{form}_{}", kind.name(), Shape::from(shape));
            cases.push(Case::new(name, vec![Input::grad(shape).fill(fill.clone())], run));
        }
    }
    let shape = [64, 32, 32, 16];
    let n: usize = shape.iter().product();
    for kind in [Activation::Relu, Activation::RELU6, Activation::Silu, Activation::Gelu { tanh: false }] {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![activation(t, &v[0], kind)?]);
        let name = format!("{}_{}", kind.name(), Shape::from(shape));
        cases.push(Case::new(name, vec![Input::grad(shape)], run).cost(n as f64, 8.0 * n as f64).bench());
    }
    cases
}
