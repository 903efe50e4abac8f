//! Height and width resized, by the nearest pixel or bilinearly: the operator Resize of the ONNX standard, with the coordinates
//! of ONNX Runtime.
//!
//! Bilinear: `y = (x[a, c] s + x[a, d] t) u + (x[b, c] s + x[b, d] t) v`, where `a` and `b` are the rows, `c` and `d` the columns
//! around the source coordinate, and `u`, `v`, `s`, `t` weigh them by their distances. The gradient is the transpose.

mod cases;
mod cpu;
mod params;

pub use cases::cases;
pub use params::{Coordinates, ResizeMode, ResizeParams, Rounding};

use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Shape, Tensor};
use params::{Axis, Taps, codes};

const OP: &str = "resize";

/// `x[n h w c]` to `[n size[0] size[1] c]`. F32 (F64 on the CPU). Errors where [`ResizeParams::check`] does.
pub fn resize(tape: &mut Tape, x: &Var, p: ResizeParams) -> Result<Var> {
    let plan = Plan::new(&x.value, p)?;
    let mut y = Tensor::empty_like(&x.value, plan.output)?;
    if x.value.gpu().is_some() {
        let kernel = if plan.nearest() { "resize_nearest_f32" } else { "resize_linear_f32" };
        plan.launch(kernel, &x.value, &mut y)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            if plan.nearest() {
                cpu::nearest::<T>(x.value.host(), y.host_mut(), &plan);
            } else {
                cpu::linear::<T>(x.value.host(), y.host_mut(), &plan);
            }
            Ok(())
        })?;
    }
    Ok(tape.record_one(ResizeOp { plan }, &[x], y))
}

/// [`resize`] of I8 codes by the nearest pixel. Errors on the linear mode too, which makes values between codes.
pub fn resize_codes(x: &Tensor, p: ResizeParams) -> Result<Tensor> {
    crate::ensure_op!(x.dtype() == DType::I8, OP, "codes are I8, got {:?}", x.dtype());
    let plan = Plan::new(x, p)?;
    crate::ensure_op!(plan.nearest(), OP, "codes are resized by the nearest pixel only");
    let mut y = Tensor::empty_like(x, plan.output)?;
    if x.gpu().is_some() {
        plan.launch("resize_nearest_i8", x, &mut y)?;
    } else {
        cpu::nearest::<i8>(x.host(), y.host_mut(), &plan);
    }
    Ok(y)
}

/// One resize: shapes, and on the CPU the taps of rows and columns.
struct Plan {
    p: ResizeParams,
    input: Shape,
    output: Shape,
    axes: [Axis; 2],
    taps: [Vec<Taps>; 2],
}

/// Mirrors `Resize` in `kernels/resize.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Geometry {
    n: i32,
    c: i32,
    mode: i32,
    coordinates: i32,
    y: Axis,
    x: Axis,
}

impl Plan {
    fn new(x: &Tensor, p: ResizeParams) -> Result<Self> {
        let [n, h, w, c] = x.shape().nhwc(OP)?;
        crate::ensure_op!(c > 0, OP, "x of shape {} has no channels", x.shape());
        p.check([h, w]).map_err(|e| crate::Error::op(OP, e))?;
        let axes = p.axes([h, w]);
        let taps = match x.gpu() {
            Some(_) => [Vec::new(), Vec::new()],
            None => axes.map(|a| a.taps(p.mode, p.coordinates)),
        };
        Ok(Self { p, input: x.shape(), output: [n, p.size[0], p.size[1], c].into(), axes, taps })
    }
    fn nearest(&self) -> bool {
        self.p.mode != ResizeMode::Linear
    }
    /// One thread per element of `out`.
    fn launch(&self, kernel: &'static str, a: &Tensor, out: &mut Tensor) -> Result<()> {
        let [mode, coordinates] = codes(self.p.mode, self.p.coordinates);
        let [n, c] = [self.input[0], self.input[3]].map(|v| v as i32);
        let [y, x] = self.axes;
        Launch::over(kernel, out.len(), 256)
            .ptr(a.address())
            .ptr(out.address())
            .val(Geometry { n, c, mode, coordinates, y, x })
            .run(a.gpu().expect("called for GPU tensors"))
    }
}

struct ResizeOp {
    plan: Plan,
}

impl Op for ResizeOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut dx = Tensor::empty_like(&dy, self.plan.input)?;
        if dy.gpu().is_some() {
            self.plan.launch("resize_bwd_f32", &dy, &mut dx)?;
        } else {
            crate::for_real!(OP, dy.dtype(), T => {
                cpu::backward::<T>(dy.host(), dx.host_mut(), &self.plan);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

#[cfg(test)]
mod tests;
