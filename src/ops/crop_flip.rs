//! Random-resized crop and horizontal flip, every image with its own box: the augmentation of ClusterQ's and IntraQ's
//! training images, differentiable because generators and images are trained through it.
//!
//! Output pixel `(i, j)` of image `n` samples the input bilinearly at
//! `y = y0 + (i + 1/2) height / p - 1/2`, `x = x0 + (j' + 1/2) width / q - 1/2` (pixel centres at whole numbers, corners
//! not aligned), `j' = q - 1 - j` where the image is flipped, each clamped to the image. `dx` is the transposed sum.
//! Unlike cropping first and resizing then, samples at the border of a box see their neighbours outside it.

mod boxes;
mod cpu;

pub use boxes::{CropSpec, draw_crops};

use super::case::{Case, Fill, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Tensor};

const OP: &str = "crop_flip";

/// Sizes, mirrored in `kernels/crop_flip.cu`: input `n h w c`, output `n p q c`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: i32,
    h: i32,
    w: i32,
    c: i32,
    p: i32,
    q: i32,
}

/// The boxes of `x[n h w c]` resized to `out` = `[p, q]`: `y[n p q c]`.
///
/// `boxes[n 4]`, of x's dtype: y0, x0, height, width in input pixels, where the top left pixel covers 0..1 x 0..1; may be
/// fractional or reach outside. `flips[n]`, I32: 0, or anything else to mirror left and right. F32 (F64 on the CPU).
/// Gradients flow to `x`; boxes and flips are saved. Errors on other shapes or dtypes, and on the CPU on a box that is not
/// finite or not at least 1e-3 high and wide; on a GPU, where reading boxes would stall, such an image is NaN.
pub fn crop_flip(tape: &mut Tape, x: &Var, boxes: &Tensor, flips: &Tensor, out: [usize; 2]) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    let [p, q] = out;
    crate::ensure_op!(
        boxes.shape()[..] == [n, 4]
            && boxes.dtype() == x.dtype()
            && flips.shape()[..] == [n]
            && flips.dtype() == DType::I32,
        OP,
        "x {:?} needs boxes {n}x4 of its dtype and {n} I32 flips, got {boxes:?} and {flips:?}",
        x.value
    );
    let largest = (n * h * w * c).max(n * p * q * c);
    crate::ensure_op!(
        n * h * w * c > 0 && p * q > 0 && largest <= 1 << 30,
        OP,
        "cannot crop {} to {p}x{q}: empty, or more than 2^30 elements",
        x.shape()
    );
    let i = |v: usize| v as i32;
    let sizes = Sizes { n: i(n), h: i(h), w: i(w), c: i(c), p: i(p), q: i(q) };
    let mut y = Tensor::empty_like(&x.value, [n, p, q, c])?;
    if x.value.gpu().is_some() {
        gpu("crop_flip_fwd_f32", &x.value, boxes, flips, &y, sizes)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            cpu::check::<T>(boxes.host())?;
            cpu::forward::<T>(x.value.host(), boxes.host(), flips.host(), y.host_mut(), sizes);
            Ok(())
        })?;
    }
    let op = CropFlipOp { boxes: boxes.clone(), flips: flips.clone(), sizes };
    Ok(tape.record_one(op, &[x], y))
}

struct CropFlipOp {
    boxes: Tensor,
    flips: Tensor,
    sizes: Sizes,
}

impl Op for CropFlipOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let s = self.sizes;
        let mut dx = Tensor::empty_like(&dy, [s.n, s.h, s.w, s.c].map(|v| v as usize))?;
        if dy.gpu().is_some() {
            gpu("crop_flip_bwd_f32", &dy, &self.boxes, &self.flips, &dx, s)?;
        } else {
            crate::for_real!(OP, dy.dtype(), T => {
                cpu::backward::<T>(dy.host(), self.boxes.host(), self.flips.host(), dx.host_mut(), s);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

/// One thread per element of `out`.
fn gpu(kernel: &'static str, from: &Tensor, boxes: &Tensor, flips: &Tensor, out: &Tensor, s: Sizes) -> Result<()> {
    Launch::over(kernel, out.len(), 256)
        .ptr(from.address())
        .ptr(boxes.address())
        .ptr(flips.address())
        .ptr(out.address())
        .val(s)
        .run(from.gpu().expect("called for GPU tensors"))
}

pub fn cases() -> Vec<Case> {
    let case = |label: &str, shape: [usize; 4], out: [usize; 2], boxes: Fill| {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![crop_flip(t, &v[0], &v[1].value, &v[2].value, out)?]);
        let n = shape[0];
        let inputs = vec![Input::grad(shape), Input::plain([n, 4]).fill(boxes), Input::labels(n, 2)];
        let name = format!("{label}_{}_to_{}x{}", crate::tensor::Shape::from(shape), out[0], out[1]);
        let elements = (n * out[0] * out[1] * shape[3]) as f64;
        // Weights are as exact as the coordinates are: the larger the image, the coarser. Where an image is enlarged
        // many outputs meet in one gradient.
        let side = shape[1].max(shape[2]) as f64;
        let meet = (2 * out[0].div_ceil(shape[1]) + 1) * (2 * out[1].div_ceil(shape[2]) + 1);
        Case::new(name, inputs, run).reduction(meet).slack(1.0 + side / 4.0).cost(7.0 * elements, 8.0 * elements)
    };
    let given = |v: &[[f64; 4]]| Fill::Values(v.concat());
    let inside = |side: f64| Fill::Uniform { low: side / 3.0, high: side / 2.0 };
    vec![
        case("one", [1, 1, 1, 1], [1, 1], given(&[[0.0, 0.0, 1.0, 1.0]])),
        case("identity", [2, 5, 7, 3], [5, 7], given(&[[0.0, 0.0, 5.0, 7.0]; 2])),
        case("whole_pixels", [2, 8, 8, 3], [8, 8], given(&[[1.0, 2.0, 6.0, 5.0], [0.0, 3.0, 7.0, 4.0]])),
        case("fractional", [3, 7, 11, 5], [7, 11], inside(7.0)),
        case("outside", [2, 5, 6, 4], [6, 5], given(&[[-2.5, -1.0, 9.25, 3.0], [3.5, 4.0, 4.0, 7.5]])),
        case("far_outside", [1, 3, 3, 2], [4, 4], given(&[[-9.0, 7.0, 3.0, 3.0]])),
        case("smaller", [2, 13, 11, 3], [4, 3], inside(11.0)),
        case("larger", [2, 5, 3, 17], [13, 11], inside(3.0)),
        case("a_pixel", [1, 4, 4, 3], [5, 5], given(&[[1.25, 2.0, 0.015625, 0.5]])),
        case("cifar", [64, 32, 32, 3], [32, 32], inside(32.0)).bench(),
        case("imagenet", [16, 224, 224, 3], [224, 224], inside(224.0)).bench(),
    ]
}

#[cfg(test)]
mod tests;
