//! Case table of both convolutions.

use super::{Conv2dParams, Geometry, Math, conv2d, upsample_conv2d_in};
use crate::autograd::{Tape, Var};
use crate::ops::case::{Case, Input};
use crate::tensor::Shape;

/// `x`, `[k r s]`, parameters, bias.
fn case(label: &str, x: [usize; 4], [k, r, s]: [usize; 3], p: Conv2dParams, bias: bool) -> Case {
    let w = [k, r, s, x[3]];
    let g = Geometry::new("conv2d", x.into(), w.into(), p).expect("case shapes are valid");
    let mut inputs = vec![Input::grad(x), Input::grad(w)];
    if bias {
        inputs.push(Input::grad([k]));
    }
    let run = move |t: &mut Tape, v: &[Var]| Ok(vec![conv2d(t, &v[0], &v[1], v.get(2), p)?]);
    let name = format!("{label}_x{}_w{}_{p}", Shape::from(x), Shape::from(w));
    Case::new(name, inputs, run).reduction(g.reduction()).cost(g.flops(), g.bytes())
}

/// Windows that differ between axes or sides: label, `[r s]`, parameters. All convolutions have cases of them.
pub(crate) fn windows() -> [(&'static str, [usize; 2], Conv2dParams); 11] {
    let p = Conv2dParams::default();
    [
        ("row", [1, 7], p.pads([0, 3, 0, 3])),
        ("column", [7, 1], p.pads([3, 0, 3, 0])),
        ("stride1x2", [3, 3], Conv2dParams::new(1, 1).strides([1, 2])),
        ("stride2x1", [3, 3], Conv2dParams::new(1, 1).strides([2, 1])),
        ("pad_after", [3, 3], p.pads([0, 0, 1, 1])),
        ("pad_uneven", [3, 3], p.pads([1, 0, 0, 2])),
        // "SAME" of TensorFlow for even sizes.
        ("same_s2", [3, 3], Conv2dParams::new(2, 0).pads([0, 0, 1, 1])),
        ("dilation1x2", [3, 3], p.pads([1, 2, 1, 2]).dilations([1, 2])),
        ("dilation2x1_s2", [3, 3], Conv2dParams::new(2, 2).dilations([2, 1])),
        ("five", [5, 5], p.pads([2, 1, 0, 3])),
        ("all", [3, 2], p.strides([2, 3]).pads([3, 0, 1, 2]).dilations([3, 1])),
    ]
}

fn upsample_case(label: &str, x: [usize; 4], k: usize, bias: bool, math: Math) -> Case {
    let [n, h, width, c] = x;
    let w = [k, 3, 3, c];
    let g = Geometry::new("upsample_conv2d", [n, 2 * h, 2 * width, c].into(), w.into(), Conv2dParams::new(1, 1))
        .expect("case shapes are valid");
    let mut inputs = vec![Input::grad(x), Input::grad(w)];
    if bias {
        inputs.push(Input::grad([k]));
    }
    let run = move |t: &mut Tape, v: &[Var]| Ok(vec![upsample_conv2d_in(t, &v[0], &v[1], v.get(2), math)?]);
    let bytes = 4.0 * (n * h * width * c + k * 9 * c + 4 * n * h * width * k) as f64;
    // 16 products instead of the 36 of the large convolution.
    let name = format!("upsample_{label}_x{}_k{k}", Shape::from(x));
    Case::new(name, inputs, run).reduction(g.reduction().max(4 * 9 * k)).cost(g.flops() / 2.25, bytes)
}

/// The shapes that reach every kernel variant (column tiles, channels not a multiple of 4, strides), in one math.
fn tensor_core(math: Math, label: &str, epsilon: f64) -> Vec<Case> {
    let p = |stride, pad| Conv2dParams::new(stride, pad).math(math);
    [
        case("primes", [2, 7, 5, 3], [5, 3, 3], p(1, 1), true),
        case("image", [2, 8, 8, 3], [16, 3, 3], p(1, 1), false),
        case("parts_n16", [4, 9, 8, 8], [12, 3, 3], p(1, 1), true),
        case("stride2_n32", [2, 9, 9, 4], [24, 3, 3], p(2, 1), false),
        case("n64", [2, 7, 5, 36], [68, 3, 3], p(1, 1), true),
        case("dilated", [1, 9, 10, 4], [4, 3, 3], p(2, 2).dilation(2), false),
        upsample_case("c16", [2, 4, 4, 16], 16, false, math),
        // Kernels of their own: partial tiles in both directions, several tiles per image, bias.
        case("halo16", [3, 19, 21, 16], [16, 3, 3], p(1, 1), true),
        case("halo32", [2, 9, 17, 32], [32, 3, 3], p(1, 1), true),
        case("halo16_small", [1, 1, 1, 16], [16, 3, 3], p(1, 1), false),
        // In TF32 too: many channels, as many as fill slices and not, odd sizes, partial tiles of rows and columns.
        case("stages", [2, 7, 5, 64], [64, 3, 3], p(1, 1), true),
        case("stages_wide", [1, 5, 7, 96], [128, 3, 3], p(1, 1), false),
        case("stages_s2", [2, 9, 7, 128], [96, 3, 3], p(2, 1), false),
        case("stages_dilated", [1, 9, 7, 64], [64, 3, 3], p(2, 2).dilation(2), true),
        case("stages_one_by_one", [3, 5, 9, 96], [64, 1, 1], p(1, 0), true),
        case("stages_one_by_one_s2", [2, 5, 6, 64], [128, 1, 1], p(2, 0), false),
        case("stages_zeros", [1, 5, 4, 116], [68, 3, 3], p(1, 1), true),
        upsample_case("stages", [1, 3, 5, 64], 64, true, math),
        case("row", [1, 5, 9, 8], [12, 1, 7], p(1, 0).pads([0, 3, 0, 3]), false),
        case("halo16_uneven", [1, 5, 6, 16], [16, 3, 3], p(1, 0).pads([0, 1, 2, 1]), true),
        case("stages_uneven", [1, 6, 9, 64], [64, 3, 2], p(1, 0).strides([1, 2]).pads([0, 2, 1, 1]), true),
        case(
            "stages_all",
            [1, 8, 9, 64],
            [64, 3, 2],
            p(1, 0).strides([2, 3]).pads([3, 0, 1, 2]).dilations([3, 1]),
            false,
        ),
    ]
    // Rounding operands costs half an epsilon per product at most, relative to the product: the relative error of the sum
    // does not grow with its length as the tolerance does.
    .map(|c| Case { name: format!("{label}_{}", c.name), ..c }.epsilon(epsilon).slack(0.25))
    .into()
}

pub fn cases() -> Vec<Case> {
    let p = Conv2dParams::new;
    let mut cases = vec![
        case("one", [1, 1, 1, 1], [1, 1, 1], p(1, 0), true),
        case("centre", [1, 1, 1, 1], [1, 3, 3], p(1, 1), false),
        case("primes", [2, 7, 5, 3], [5, 3, 3], p(1, 1), true),
        case("valid", [2, 7, 11, 13], [7, 3, 5], p(1, 0), false),
        case("image", [2, 8, 8, 3], [16, 3, 3], p(1, 1), false),
        case("to_image", [2, 6, 9, 20], [3, 3, 3], p(1, 1), true),
        case("stride2_odd", [2, 9, 7, 5], [6, 3, 3], p(2, 1), true),
        case("stride2_even", [2, 8, 8, 16], [32, 3, 3], p(2, 1), false),
        case("stride3", [1, 11, 10, 4], [3, 3, 2], p(3, 2), false),
        case("gap", [1, 7, 7, 2], [3, 1, 1], p(3, 0), false),
        case("one_by_one", [2, 5, 5, 33], [17, 1, 1], p(1, 0), true),
        case("one_by_one_s2", [2, 6, 6, 8], [19, 1, 1], p(2, 0), false),
        case("wide_pad", [1, 3, 4, 2], [3, 3, 3], p(1, 4), true),
        case("even_filter", [2, 6, 5, 3], [4, 2, 4], p(1, 1), false),
        case("seven", [1, 13, 12, 3], [9, 7, 7], p(2, 3), false),
        case("dilated", [1, 9, 10, 3], [4, 3, 3], p(1, 2).dilation(2), true),
        case("c16", [3, 8, 8, 16], [16, 3, 3], p(1, 1), true),
        case("c37_k50", [1, 5, 6, 37], [50, 3, 3], p(1, 1), false),
        // Several parts of the filter gradient, and the column tiles 16, 32 and 64.
        case("parts_n16", [4, 9, 8, 8], [12, 3, 3], p(1, 1), true),
        case("parts_n32", [2, 9, 9, 4], [24, 3, 3], p(2, 1), true),
        case("n64", [2, 7, 5, 36], [68, 3, 3], p(1, 1), true),
        case("dilated_s2", [1, 9, 10, 4], [4, 3, 3], p(2, 2).dilation(2), false),
        upsample_case("one", [1, 1, 1, 1], 1, true, Math::F32),
        upsample_case("primes", [2, 3, 5, 7], 11, true, Math::F32),
        upsample_case("c16", [2, 4, 4, 16], 16, false, Math::F32),
        upsample_case("to_image", [1, 4, 3, 5], 3, true, Math::F32),
        case("resnet20_16", [200, 32, 32, 16], [16, 3, 3], p(1, 1), false).bench(),
        case("resnet20_32", [200, 16, 16, 32], [32, 3, 3], p(1, 1), false).bench(),
        case("resnet20_64", [200, 8, 8, 64], [64, 3, 3], p(1, 1), false).bench(),
        case("resnet20_image", [200, 32, 32, 3], [16, 3, 3], p(1, 1), false).bench(),
        case("resnet20_down32", [200, 32, 32, 16], [32, 3, 3], p(2, 1), false).bench(),
        case("resnet20_down64", [200, 16, 16, 32], [64, 3, 3], p(2, 1), false).bench(),
        case("generator_image", [16, 32, 32, 64], [3, 3, 3], p(1, 1), true).bench(),
        upsample_case("generator_128", [16, 8, 8, 128], 128, true, Math::F32).bench(),
        upsample_case("generator_64", [16, 16, 16, 128], 64, true, Math::F32).bench(),
    ];
    for (label, [r, s], p) in windows() {
        cases.push(case(label, [2, 8, 10, 3], [5, r, s], p, true));
        cases.push(case(label, [1, 8, 9, 8], [12, r, s], p, false));
    }
    // Winograd's tiles on the CPU.
    cases.push(case("tiles", [1, 5, 6, 32], [32, 3, 3], p(1, 0).pads([0, 2, 1, 1]), true));
    let resnet18 = case("tf32_resnet18_128", [16, 28, 28, 128], [128, 3, 3], p(1, 1).math(Math::Tf32), false);
    cases.push(resnet18.epsilon(2f64.powi(-11)).slack(0.25).bench());
    cases.extend(tensor_core(Math::Tf32, "tf32", 2f64.powi(-11)));
    cases.extend(tensor_core(Math::Bf16, "bf16", 2f64.powi(-8)));
    cases
}
