//! Cases of resizing.

use super::{Coordinates, ResizeMode, ResizeParams, Rounding, resize};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Input};

pub fn cases() -> Vec<Case> {
    use Coordinates::{AlignCorners, Asymmetric, HalfPixel, PytorchHalfPixel};
    use ResizeMode::{Linear, Nearest};
    let to = |shape: [usize; 4], size, mode, coordinates| {
        (shape, ResizeParams::to_size([shape[1], shape[2]], size, mode, coordinates))
    };
    let by = |shape: [usize; 4], scales, mode, coordinates| {
        (shape, ResizeParams::by_scales([shape[1], shape[2]], scales, mode, coordinates))
    };
    let floor = Nearest(Rounding::Floor);
    let case = |name: &str, (shape, p): ([usize; 4], ResizeParams)| {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![resize(t, &v[0], p)?]);
        let [n, h, w, c] = shape;
        let outputs = n * p.size[0] * p.size[1] * c;
        // Outputs that one input reaches.
        let reach = p.size[0].div_ceil(h) * p.size[1].div_ceil(w) * 4;
        let bytes = 4.0 * (n * h * w * c + outputs) as f64;
        Case::new(name, vec![Input::grad(shape)], run).reduction(reach).cost(8.0 * outputs as f64, bytes)
    };
    vec![
        case("one", to([1, 1, 1, 1], [1, 1], Linear, HalfPixel)),
        case("one_to_many", to([1, 1, 1, 1], [3, 2], Linear, AlignCorners)),
        case("many_to_one", to([2, 5, 3, 3], [1, 1], Linear, PytorchHalfPixel)),
        case("double", by([3, 5, 7, 11], [2.0; 2], floor, Asymmetric)),
        case("halves_down", to([2, 4, 7, 3], [6, 5], Nearest(Rounding::RoundPreferFloor), HalfPixel)),
        case("halves_up", to([2, 7, 4, 3], [5, 9], Nearest(Rounding::RoundPreferCeil), AlignCorners)),
        case("up_to_ceil", by([1, 5, 6, 5], [1.3, 0.7], Nearest(Rounding::Ceil), Asymmetric)),
        case("linear_double", by([3, 5, 7, 11], [2.0; 2], Linear, HalfPixel)),
        case("linear_corners", to([2, 4, 5, 3], [9, 7], Linear, AlignCorners)),
        case("linear_shrinks", to([2, 9, 7, 17], [4, 3], Linear, PytorchHalfPixel)),
        case("linear_asymmetric", by([1, 5, 6, 4], [1.7, 2.5], Linear, Asymmetric)),
        case("keeps_its_size", by([2, 3, 5, 4], [1.3, 1.1], Linear, HalfPixel)),
        case("double_16x28x28x64", by([16, 28, 28, 64], [2.0; 2], floor, Asymmetric)).bench(),
        case("linear_16x28x28x64", by([16, 28, 28, 64], [2.0; 2], Linear, HalfPixel)).bench(),
    ]
}
