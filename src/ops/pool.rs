//! Average and maximum over windows, and the average over the whole image. NHWC.
//!
//! Windows of k x k at distance `stride` on an image with `pad` more pixels on each side; the output has
//! `(h + 2 pad - k) / stride + 1` rows, rounded down. Averages count padding as zeros (divide by k * k always).

mod cpu;
mod rule;

use super::case::{Case, Fill, Input};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Shape, Tensor};
use rule::{AvgPoolOp, GlobalAvgPoolOp, MaxPoolOp};

/// Sizes of one pooling; mirrors `Pool` in `kernels/pool.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
struct Geometry {
    n: i32,
    h: i32,
    w: i32,
    c: i32,
    oh: i32,
    ow: i32,
    k: i32,
    stride: i32,
    pad: i32,
}

impl Geometry {
    fn new(op: &'static str, x: &Var, k: usize, stride: usize, pad: usize) -> Result<Self> {
        let [n, h, w, c] = x.shape().nhwc(op)?;
        crate::ensure_op!(
            k > 0 && stride > 0 && 2 * pad <= k && h + 2 * pad >= k && w + 2 * pad >= k,
            op,
            "window {k} at stride {stride} with padding {pad} (at most half the window) does not fit {}",
            x.shape()
        );
        let [oh, ow] = [h, w].map(|d| (d + 2 * pad - k) / stride + 1);
        let [n, h, w, c, oh, ow, k, stride, pad] = [n, h, w, c, oh, ow, k, stride, pad].map(|v| v as i32);
        Ok(Self { n, h, w, c, oh, ow, k, stride, pad })
    }
    fn input(&self) -> Shape {
        [self.n as usize, self.h as usize, self.w as usize, self.c as usize].into()
    }
    fn output(&self) -> Shape {
        [self.n as usize, self.oh as usize, self.ow as usize, self.c as usize].into()
    }
    /// The first and one past the last input index of window `o`, cut to `0..size`.
    fn window(&self, o: usize, size: i32) -> std::ops::Range<usize> {
        let start = o as i32 * self.stride - self.pad;
        start.max(0) as usize..(start + self.k).min(size) as usize
    }
}

/// Mean over all pixels: `x[n h w c]` to `[n c]`. F32 (F64 on the CPU). Errors if the image is empty.
pub fn global_avg_pool(tape: &mut Tape, x: &Var) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc("global_avg_pool")?;
    crate::ensure_op!(h * w > 0, "global_avg_pool", "x of shape {} has no pixels", x.shape());
    let mut y = Tensor::empty_like(&x.value, [n, c])?;
    if let Some(gpu) = x.value.gpu() {
        Launch::new("pool_global_fwd_f32")
            .grid([n as u32, c.div_ceil(32) as u32, 1])
            .block([256, 1, 1])
            .ptr(x.value.address())
            .ptr(y.address())
            .val((h * w) as i32)
            .val(c as i32)
            .run(gpu)?;
    } else {
        crate::for_real!("global_avg_pool", x.dtype(), T => {
            cpu::global::<T>(x.value.host(), y.host_mut(), h * w, c);
            Ok(())
        })?;
    }
    Ok(tape.record_one(GlobalAvgPoolOp { shape: x.shape() }, &[x], y))
}

/// Maximum over windows: `x[n h w c]` to `[n oh ow c]`, padding never wins, NaN does. F32 (F64 on the CPU). The gradient
/// goes to the first maximum of a window. Errors if the window does not fit or `pad` is more than half of it.
pub fn max_pool(tape: &mut Tape, x: &Var, k: usize, stride: usize, pad: usize) -> Result<Var> {
    let g = Geometry::new("max_pool", x, k, stride, pad)?;
    let mut y = Tensor::empty_like(&x.value, g.output())?;
    // Of each maximum, the pixel in its image.
    let mut from = Tensor::empty(&x.value.device(), g.output(), DType::I32)?;
    if let Some(gpu) = x.value.gpu() {
        Launch::over("pool_max_fwd_f32", y.len(), 256)
            .ptr(x.value.address())
            .ptr(y.address())
            .ptr(from.address())
            .val(g)
            .run(gpu)?;
    } else {
        crate::for_real!("max_pool", x.dtype(), T => {
            cpu::max::<T>(x.value.host(), y.host_mut(), from.host_mut(), &g);
            Ok(())
        })?;
    }
    Ok(tape.record_one(MaxPoolOp { from, g }, &[x], y))
}

/// Average over windows, padding counted as zeros: `x[n h w c]` to `[n oh ow c]`. F32 (F64 on the CPU). Errors as
/// [`max_pool`].
pub fn avg_pool(tape: &mut Tape, x: &Var, k: usize, stride: usize, pad: usize) -> Result<Var> {
    let g = Geometry::new("avg_pool", x, k, stride, pad)?;
    let mut y = Tensor::empty_like(&x.value, g.output())?;
    if let Some(gpu) = x.value.gpu() {
        Launch::over("pool_avg_fwd_f32", y.len(), 256).ptr(x.value.address()).ptr(y.address()).val(g).run(gpu)?;
    } else {
        crate::for_real!("avg_pool", x.dtype(), T => {
            cpu::avg::<T>(x.value.host(), y.host_mut(), &g);
            Ok(())
        })?;
    }
    Ok(tape.record_one(AvgPoolOp { g }, &[x], y))
}

pub fn cases() -> Vec<Case> {
    let global = |t: &mut Tape, v: &[Var]| Ok(vec![global_avg_pool(t, &v[0])?]);
    let mut cases = Vec::new();
    for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 8, 8, 64], [1, 3, 2, 37]] {
        let name = format!("global_{}", Shape::from(shape));
        cases.push(Case::new(name, vec![Input::grad(shape)], global).reduction(shape[1] * shape[2]));
    }
    let windows = [
        ([1, 1, 1, 1], 1, 1, 0),
        ([3, 5, 7, 11], 2, 2, 0),
        ([2, 4, 4, 3], 3, 2, 1),
        ([1, 7, 6, 5], 3, 1, 1),
        ([2, 5, 5, 17], 2, 3, 1),
    ];
    for (shape, k, stride, pad) in windows {
        let max = move |t: &mut Tape, v: &[Var]| Ok(vec![max_pool(t, &v[0], k, stride, pad)?]);
        let avg = move |t: &mut Tape, v: &[Var]| Ok(vec![avg_pool(t, &v[0], k, stride, pad)?]);
        let name = format!("{}_k{k}_s{stride}_p{pad}", Shape::from(shape));
        // Distinct values far enough apart that no difference step changes the maximum.
        let n: usize = shape.iter().product();
        let order = Fill::Values((0..n).map(|i| ((i * 7919 + 13) % 10007) as f64 * 0.01 - 50.0).collect());
        cases.push(Case::new(format!("max_{name}"), vec![Input::grad(shape).fill(order)], max).reduction(k * k));
        cases.push(Case::new(format!("avg_{name}"), vec![Input::grad(shape)], avg).reduction(k * k));
    }
    let shape = [64, 112, 112, 64];
    let n: usize = shape.iter().product();
    let max = |t: &mut Tape, v: &[Var]| Ok(vec![max_pool(t, &v[0], 3, 2, 1)?]);
    let avg = |t: &mut Tape, v: &[Var]| Ok(vec![avg_pool(t, &v[0], 2, 2, 0)?]);
    let small = [16, shape[1], shape[2], shape[3]];
    cases.push(Case::new("max_16x112x112x64", vec![Input::grad(small)], max).reduction(9).cost(n as f64, 1.5 * n as f64).bench());
    cases.push(Case::new("avg_64x32x32x16", vec![Input::grad([64, 32, 32, 16])], avg).reduction(4).cost(1e6, 5.2e6).bench());
    cases.push(Case::new("global_64x8x8x64", vec![Input::grad([64, 8, 8, 64])], global).reduction(64).cost(2.6e5, 1.05e6).bench());
    cases
}
