//! Sum, difference, product and quotient of two tensors of one shape, and weighted sums of scalars (losses).

use super::case::{Case, Fill, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Scale, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Shape, Tensor};
use rayon::prelude::*;

/// `a + b`, same shape and dtype, F32 (F64 on the CPU). Both gradients are `dy`.
pub fn add(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    let y = binary("elementwise_add_f32", &a.value, &b.value)?;
    Ok(tape.record_one(AddOp, &[a, b], y))
}

/// `a - b`, same shape and dtype, F32 (F64 on the CPU). Gradients `dy` and `-dy`.
pub fn sub(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    let y = binary("elementwise_sub_f32", &a.value, &b.value)?;
    Ok(tape.record_one(SubOp, &[a, b], y))
}

/// `a * b` element by element, same shape and dtype, F32 (F64 on the CPU). Gradients `dy b` and `dy a`.
pub fn mul(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    let y = binary("elementwise_mul_f32", &a.value, &b.value)?;
    // Each value is the other input's derivative.
    let op = MulOp { a: b.needs_grad().then(|| a.value.clone()), b: a.needs_grad().then(|| b.value.clone()) };
    Ok(tape.record_one(op, &[a, b], y))
}

/// `a / b` element by element, same shape and dtype, F32 (F64 on the CPU). Gradients `dy / b` and `-dy / b * a / b`.
pub fn div(tape: &mut Tape, a: &Var, b: &Var) -> Result<Var> {
    let y = binary("elementwise_div_f32", &a.value, &b.value)?;
    let op = DivOp { b: b.value.clone(), y: b.needs_grad().then(|| y.clone()) };
    Ok(tape.record_one(op, &[a, b], y))
}

/// `sum_i w_i s_i` as `[1]` of one-element values `s_i`, added in the given order; F32 (F64 on the CPU). The gradient
/// of `s_i` is `w_i dy`. Errors without terms or if a value has more than one element.
pub fn weighted_sum(tape: &mut Tape, terms: &[(f32, &Var)]) -> Result<Var> {
    crate::ensure_op!(!terms.is_empty(), "weighted_sum", "no terms");
    let first = &terms[0].1.value;
    for (i, (_, v)) in terms.iter().enumerate() {
        crate::ensure_op!(
            v.value.len() == 1 && v.dtype() == first.dtype(),
            "weighted_sum",
            "term {i} is {} {:?}, expected one {:?}",
            v.shape(),
            v.dtype(),
            first.dtype()
        );
    }
    let mut y = Tensor::empty_like(first, [1])?;
    if let Some(gpu) = first.gpu() {
        for (g, group) in terms.chunks(GROUP).enumerate() {
            let params = Terms::new(group.iter().map(|(w, v)| (*w, v.value.address())));
            Launch::new("elementwise_weighted_sum_f32").ptr(y.address()).val(params).val(g as i32).run(gpu)?;
        }
    } else {
        crate::for_real!("weighted_sum", first.dtype(), T => {
            y.host_mut::<T>()[0] = terms.iter().map(|(w, v)| T::of(f64::from(*w)) * v.value.host::<T>()[0]).sum();
            Ok(())
        })?;
    }
    let inputs: Vec<&Var> = terms.iter().map(|(_, v)| *v).collect();
    let op = WeightedSumOp { weights: terms.iter().map(|(w, _)| *w).collect(), dtype: y.dtype() };
    Ok(tape.record_one(op, &inputs, y))
}

/// Terms per launch.
const GROUP: usize = 16;

/// Mirrors `Terms` in `kernels/elementwise.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Terms {
    scalars: [u64; GROUP],
    weights: [f32; GROUP],
    count: i32,
    unused: i32,
}

impl Terms {
    fn new(terms: impl Iterator<Item = (f32, u64)>) -> Self {
        let mut t: Self = bytemuck::Zeroable::zeroed();
        for (weight, address) in terms {
            t.weights[t.count as usize] = weight;
            t.scalars[t.count as usize] = address;
            t.count += 1;
        }
        t
    }
}

struct AddOp;
impl Op for AddOp {
    fn name(&self) -> &'static str {
        "add"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        cx.give(0, dy.clone())?;
        cx.give(1, dy)
    }
}

struct SubOp;
impl Op for SubOp {
    fn name(&self) -> &'static str {
        "sub"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        if cx.needs(1) {
            cx.give(1, negated(&dy)?)?;
        }
        cx.give(0, dy)
    }
}

struct MulOp {
    a: Option<Tensor>,
    b: Option<Tensor>,
}
impl Op for MulOp {
    fn name(&self) -> &'static str {
        "mul"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        for (i, other) in [&self.b, &self.a].into_iter().enumerate() {
            if let (true, Some(other)) = (cx.needs(i), other) {
                cx.give(i, binary("elementwise_mul_f32", &dy, other)?)?;
            }
        }
        Ok(())
    }
}

struct DivOp {
    b: Tensor,
    /// Kept where `b` needs a gradient.
    y: Option<Tensor>,
}
impl Op for DivOp {
    fn name(&self) -> &'static str {
        "div"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let da = binary("elementwise_div_f32", &dy, &self.b)?;
        if let (true, Some(y)) = (cx.needs(1), &self.y) {
            cx.give(1, negated(&binary("elementwise_mul_f32", &da, y)?)?)?;
        }
        cx.give(0, da)
    }
}

struct WeightedSumOp {
    weights: Vec<f32>,
    dtype: DType,
}
impl Op for WeightedSumOp {
    fn name(&self) -> &'static str {
        "weighted_sum"
    }
    fn takes_scale(&self) -> bool {
        true
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let dy = match cx.scale() {
            None => return Ok(()),
            Some(Scale::Stored(dy)) => dy,
            Some(Scale::Known(dy)) => {
                for (i, weight) in self.weights.iter().enumerate() {
                    cx.give_known(i, f64::from(*weight) * dy, (Shape::from([1]), self.dtype))?;
                }
                return Ok(());
            }
        };
        // All gradients in one buffer: a launch per group, not per term.
        let mut all = Tensor::empty_like(&dy, [self.weights.len()])?;
        if let Some(gpu) = dy.gpu() {
            for (g, group) in self.weights.chunks(GROUP).enumerate() {
                let out = all.view(g * GROUP, [group.len()])?;
                Launch::new("elementwise_weighted_sum_bwd_f32")
                    .block([32, 1, 1])
                    .ptr(dy.address())
                    .ptr(out.address())
                    .val(Terms::new(group.iter().map(|&w| (w, 0))))
                    .run(gpu)?;
            }
        } else {
            crate::for_real!("weighted_sum", dy.dtype(), T => {
                for (d, w) in all.host_mut::<T>().iter_mut().zip(&self.weights) {
                    *d = T::of(f64::from(*w)) * dy.host::<T>()[0];
                }
                Ok(())
            })?;
        }
        for i in 0..self.weights.len() {
            if cx.needs(i) {
                cx.give(i, all.view(i, [1])?)?;
            }
        }
        Ok(())
    }
}

fn negated(x: &Tensor) -> Result<Tensor> {
    let mut y = Tensor::empty_like(x, x.shape())?;
    if let Some(gpu) = x.gpu() {
        Launch::over_quads("elementwise_negate_f32", x.len(), 256)
            .ptr(x.address())
            .ptr(y.address())
            .val(x.len() as i32)
            .run(gpu)?;
    } else {
        crate::for_real!("negate", x.dtype(), T => {
            cpu::<T>(y.host_mut(), x.host(), x.host(), |v, _| -v);
            Ok(())
        })?;
    }
    Ok(y)
}

fn binary(kernel: &'static str, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    crate::ensure_op!(
        a.shape() == b.shape() && a.dtype() == b.dtype(),
        "elementwise",
        "{} {:?} and {} {:?} differ in shape or dtype",
        a.shape(),
        a.dtype(),
        b.shape(),
        b.dtype()
    );
    let mut y = Tensor::empty_like(a, a.shape())?;
    if let Some(gpu) = a.gpu() {
        Launch::over_quads(kernel, a.len(), 256)
            .ptr(a.address())
            .ptr(b.address())
            .ptr(y.address())
            .val(a.len() as i32)
            .run(gpu)?;
    } else {
        crate::for_real!("elementwise", a.dtype(), T => {
            match kernel {
                "elementwise_add_f32" => cpu::<T>(y.host_mut(), a.host(), b.host(), |a, b| a + b),
                "elementwise_sub_f32" => cpu::<T>(y.host_mut(), a.host(), b.host(), |a, b| a - b),
                "elementwise_div_f32" => cpu::<T>(y.host_mut(), a.host(), b.host(), |a, b| a / b),
                _ => cpu::<T>(y.host_mut(), a.host(), b.host(), |a, b| a * b),
            }
            Ok(())
        })?;
    }
    Ok(y)
}

fn cpu<T: Real>(y: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) {
    const CHUNK: usize = 1 << 14;
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(|(y, (a, b))| {
        vectorize(
            #[inline(always)]
            || {
                for (y, (a, b)) in y.iter_mut().zip(a.iter().zip(b)) {
                    *y = f(*a, *b);
                }
            },
        );
    });
}

pub fn cases() -> Vec<Case> {
    let run_add = |t: &mut Tape, v: &[Var]| Ok(vec![add(t, &v[0], &v[1])?]);
    let run_sub = |t: &mut Tape, v: &[Var]| Ok(vec![sub(t, &v[0], &v[1])?]);
    let run_mul = |t: &mut Tape, v: &[Var]| Ok(vec![mul(t, &v[0], &v[1])?]);
    let run_div = |t: &mut Tape, v: &[Var]| Ok(vec![div(t, &v[0], &v[1])?]);
    let run_sum = |t: &mut Tape, v: &[Var]| {
        let terms: Vec<(f32, &Var)> = v.iter().enumerate().map(|(i, v)| (0.5 + i as f32, v)).collect();
        Ok(vec![weighted_sum(t, &terms)?])
    };
    let mut cases = Vec::new();
    for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3]] {
        let name = crate::tensor::Shape::from(shape);
        let inputs = vec![Input::grad(shape), Input::grad(shape)];
        cases.push(Case::new(format!("add_{name}"), inputs.clone(), run_add));
        cases.push(Case::new(format!("sub_{name}"), inputs.clone(), run_sub));
        cases.push(Case::new(format!("mul_{name}"), inputs, run_mul));
        let below = Input::grad(shape).fill(Fill::Uniform { low: 0.5, high: 2.0 });
        cases.push(Case::new(format!("div_{name}"), vec![Input::grad(shape), below], run_div));
    }
    cases.push(Case::new("mul_half", vec![Input::grad([5, 3]), Input::plain([5, 3])], run_mul));
    cases.push(Case::new("sub_second", vec![Input::plain([5, 3]), Input::grad([5, 3])], run_sub));
    let twice = |t: &mut Tape, v: &[Var]| {
        let square = mul(t, &v[0], &v[0])?;
        Ok(vec![add(t, &square, &square)?])
    };
    cases.push(Case::new("same_input_twice", vec![Input::grad([7, 3])], twice).slack(2.0));
    for n in [1, 3, 17, 33] {
        cases.push(Case::new(format!("weighted_sum_{n}"), vec![Input::grad([1]); n], run_sum).reduction(n));
    }
    let shape = [64, 32, 32, 16];
    let n: usize = shape.iter().product();
    let inputs = vec![Input::grad(shape), Input::grad(shape)];
    cases.push(Case::new("add_64x32x32x16", inputs.clone(), run_add).cost(n as f64, 12.0 * n as f64).bench());
    cases.push(Case::new("mul_64x32x32x16", inputs, run_mul).cost(n as f64, 12.0 * n as f64).bench());
    cases
}
