//! ReLU with a learned slope (He et al. 2015): `y = x > 0 ? x : slope x`, one slope per channel or one for all.
//!
//! `dx = x > 0 ? dy : slope dy`, `dslope = sum of dy x` where x is not positive.

use super::case::{Case, Fill, Input};
use super::channel_stats::Stages;
use super::columns::Columns;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};

/// `x[.. c]`, `slope` `[c]` or `[1]` of any values. F32 (F64 on the CPU). Errors if `x` is empty or the slope does not fit.
pub fn prelu(tape: &mut Tape, x: &Var, slope: &Var) -> Result<Var> {
    let [rows, c] = x.shape().rows_cols();
    crate::ensure_op!(
        rows * c > 0 && (slope.shape()[..] == [c] || slope.shape()[..] == [1]) && slope.dtype() == x.dtype(),
        "prelu",
        "a slope of {} {:?} does not fit {} {:?}: one per channel or one for all is expected",
        slope.shape(),
        slope.dtype(),
        x.shape(),
        x.dtype()
    );
    let mut y = Tensor::empty_like(&x.value, x.shape())?;
    let c = slope.value.len();
    if let Some(gpu) = x.value.gpu() {
        Launch::over("prelu_fwd_f32", y.len(), 256)
            .ptr(x.value.address())
            .ptr(slope.value.address())
            .ptr(y.address())
            .val(y.len() as i32)
            .val(c as i32)
            .run(gpu)?;
    } else {
        crate::for_real!("prelu", x.dtype(), T => {
            let columns = Columns::new(c);
            let slope = columns.table(|i| slope.value.host::<T>()[i]);
            let x = x.value.host::<T>();
            columns.map(y.host_mut::<T>(), x, x, [&slope], #[inline(always)] |x, _, [slope]| {
                let scaled = x * slope;
                if x <= T::of(0.0) { scaled } else { x }
            });
            Ok(())
        })?;
    }
    Ok(tape.record_one(PreluOp { x: x.value.clone(), slope: slope.value.clone() }, &[x, slope], y))
}

struct PreluOp {
    x: Tensor,
    slope: Tensor,
}

impl Op for PreluOp {
    fn name(&self) -> &'static str {
        "prelu"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        if cx.needs(0) {
            cx.give(0, self.dx(&dy)?)?;
        }
        if cx.needs(1) {
            cx.give(1, self.dslope(&dy)?)?;
        }
        Ok(())
    }
}

impl PreluOp {
    fn dx(&self, dy: &Tensor) -> Result<Tensor> {
        let (x, c) = (&self.x, self.slope.len());
        let mut dx = Tensor::empty_like(dy, dy.shape())?;
        if let Some(gpu) = dy.gpu() {
            Launch::over("prelu_bwd_f32", dx.len(), 256)
                .ptr(x.address())
                .ptr(self.slope.address())
                .ptr(dy.address())
                .ptr(dx.address())
                .val(dx.len() as i32)
                .val(c as i32)
                .run(gpu)?;
        } else {
            crate::for_real!("prelu", dy.dtype(), T => {
                let columns = Columns::new(c);
                let slope = columns.table(|i| self.slope.host::<T>()[i]);
                columns.map(dx.host_mut::<T>(), x.host(), dy.host(), [&slope], #[inline(always)] |x, dy, [slope]| {
                    let scaled = dy * slope;
                    if x > T::of(0.0) { dy } else { scaled }
                });
                Ok(())
            })?;
        }
        Ok(dx)
    }

    fn dslope(&self, dy: &Tensor) -> Result<Tensor> {
        let (x, c) = (&self.x, self.slope.len());
        if let Some(gpu) = dy.gpu() {
            let plan = Stages::new(x.len() / c, c);
            let first = plan.first("prelu_bwd_sums_f32").ptr(dy.address()).ptr(x.address());
            return plan.sum_pairs(dy, gpu, first)?.view(0, [c]);
        }
        let mut d = Tensor::empty_like(dy, [c])?;
        crate::for_real!("prelu", dy.dtype(), T => {
            let [sums, _] = Columns::new(c).sums::<T>(dy.host(), x.host(), #[inline(always)] |dy, x| {
                let product = dy * x;
                (if x > 0.0 { 0.0 } else { product }, 0.0)
            });
            d.host_mut::<T>().iter_mut().zip(sums).for_each(|(d, s)| *d = T::of(s));
            Ok(())
        })?;
        Ok(d)
    }
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![prelu(t, &v[0], &v[1])?]);
    let bend = Fill::Away { scale: 1.0, step: 100.0, gap: 0.01 };
    let mut cases = Vec::new();
    for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 13, 17, 16]] {
        let (x, name, rows) =
            (Input::grad(shape).fill(bend.clone()), crate::tensor::Shape::from(shape), shape[..3].iter().product());
        cases
            .push(Case::new(format!("channels_{name}"), vec![x.clone(), Input::grad([shape[3]])], run).reduction(rows));
        cases.push(Case::new(format!("one_{name}"), vec![x, Input::grad([1])], run).reduction(rows * shape[3]));
    }
    let rows = Input::grad([5, 7]).fill(bend.clone());
    cases.push(Case::new("frozen_slope", vec![rows, Input::plain([7])], run));
    cases.push(Case::new("slope_alone", vec![Input::plain([5, 7]).fill(bend), Input::grad([7])], run).reduction(5));
    let shape = [64, 32, 32, 16];
    let n: usize = shape.iter().product();
    let large = Case::new("channels_64x32x32x16", vec![Input::grad(shape), Input::grad([16])], run).reduction(n / 16);
    cases.push(large.cost(n as f64, 8.0 * n as f64).bench());
    cases
}
