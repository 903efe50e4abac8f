//! Scale and shift per channel, `y[.., c] = x[.., c] scale[c] + shift[c]`, the product rounded, then the sum.
//!
//! `dx = dy scale`, `dscale = sum over rows of dy x`, `dshift = sum over rows of dy`.

use super::case::{Case, Input};
use super::channel_stats::Stages;
use super::columns::Columns;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};

/// `x[.. c]` times `scale[c]` plus `shift[c]`, either of which may be absent. F32 (F64 on the CPU), any rank. Errors without
/// both, if `x` is empty, or if a shape or dtype does not fit.
pub fn channel_affine(tape: &mut Tape, x: &Var, scale: Option<&Var>, shift: Option<&Var>) -> Result<Var> {
    let [rows, c] = x.shape().rows_cols();
    crate::ensure_op!(rows * c > 0, "channel_affine", "x of shape {} is empty", x.shape());
    crate::ensure_op!(scale.is_some() || shift.is_some(), "channel_affine", "neither scale nor shift");
    for (name, v) in [("scale", scale), ("shift", shift)] {
        let Some(v) = v else { continue };
        crate::ensure_op!(
            v.shape()[..] == [c] && v.dtype() == x.dtype(),
            "channel_affine",
            "{name} is {} {:?}, expected {c} {:?}",
            v.shape(),
            v.dtype(),
            x.dtype()
        );
    }
    let y = affine(&x.value, scale.map(|v| &v.value), shift.map(|v| &v.value))?;
    let op = ChannelAffineOp {
        x: scale.filter(|s| s.needs_grad()).map(|_| x.value.clone()),
        scale: scale.map(|s| s.value.clone()),
    };
    let inputs: Vec<&Var> = [Some(x), scale, shift].into_iter().flatten().collect();
    Ok(tape.record_one(op, &inputs, y))
}

/// Inputs: x, scale and shift as far as they are there.
struct ChannelAffineOp {
    /// Kept where the scale needs a gradient.
    x: Option<Tensor>,
    scale: Option<Tensor>,
}

impl Op for ChannelAffineOp {
    fn name(&self) -> &'static str {
        "channel_affine"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let [rows, c] = dy.shape().rows_cols();
        let shift = 1 + usize::from(self.scale.is_some());
        let wanted = [self.scale.is_some() && cx.needs(1), cx.needs(shift)];
        if wanted[0] || wanted[1] {
            let x = self.x.as_ref();
            let sums = if let Some(gpu) = dy.gpu() {
                let plan = Stages::new(rows, c);
                let first =
                    plan.first("channel_affine_bwd_sums_f32").ptr(dy.address()).ptr(x.map_or(0, Tensor::address));
                plan.sum_pairs(&dy, gpu, first)?
            } else {
                crate::for_real!("channel_affine", dy.dtype(), T => sums::<T>(&dy, x.unwrap_or(&dy)))?
            };
            if wanted[0] {
                cx.give(1, sums.view(c, [c])?)?;
            }
            if wanted[1] {
                cx.give(shift, sums.view(0, [c])?)?;
            }
        }
        if cx.needs(0) {
            let dx = match &self.scale {
                Some(scale) => affine(&dy, Some(scale), None)?,
                None => dy,
            };
            cx.give(0, dx)?;
        }
        Ok(())
    }
}

/// `[2 c]`: sums of `dy`, then of `dy x`.
fn sums<T: Real>(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let [_, c] = dy.shape().rows_cols();
    let columns = Columns::new(c);
    let halves = columns.sums::<T>(
        dy.host(),
        x.host(),
        #[inline(always)]
        |dy, x| (dy, dy * x),
    );
    let mut sums = Tensor::empty_like(dy, [2, c])?;
    for (to, from) in sums.host_mut::<T>().iter_mut().zip(halves.iter().flatten()) {
        *to = T::of(*from);
    }
    Ok(sums)
}

fn affine(x: &Tensor, scale: Option<&Tensor>, shift: Option<&Tensor>) -> Result<Tensor> {
    let [_, c] = x.shape().rows_cols();
    let mut y = Tensor::empty_like(x, x.shape())?;
    if let Some(gpu) = x.gpu() {
        Launch::over("channel_affine_fwd_f32", x.len(), 256)
            .ptr(x.address())
            .ptr(scale.map_or(0, Tensor::address))
            .ptr(shift.map_or(0, Tensor::address))
            .ptr(y.address())
            .val(x.len() as i32)
            .val(c as i32)
            .run(gpu)?;
        return Ok(y);
    }
    crate::for_real!("channel_affine", x.dtype(), T => {
        let columns = Columns::new(c);
        let table = |t: &Tensor| columns.table(|i| t.host::<T>()[i]);
        let (y, x) = (y.host_mut::<T>(), x.host::<T>());
        match (scale.map(table), shift.map(table)) {
            (Some(scale), Some(shift)) => {
                columns.map(y, x, x, [&scale, &shift], #[inline(always)] |x, _, [scale, shift]| x * scale + shift);
            }
            (Some(scale), None) => columns.map(y, x, x, [&scale], #[inline(always)] |x, _, [scale]| x * scale),
            (None, Some(shift)) => columns.map(y, x, x, [&shift], #[inline(always)] |x, _, [shift]| x + shift),
            (None, None) => unreachable!("one of them is there"),
        }
        Ok(())
    })?;
    Ok(y)
}

pub fn cases() -> Vec<Case> {
    let both = |t: &mut Tape, v: &[Var]| Ok(vec![channel_affine(t, &v[0], Some(&v[1]), Some(&v[2]))?]);
    let scale = |t: &mut Tape, v: &[Var]| Ok(vec![channel_affine(t, &v[0], Some(&v[1]), None)?]);
    let shift = |t: &mut Tape, v: &[Var]| Ok(vec![channel_affine(t, &v[0], None, Some(&v[1]))?]);
    let mut cases = Vec::new();
    for shape in [&[1, 1, 1, 1][..], &[3, 5, 7, 11], &[2, 4, 4, 3], &[2, 13, 17, 16], &[5, 37]] {
        let c = *shape.last().expect("a dimension");
        let rows = shape.iter().product::<usize>() / c;
        let (x, v, name) = (Input::grad(shape), Input::grad([c]), crate::tensor::Shape::new(shape));
        cases.push(Case::new(format!("both_{name}"), vec![x.clone(), v.clone(), v.clone()], both).reduction(rows));
        cases.push(Case::new(format!("scale_{name}"), vec![x.clone(), v.clone()], scale).reduction(rows));
        cases.push(Case::new(format!("shift_{name}"), vec![x, v], shift).reduction(rows));
    }
    let (map, c) = ([2, 3, 5, 7], [7]);
    let fixed = vec![Input::grad(map), Input::plain(c), Input::plain(c)];
    cases.push(Case::new("constants", fixed, both));
    cases
        .push(Case::new("shift_learned", vec![Input::plain(map), Input::plain(c), Input::grad(c)], both).reduction(30));
    let shape = [64, 32, 32, 16];
    let n: usize = shape.iter().product();
    let inputs = vec![Input::grad(shape), Input::grad([16]), Input::grad([16])];
    let large = Case::new("both_64x32x32x16", inputs, both).reduction(n / 16);
    cases.push(large.cost(2.0 * n as f64, 8.0 * n as f64).bench());
    cases
}
