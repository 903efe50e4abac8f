//! Batch normalization over the last dimension (Ioffe & Szegedy 2015), with batch statistics or with stored ones.
//!
//! `y = (x - mean) / sqrt(var + eps) * gamma + beta`, `var` biased. Gradients, with `x^ = (x - mean) / sqrt(var + eps)`
//! and `m` rows: `dbeta = sum dy`, `dgamma = sum dy x^`, and
//! train `dx = gamma / sqrt(var + eps) * (dy - dbeta / m - x^ dgamma / m)`, eval `dx = gamma / sqrt(var + eps) * dy`.

mod rule;

use super::case::{Case, Fill, GradCheck, Input};
use super::channel_stats::statistics;
use super::columns::Columns;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor, init};
use rule::BatchNormOp;

/// Running statistics that training updates in place: `r = (1 - momentum) r + momentum * batch`, with the unbiased
/// batch variance (`m / (m - 1)` times the biased one; as it is if `m` = 1). `mean` and `var` are `[c]`, of x's dtype.
#[derive(Clone, Debug)]
pub struct Running {
    pub mean: Tensor,
    pub var: Tensor,
    pub momentum: f32,
}

/// Normalizes `x` (any rank, channels last, F32, or F64 on the CPU) by its own mean and biased variance per channel.
/// `gamma` and `beta` are `[c]`; without them the scale is 1 and the shift 0. Gradients flow through the statistics.
/// Errors if `x` is empty or a parameter is not `[c]`.
pub fn batch_norm_train(
    tape: &mut Tape,
    x: &Var,
    gamma: Option<&Var>,
    beta: Option<&Var>,
    running: Option<Running>,
    eps: f32,
) -> Result<Var> {
    check(x, [("gamma", gamma.map(|v| &v.value)), ("beta", beta.map(|v| &v.value))])?;
    if let Some(r) = &running {
        check(x, [("running mean", Some(&r.mean)), ("running variance", Some(&r.var))])?;
    }
    let (mean, var) = statistics("batch_norm", &x.value)?;
    if let Some(running) = running {
        update(running, &mean, &var, x.shape().rows_cols()[0])?;
    }
    normalize(tape, x, gamma, beta, mean, var, eps, true)
}

/// Normalizes `x` (any rank, channels last, F32, or F64 on the CPU) by given `mean` and `var` `[c]`, which are
/// constants of the gradient. `gamma` and `beta` as in [`batch_norm_train`]; when neither needs a gradient `x` is not
/// kept for backward.
pub fn batch_norm_eval(
    tape: &mut Tape,
    x: &Var,
    gamma: Option<&Var>,
    beta: Option<&Var>,
    mean: &Tensor,
    var: &Tensor,
    eps: f32,
) -> Result<Var> {
    check(x, [("gamma", gamma.map(|v| &v.value)), ("beta", beta.map(|v| &v.value))])?;
    check(x, [("mean", Some(mean)), ("variance", Some(var))])?;
    normalize(tape, x, gamma, beta, mean.clone(), var.clone(), eps, false)
}

fn check(x: &Var, parameters: [(&str, Option<&Tensor>); 2]) -> Result<()> {
    let [_, c] = x.shape().rows_cols();
    crate::ensure_op!(!x.value.is_empty(), "batch_norm", "x of shape {} is empty", x.shape());
    for (name, t) in parameters {
        let Some(t) = t else { continue };
        crate::ensure_op!(
            t.len() == c && t.dtype() == x.dtype(),
            "batch_norm",
            "{name} of shape {} {:?} does not fit x of shape {} {:?}: expected {c} values",
            t.shape(),
            t.dtype(),
            x.shape(),
            x.dtype()
        );
    }
    Ok(())
}

fn normalize(
    tape: &mut Tape,
    x: &Var,
    gamma: Option<&Var>,
    beta: Option<&Var>,
    mean: Tensor,
    var: Tensor,
    eps: f32,
    train: bool,
) -> Result<Var> {
    let g = gamma.map(|v| &v.value);
    let stored = Stored { gamma: g, beta: beta.map(|v| &v.value), mean: &mean, var: &var, eps };
    let y = stored.apply(&x.value)?;
    let none = Var::constant(mean.clone());
    let (gamma, beta) = (gamma.unwrap_or(&none), beta.unwrap_or(&none));
    if !tape.wants(&[x, gamma, beta]) {
        return Ok(Var::constant(y));
    }
    let keep_x = train || gamma.needs_grad();
    let op = BatchNormOp {
        x: keep_x.then(|| x.value.clone()),
        gamma: g.cloned(),
        mean,
        var,
        eps,
        train,
    };
    Ok(tape.record_one(op, &[x, gamma, beta], y))
}

/// The values of a normalization, `[c]` each: 1 without `gamma`, 0 without `beta`.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    pub gamma: Option<&'a Tensor>,
    pub beta: Option<&'a Tensor>,
    pub mean: &'a Tensor,
    pub var: &'a Tensor,
    pub eps: f32,
}

impl Stored<'_> {
    /// `[mean, scale, shift]` per channel of CPU tensors of type `T`: `y = (x - mean) * scale + shift`, in this order.
    /// `scale` is computed in f64 and rounded once.
    pub fn coefficients<T: Real>(&self) -> [Vec<T>; 3] {
        let of = |t: Option<&Tensor>, absent: f64| match t {
            Some(t) => t.host::<T>().to_vec(),
            None => vec![T::of(absent); self.mean.len()],
        };
        let columns = Columns::new(self.mean.len());
        let mut scale = scales::<T>(&columns, self.var, self.gamma, self.eps);
        scale.truncate(self.mean.len());
        [of(Some(self.mean), 0.0), scale, of(self.beta, 0.0)]
    }

    /// Normalized `x` (any rank, channels last), shapes already checked.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = Tensor::empty_like(x, x.shape())?;
        let [_, c] = x.shape().rows_cols();
        if let Some(gpu) = x.gpu() {
            Launch::over("batch_norm_fwd_f32", x.len(), 256)
                .ptr(x.address())
                .ptr(self.mean.address())
                .ptr(self.var.address())
                .ptr(self.gamma.map_or(0, Tensor::address))
                .ptr(self.beta.map_or(0, Tensor::address))
                .ptr(y.address())
                .val(x.len() as i32)
                .val(c as i32)
                .val(self.eps)
                .run(gpu)?;
        } else {
            crate::for_real!("batch_norm", x.dtype(), T => {
                let columns = Columns::new(c);
                let centre = columns.table(|i| self.mean.host::<T>()[i]);
                let scale = scales::<T>(&columns, self.var, self.gamma, self.eps);
                let shift = columns.table(|i| self.beta.map_or(T::of(0.0), |b| b.host::<T>()[i]));
                columns.map(y.host_mut::<T>(), x.host(), x.host(), [&centre, &scale, &shift],
                    #[inline(always)] |x, _, [centre, scale, shift]| (x - centre) * scale + shift);
                Ok(())
            })?;
        }
        Ok(y)
    }
}

/// Per folded column `gamma / sqrt(var + eps)`.
fn scales<T: Real>(columns: &Columns, var: &Tensor, gamma: Option<&Tensor>, eps: f32) -> Vec<T> {
    let var = var.host::<T>();
    columns.table(|i| {
        let inverse = 1.0 / (var[i].f64() + f64::from(eps)).sqrt();
        T::of(gamma.map_or(1.0, |g| g.host::<T>()[i].f64()) * inverse)
    })
}

fn update(mut running: Running, mean: &Tensor, var: &Tensor, rows: usize) -> Result<()> {
    let unbias = if rows > 1 { rows as f64 / (rows as f64 - 1.0) } else { 1.0 };
    if let Some(gpu) = mean.gpu() {
        return Launch::over("batch_norm_running_f32", mean.len(), 128)
            .ptr(mean.address())
            .ptr(var.address())
            .ptr(running.mean.address())
            .ptr(running.var.address())
            .val(mean.len() as i32)
            .val(running.momentum)
            .val(unbias as f32)
            .run(gpu);
    }
    crate::for_real!("batch_norm", mean.dtype(), T => {
        let momentum = T::of(f64::from(running.momentum));
        for (r, v) in running.mean.host_mut::<T>().iter_mut().zip(mean.host::<T>()) {
            *r += momentum * (*v - *r);
        }
        for (r, v) in running.var.host_mut::<T>().iter_mut().zip(var.host::<T>()) {
            *r += momentum * (*v * T::of(unbias) - *r);
        }
        Ok(())
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let positive = |c: usize| Input::plain([c]).fill(Fill::Uniform { low: 0.3, high: 2.0 });
    let train = |t: &mut Tape, v: &[Var]| Ok(vec![batch_norm_train(t, &v[0], Some(&v[1]), Some(&v[2]), None, 1e-5)?]);
    let eval = |t: &mut Tape, v: &[Var]| {
        let y = batch_norm_eval(t, &v[0], Some(&v[1]), Some(&v[2]), &v[3].value, &v[4].value, 1e-5)?;
        Ok(vec![y])
    };
    for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 13, 17, 16], [3, 3, 1, 37], [1, 1, 2, 130]] {
        let (c, rows) = (shape[3], shape[..3].iter().product());
        let name = crate::tensor::Shape::from(shape);
        let affine = vec![Input::grad(shape), Input::grad([c]), Input::grad([c])];
        // Two rows far or near apart make 1 / sqrt(var + eps) sensitive: the differences' own error shows.
        if rows > 2 {
            cases.push(Case::new(format!("train_{name}"), affine.clone(), train).reduction(rows).slack(4.0));
        }
        let fixed = [affine, vec![Input::plain([c]), positive(c)]].concat();
        cases.push(Case::new(format!("eval_{name}"), fixed, eval).reduction(rows));
    }
    // The generator's layers: a large eps, and no affine parameters.
    let plain = |t: &mut Tape, v: &[Var]| Ok(vec![batch_norm_train(t, &v[0], None, None, None, 0.8)?]);
    cases.push(Case::new("train_1x1x1x1_plain", vec![Input::grad([1, 1, 1, 1])], plain));
    cases.push(Case::new("train_9x13_plain", vec![Input::grad([9, 13])], plain).reduction(9).slack(4.0));
    let eval_plain = |t: &mut Tape, v: &[Var]| {
        Ok(vec![batch_norm_eval(t, &v[0], None, None, &v[1].value, &v[2].value, 1e-3)?])
    };
    let inputs = vec![Input::grad([5, 3, 1, 7]), Input::plain([7]), positive(7)];
    cases.push(Case::new("eval_plain", inputs, eval_plain));
    let frozen = vec![Input::grad([2, 3, 3, 5]), Input::plain([5]), Input::plain([5]), Input::plain([5]), positive(5)];
    cases.push(Case::new("eval_frozen_affine", frozen, eval));
    let shift_only = vec![Input::plain([2, 3, 3, 5]), Input::plain([5]), Input::grad([5]), Input::plain([5]), positive(5)];
    cases.push(Case::new("eval_beta_only", shift_only, eval).reduction(18));
    let running = |t: &mut Tape, v: &[Var]| {
        let of = |value| -> Result<Tensor> { init::cast(&init::full(t.device(), [5], value)?, v[0].dtype()) };
        let running = Running { mean: of(0.5)?, var: of(2.0)?, momentum: 0.1 };
        let y = batch_norm_train(t, &v[0], None, None, Some(running.clone()), 1e-5)?;
        Ok(vec![y, Var::constant(running.mean), Var::constant(running.var)])
    };
    // No gradient flows to the running statistics, which differences would see: hence not compared with them.
    let case = Case::new("train_running", vec![Input::grad([3, 2, 3, 5])], running);
    cases.push(case.reduction(18).slack(4.0).check(GradCheck::Defined));
    for shape in [[64, 32, 32, 16], [64, 32, 32, 128]] {
        let (c, n): (usize, usize) = (shape[3], shape.iter().product());
        let name = crate::tensor::Shape::from(shape);
        let affine = vec![Input::grad(shape), Input::grad([c]), Input::grad([c])];
        let case = Case::new(format!("train_{name}"), affine.clone(), train).reduction(n / c);
        cases.push(case.cost(6.0 * n as f64, 12.0 * n as f64).bench());
        let fixed = [affine, vec![Input::plain([c]), positive(c)]].concat();
        let case = Case::new(format!("eval_{name}"), fixed, eval).reduction(n / c);
        cases.push(case.cost(2.0 * n as f64, 8.0 * n as f64).bench());
    }
    cases
}
