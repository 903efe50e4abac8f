//! Grad-CAM (Selvaraju et al. 2017) of a network that ends in global average pooling and a linear layer, in closed form.
//!
//! There `dlogit_l / dx[pixel, c] = w[l, c] / pixels`, the same at every pixel, so the channel weights of Grad-CAM are rows
//! of the linear layer and no backward pass is needed (it is CAM, Zhou et al. 2016, with the ReLU):
//! `cam[n, pixel] = relu(sum_c w[label_n, c] x[n, pixel, c])`. The factor `1 / pixels` is left out. The weights are
//! constants of the gradient, as in SynQ: `dx[n, pixel, c] = dcam [cam > 0] w[label_n, c]`.

use super::case::{Case, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

const OP: &str = "grad_cam";

/// Sizes, mirrored in `kernels/grad_cam.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Sizes {
    n: i32,
    pixels: i32,
    c: i32,
    classes: i32,
}

/// The map `[n h w]` of `x[n h w c]` (what the pooling reads) for the class `labels[n]` (I32) of each image, from the linear
/// layer's `weights[classes c]`. F32 (F64 on the CPU). Gradients flow to `x`, none to the weights; `x` is not saved, the
/// map is. Errors on other shapes or dtypes, and on the CPU on a label outside `0..classes`; on a GPU, where reading labels
/// would stall, such an image's map is NaN.
pub fn grad_cam(tape: &mut Tape, x: &Var, weights: &Tensor, labels: &Tensor) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    crate::ensure_op!(
        weights.shape().len() == 2
            && weights.dim(1) == c
            && weights.dtype() == x.dtype()
            && labels.shape()[..] == [n]
            && labels.dtype() == DType::I32,
        OP,
        "x {:?} needs weights (classes {c}) of its dtype and {n} I32 labels, got {weights:?} and {labels:?}",
        x.value
    );
    let elements = n * h * w * c;
    crate::ensure_op!((1..=1 << 30).contains(&elements), OP, "cannot take a map of {}", x.shape());
    let classes = weights.dim(0);
    let sizes = Sizes { n: n as i32, pixels: (h * w) as i32, c: c as i32, classes: classes as i32 };
    let mut cam = Tensor::empty_like(&x.value, [n, h, w])?;
    if x.value.gpu().is_some() {
        // One warp per pixel.
        gpu("grad_cam_fwd_f32", &[&x.value, weights, labels, &cam], n * h * w * 32, sizes)?;
    } else {
        for (i, &l) in labels.host::<i32>().iter().enumerate() {
            crate::ensure_op!(
                (0..classes as i32).contains(&l),
                OP,
                "label {i} is {l}, the layer has {classes} classes"
            );
        }
        crate::for_real!(OP, x.dtype(), T => {
            forward::<T>(x.value.host(), weights.host(), labels.host(), cam.host_mut(), c);
            Ok(())
        })?;
    }
    let op = GradCamOp { cam: cam.clone(), weights: weights.clone(), labels: labels.clone(), sizes, h };
    Ok(tape.record_one(op, &[x], cam))
}

struct GradCamOp {
    cam: Tensor,
    weights: Tensor,
    labels: Tensor,
    sizes: Sizes,
    h: usize,
}

impl Op for GradCamOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dcam) = cx.grad(0) else { return Ok(()) };
        let (n, c) = (self.sizes.n as usize, self.sizes.c as usize);
        let mut dx = Tensor::empty_like(&dcam, [n, self.h, self.sizes.pixels as usize / self.h, c])?;
        if dcam.gpu().is_some() {
            let tensors = [&dcam, &self.weights, &self.labels, &self.cam, &dx];
            gpu("grad_cam_bwd_f32", &tensors, dx.len(), self.sizes)?;
        } else {
            crate::for_real!(OP, dcam.dtype(), T => {
                backward::<T>(dcam.host(), self.cam.host(), self.weights.host(), self.labels.host(), dx.host_mut(), c);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

fn forward<T: Real>(x: &[T], weights: &[T], labels: &[i32], cam: &mut [T], c: usize) {
    const LANES: usize = 16;
    let pixels = cam.len() / labels.len();
    cam.par_chunks_mut(pixels).zip(x.par_chunks(pixels * c)).zip(labels).for_each(|((cam, x), label)| {
        let w = &weights[*label as usize * c..][..c];
        vectorize(
            #[inline(always)]
            || {
                for (cam, x) in cam.iter_mut().zip(x.chunks_exact(c)) {
                    let mut sums = [T::zero(); LANES];
                    let (blocks, rest) = x.as_chunks::<LANES>();
                    let (w_blocks, w_rest) = w.as_chunks::<LANES>();
                    for (x, w) in blocks.iter().zip(w_blocks) {
                        for i in 0..LANES {
                            sums[i] += x[i] * w[i];
                        }
                    }
                    for (s, (x, w)) in sums.iter_mut().zip(rest.iter().zip(w_rest)) {
                        *s += *x * *w;
                    }
                    let sum: T = sums.iter().copied().sum();
                    // NaN stays NaN.
                    *cam = if sum <= T::zero() { T::zero() } else { sum };
                }
            },
        );
    });
}

fn backward<T: Real>(dcam: &[T], cam: &[T], weights: &[T], labels: &[i32], dx: &mut [T], c: usize) {
    let pixels = cam.len() / labels.len();
    let images = dx.par_chunks_mut(pixels * c).zip(dcam.par_chunks(pixels).zip(cam.par_chunks(pixels))).zip(labels);
    images.for_each(|((dx, (dcam, cam)), label)| {
        let w = &weights[*label as usize * c..][..c];
        vectorize(
            #[inline(always)]
            || {
                for (dx, (dcam, cam)) in dx.chunks_exact_mut(c).zip(dcam.iter().zip(cam)) {
                    let g = if *cam > T::zero() { *dcam } else { T::zero() };
                    dx.iter_mut().zip(w).for_each(|(dx, w)| *dx = g * *w);
                }
            },
        );
    });
}

fn gpu(kernel: &'static str, tensors: &[&Tensor], threads: usize, sizes: Sizes) -> Result<()> {
    let launch = tensors.iter().fold(Launch::over(kernel, threads, 256), |launch, t| launch.ptr(t.address()));
    launch.val(sizes).run(tensors[0].gpu().expect("called for GPU tensors"))
}

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], classes: usize| {
        let run = |t: &mut Tape, v: &[Var]| Ok(vec![grad_cam(t, &v[0], &v[1].value, &v[2].value)?]);
        let [n, _, _, c] = shape;
        let inputs = vec![Input::grad(shape), Input::plain([classes, c]), Input::labels(n, classes)];
        let elements = shape.iter().product::<usize>() as f64;
        Case::new(format!("{}_k{classes}", crate::tensor::Shape::from(shape)), inputs, run)
            .reduction(c)
            .cost(2.0 * elements, 4.0 * elements)
    };
    vec![
        case([1, 1, 1, 1], 1),
        case([3, 5, 7, 11], 7),
        case([2, 4, 4, 3], 2),
        case([2, 3, 2, 37], 5),
        case([1, 3, 3, 130], 10),
        case([64, 8, 8, 64], 10).bench(),
        case([16, 7, 7, 512], 1000).bench(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::ops::{linear::linear, pool::global_avg_pool};

    /// The channel weights are the gradient of the logit, times the number of pixels.
    #[test]
    fn weights_are_the_gradients_of_a_pool_and_linear_head() {
        let d = Device::cpu();
        let (n, h, w, c, classes) = (3, 4, 5, 6, 7);
        let value = |i: usize| ((i * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
        let x = Tensor::from_slice(&d, [n, h, w, c], &(0..n * h * w * c).map(value).collect::<Vec<_>>()).unwrap();
        let weights = Tensor::from_slice(&d, [classes, c], &(0..classes * c).map(value).collect::<Vec<_>>()).unwrap();
        let labels = Tensor::from_slice(&d, [n], &[6i32, 0, 3]).unwrap();
        let mut tape = Tape::new(&d);
        let leaf = tape.leaf(x.clone());
        let pooled = global_avg_pool(&mut tape, &leaf).unwrap();
        let logits = linear(&mut tape, &pooled, &Var::constant(weights.clone()), None).unwrap();
        let mut one_hot = vec![0f64; n * classes];
        [6, classes, 2 * classes + 3].iter().for_each(|&i| one_hot[i] = 1.0);
        let seed = Tensor::from_slice(&d, [n, classes], &one_hot).unwrap();
        let g = tape.backward_from(&[(&logits, seed)]).unwrap().of(&leaf).unwrap();
        let cam = grad_cam(&mut Tape::inference(&d), &Var::constant(x.clone()), &weights, &labels).unwrap().value;
        let pixels = x.host::<f64>().chunks(c).zip(g.host::<f64>().chunks(c));
        for (i, ((x, g), got)) in pixels.zip(cam.host::<f64>()).enumerate() {
            let want = x.iter().zip(g).map(|(x, g)| x * g).sum::<f64>().max(0.0) * (h * w) as f64;
            assert!((got - want).abs() < 1e-12, "pixel {i}: {got} {want}");
        }
    }

    #[test]
    fn labels_outside_the_classes_are_errors() {
        let d = Device::cpu();
        let x = Var::constant(Tensor::from_slice(&d, [1, 1, 1, 2], &[1f32, 2.0]).unwrap());
        let weights = Tensor::from_slice(&d, [3, 2], &[1f32; 6]).unwrap();
        for label in [-1, 3] {
            let labels = Tensor::from_slice(&d, [1], &[label]).unwrap();
            assert!(grad_cam(&mut Tape::inference(&d), &x, &weights, &labels).is_err());
        }
    }
}
