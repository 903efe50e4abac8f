//! Local response normalization over channels (Krizhevsky et al. 2012, section 3.3), as the ONNX standard's operator LRN.
//!
//! `s_i = bias + alpha / size * sum of x_j^2` over the `size` channels around `i`, those before being the fewer of an even
//! number, and `y_i = x_i s_i^-beta`. The gradient is
//! `dx_i = dy_i s_i^-beta - 2 alpha beta / size * x_i * sum of dy_j x_j s_j^(-beta - 1)` over the `j` whose window holds `i`.

use super::case::{Case, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Numbers of the normalization, named as the operator's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LrnParams {
    /// Channels of a window.
    pub size: usize,
    pub alpha: f32,
    pub beta: f32,
    pub bias: f32,
}

impl LrnParams {
    /// Errors unless sums are positive whatever the input: `size` from 1 to 65536, `alpha` >= 0, `bias` > 0, all finite.
    pub fn check(&self) -> std::result::Result<(), String> {
        let Self { size, alpha, beta, bias } = *self;
        let finite = alpha.is_finite() && beta.is_finite() && bias.is_finite();
        if (1..=1 << 16).contains(&size) && finite && alpha >= 0.0 && bias > 0.0 {
            return Ok(());
        }
        Err(format!(
            "size {size}, alpha {alpha}, beta {beta}, bias {bias}; size must be 1 to 65536, alpha at least 0, bias above 0, all finite"
        ))
    }
    /// Channels before and after the one in the middle.
    fn reach(&self) -> [usize; 2] {
        [(self.size - 1) / 2, self.size / 2]
    }
    fn slope(&self) -> f32 {
        self.alpha / self.size as f32
    }
}

/// `x[.. c]` to the same shape. F32 (F64 on the CPU), any rank. Errors if `x` is empty or where [`LrnParams::check`] does.
pub fn lrn(tape: &mut Tape, x: &Var, p: LrnParams) -> Result<Var> {
    p.check().map_err(|e| crate::Error::op("lrn", e))?;
    crate::ensure_op!(!x.value.is_empty(), "lrn", "x of shape {} is empty", x.shape());
    let mut y = Tensor::empty_like(&x.value, x.shape())?;
    if x.value.gpu().is_some() {
        launch("lrn_fwd_f32", &x.value, &x.value, &mut y, p)?;
    } else {
        crate::for_real!("lrn", x.dtype(), T => {
            forward::<T>(&x.value, &mut y, p);
            Ok(())
        })?;
    }
    Ok(tape.record_one(LrnOp { x: x.value.clone(), p }, &[x], y))
}

struct LrnOp {
    x: Tensor,
    p: LrnParams,
}

impl Op for LrnOp {
    fn name(&self) -> &'static str {
        "lrn"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut dx = Tensor::empty_like(&dy, dy.shape())?;
        if dy.gpu().is_some() {
            launch("lrn_bwd_f32", &self.x, &dy, &mut dx, self.p)?;
        } else {
            crate::for_real!("lrn", dy.dtype(), T => {
                backward::<T>(&self.x, &dy, &mut dx, self.p);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

/// Rows that a task takes.
const ROWS: usize = 64;

/// `out[i]` plus the sum of `a[j]` for `j` from `i - before` to `i + after`.
#[inline(always)]
fn add_windows<T: Real>(out: &mut [T], a: &[T], before: usize, after: usize) {
    let c = a.len();
    for d in (1..=before.min(c)).rev() {
        out[d..].iter_mut().zip(&a[..c - d]).for_each(|(o, a)| *o += *a);
    }
    for d in 0..=after.min(c) {
        out[..c - d].iter_mut().zip(&a[d..]).for_each(|(o, a)| *o += *a);
    }
}

/// `s` of one row.
#[inline(always)]
fn row_sums<T: Real>(x: &[T], squares: &mut [T], s: &mut [T], p: LrnParams) {
    let [before, after] = p.reach();
    let (slope, bias) = (T::of(f64::from(p.slope())), T::of(f64::from(p.bias)));
    squares.iter_mut().zip(x).for_each(|(q, x)| *q = *x * *x);
    s.fill(T::zero());
    add_windows(s, squares, before, after);
    s.iter_mut().for_each(|s| *s = bias + slope * *s);
}

fn forward<T: Real>(x: &Tensor, y: &mut Tensor, p: LrnParams) {
    let [_, c] = x.shape().rows_cols();
    let beta = T::of(-f64::from(p.beta));
    y.host_mut::<T>().par_chunks_mut(ROWS * c).zip(x.host::<T>().par_chunks(ROWS * c)).for_each(|(y, x)| {
        let mut squares = vec![T::zero(); c];
        vectorize(
            #[inline(always)]
            || {
                for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                    row_sums(x, &mut squares, y, p);
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = *x * y.powf(beta));
                }
            },
        );
    });
}

fn backward<T: Real>(x: &Tensor, dy: &Tensor, dx: &mut Tensor, p: LrnParams) {
    let [_, c] = x.shape().rows_cols();
    let [before, after] = p.reach();
    let beta = T::of(-f64::from(p.beta));
    let factor = T::of(-2.0 * f64::from(p.slope()) * f64::from(p.beta));
    let rows = x.host::<T>().par_chunks(ROWS * c).zip(dy.host::<T>().par_chunks(ROWS * c));
    dx.host_mut::<T>().par_chunks_mut(ROWS * c).zip(rows).for_each(|(dx, (x, dy))| {
        let [mut s, mut terms] = [vec![T::zero(); c], vec![T::zero(); c]];
        vectorize(
            #[inline(always)]
            || {
                for ((dx, x), dy) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c)) {
                    row_sums(x, &mut terms, &mut s, p);
                    // s becomes dy s^-beta.
                    for i in 0..c {
                        let power = s[i].powf(beta);
                        terms[i] = dy[i] * x[i] * power / s[i];
                        s[i] = dy[i] * power;
                    }
                    dx.fill(T::zero());
                    // The window of j holds i where j's own reach is mirrored.
                    add_windows(dx, &terms, after, before);
                    for i in 0..c {
                        dx[i] = s[i] + factor * x[i] * dx[i];
                    }
                }
            },
        );
    });
}

/// One thread per element; `b` is dy in the backward pass.
fn launch(kernel: &'static str, x: &Tensor, b: &Tensor, out: &mut Tensor, p: LrnParams) -> Result<()> {
    let [before, after] = p.reach().map(|v| v as i32);
    Launch::over(kernel, x.len(), 256)
        .ptr(x.address())
        .ptr(b.address())
        .ptr(out.address())
        .val([x.len() as i32, x.shape().rows_cols()[1] as i32, before, after])
        .val([p.slope(), p.beta, p.bias])
        .run(x.gpu().expect("called for GPU tensors"))
}

pub fn cases() -> Vec<Case> {
    let case = |shape: &[usize], p: LrnParams| {
        let n = shape.iter().product::<usize>() as f64;
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![lrn(t, &v[0], p)?]);
        let name = format!("{}_size{}", crate::tensor::Shape::new(shape), p.size);
        Case::new(name, vec![Input::grad(shape)], run).reduction(p.size).cost(2.0 * p.size as f64 * n, 8.0 * n)
    };
    let p = |size| LrnParams { size, alpha: 0.5, beta: 0.75, bias: 1.0 };
    vec![
        case(&[1, 1, 1, 1], p(1)),
        case(&[3, 5, 7, 11], p(5)),
        case(&[2, 4, 4, 3], p(5)),
        case(&[2, 3, 3, 17], LrnParams { beta: 1.3, bias: 2.0, ..p(4) }),
        case(&[5, 7], p(2)),
        case(&[2, 2, 2, 3], p(9)),
        case(&[8, 27, 27, 192], LrnParams { alpha: 1e-4, ..p(5) }).bench(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    fn normalized(p: LrnParams) -> Result<Vec<f32>> {
        let device = Device::cpu();
        let x = Tensor::from_slice(&device, [1, 5], &[1f32, -2.0, 3.0, 0.5, 2.0])?;
        lrn(&mut Tape::inference(&device), &Var::constant(x), p)?.value.to_vec()
    }

    #[test]
    fn values_are_those_of_onnx_runtime() {
        let y = normalized(LrnParams { size: 3, alpha: 0.5, beta: 0.75, bias: 1.0 }).unwrap();
        for (got, want) in y.into_iter().zip([0.634_700_66f32, -0.810_720_1, 1.251_444_6, 0.208_574_1, 1.338_445_1]) {
            assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
        }
    }

    #[test]
    fn an_even_window_holds_fewer_channels_before() {
        // Channels 0 and 1 of 5: x_i^2 + x_{i+1}^2 = 5 and 13, at exponent 1.
        let y = normalized(LrnParams { size: 2, alpha: 2.0, beta: 1.0, bias: 1.0 }).unwrap();
        assert!((y[0] - 1.0 / 6.0).abs() < 1e-6 && (y[1] + 2.0 / 14.0).abs() < 1e-6, "{y:?}");
    }

    #[test]
    fn numbers_that_may_give_negative_sums_are_errors() {
        let p = LrnParams { size: 3, alpha: 0.5, beta: 0.75, bias: 1.0 };
        for p in [
            LrnParams { size: 0, ..p },
            LrnParams { alpha: -1.0, ..p },
            LrnParams { bias: 0.0, ..p },
            LrnParams { beta: f32::NAN, ..p },
        ] {
            assert!(normalized(p).unwrap_err().to_string().contains("size must be 1 to 65536"), "{p:?}");
        }
    }
}
