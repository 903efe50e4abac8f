//! Convolution of 8-bit codes: integer arithmetic, and one f32 multiplication per output.
//!
//! Activations `x[n h w c]` and filters `w[k r s c]` are codes (`i8`) of [`crate::quant::Affine`] quantizers, one for all
//! of `x` and one per output channel of `w`: the value of a code is `(code + zero) / scale`, `zero` an integer that need
//! not be a code. With padding of value 0,
//!
//! ```text
//! acc[n,p,q,k] = sum over the taps inside the image of (qx + zx)(qw + zw[k])        exact
//! unit[k]      = 1 / (sx * sw[k])                                                   f32: product, then quotient
//! y            = f32(acc) * unit[k]  (+ bias[k])                                    f32: round acc, product, sum
//! ```
//!
//! in this order, no two operations fused, on the CPU (every instruction set), the emulator and a GPU: equal bits. What
//! follows (normalization, residual, ReLU, the next codes) is [`epilogue`]'s, in the order of the ops that it stands for.
//!
//! So that `acc` fits in 64 bits, `zx` is kept within 2^17 and `zw` within 2^28 (ranges that lie further from 0 than 500
//! times their width, or a million), and a filter has fewer than 2^17 taps times channels.
//!
//! The gradients are those of the convolution of the values that the codes stand for, as straight-through training takes
//! them: [`conv2d_int`] is given those values too.

mod cases;
mod cpu_kernel;
pub mod epilogue;
mod gpu;
mod plain;
mod plan;
mod wgmma;

pub use cases::cases;
pub(crate) use cases::{coded, coded_inputs};
pub(crate) use gpu::{Kernels, Quantizers, convolve};
pub use super::fake_quant::Codes;
pub use crate::quant::{MAX_REDUCTION, MAX_ZERO};
pub use plan::Plan;
pub(crate) use wgmma::WgmmaTile;

use super::batch_norm::Stored;
use super::conv2d::{self, Conv2dParams, Geometry};
use super::linear;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::quant::{Affine, RoundEven};
use crate::tensor::{DType, Shape, Tensor};
use epilogue::{Epilogue, Residual};

const OP: &str = "conv2d_int";


/// Quantizers of both operands, and their zero points as integers.
#[derive(Clone, Debug)]
pub struct Ranges<T> {
    pub x: Affine<T>,
    pub x_zero: i64,
    pub w: Vec<Affine<T>>,
    pub w_zero: Vec<i64>,
}

impl<T: RoundEven> Ranges<T> {
    pub fn new(x: Affine<T>, w: Vec<Affine<T>>) -> Self {
        // NaN gives 0: then the scale is NaN as well.
        let limited = |a: &Affine<T>, limit: i64| (a.zero.f64() as i64).clamp(-limit, limit);
        let w_zero = w.iter().map(|a| limited(a, MAX_ZERO[1])).collect();
        Self { x, x_zero: limited(&x, MAX_ZERO[0]), w, w_zero }
    }

    /// `1 / (sx sw)`.
    pub fn unit(&self, w: &Affine<T>) -> T {
        T::one() / (self.x.scale * w.scale)
    }

    /// Whether a sum of `terms` products fits in 32 bits, whatever the codes.
    pub(crate) fn fit_i32(&self, terms: usize) -> bool {
        let reach = |a: &Affine<T>, zero: i64| (a.low.f64() as i64 + zero).abs().max((a.high.f64() as i64 + zero).abs());
        let x = reach(&self.x, self.x_zero);
        let w = self.w.iter().zip(&self.w_zero).map(|(a, z)| reach(a, *z)).max().unwrap_or(0);
        (terms as i64).checked_mul(x * w).is_some_and(|v| v <= i64::from(i32::MAX))
    }
}

/// Convolution of the codes `xq` and `wq`, of shapes `[n h w c]` and `[k r s c]`, plus `bias[k]`: `y[n p q k]` of the dtype
/// of the ranges (F32; F64 on the CPU). `x` and `w` are the values of the codes ([`super::fake_quant`]): they are not
/// read now, but kept for the gradients of each other, which are [`conv2d::conv2d`]'s, as `bias`'s is.
/// Errors as there, and on codes or ranges that do not fit.
pub fn conv2d_int(
    tape: &mut Tape,
    [x, w]: [&Var; 2],
    [xq, wq]: [&Codes; 2],
    bias: Option<&Var>,
    p: Conv2dParams,
) -> Result<Var> {
    crate::ensure_op!(
        x.shape() == xq.values.shape() && w.shape() == wq.values.shape(),
        OP,
        "values {} and {} of codes {} and {}",
        x.shape(),
        w.shape(),
        xq.values.shape(),
        wq.values.shape()
    );
    let y = normalized([xq, wq], bias.map(|b| &b.value), None, p)?;
    Ok(conv2d::record(tape, x, w, bias, y, p))
}

/// `x[n c] w[k c]^T + bias[k]` from codes, as [`conv2d_int`]; gradients are [`linear::linear`]'s.
pub fn linear_int(
    tape: &mut Tape,
    [x, w]: [&Var; 2],
    [xq, wq]: [&Codes; 2],
    bias: Option<&Var>,
) -> Result<Var> {
    let (a, b) = (x.shape(), w.shape());
    crate::ensure_op!(
        a.len() == 2 && b.len() == 2 && a[1] == b[1] && xq.values.len() == x.value.len() && wq.values.len() == w.value.len(),
        OP,
        "x of shape {a} does not fit w of {b}, or their codes {} and {}",
        xq.values.shape(),
        wq.values.shape()
    );
    let pixel = |q: &Codes, n: usize, c: usize| -> Result<Codes> {
        Ok(Codes { values: q.values.reshape([n, 1, 1, c])?, ..q.clone() })
    };
    let (xq, wq) = (pixel(xq, a[0], a[1])?, pixel(wq, b[0], b[1])?);
    let y = normalized([&xq, &wq], bias.map(|b| &b.value), None, Conv2dParams::default())?.reshape([a[0], b[0]])?;
    Ok(linear::record(tape, x, w, bias, y))
}

/// The forward pass alone, of codes of `x` and `w`, and `batch_norm_eval` of it, if wanted: the same operations in the same
/// order as the two ops, so the same bits.
pub(crate) fn normalized(
    [x, w]: [&Codes; 2],
    bias: Option<&Tensor>,
    norm: Option<Stored>,
    p: Conv2dParams,
) -> Result<Tensor> {
    let g = Geometry::new(OP, x.values.shape(), w.values.shape(), p)?;
    check(x, w, bias, &g)?;
    let mut y = Tensor::empty(&x.values.device(), [g.n, g.p, g.q, g.k], x.lo.dtype())?;
    let mut done = false;
    if x.values.gpu().is_some() {
        gpu::forward(x, w, bias, &mut y, &g)?;
    } else {
        crate::for_real!(OP, x.lo.dtype(), T => {
            let of = |q: &Codes, i: usize| Affine::<T>::new(q.lo.host::<T>()[i], q.hi.host::<T>()[i], q.bits);
            let ranges = Ranges::new(of(x, 0), (0..g.k).map(|i| of(w, i)).collect());
            let bias = bias.map(|b| b.host::<T>());
            let (x, w) = (x.values.host(), w.values.host());
            done = T::blocked(x, w, &ranges, bias, norm, y.host_mut(), &g);
            if !done {
                plain::fprop(x, w, &ranges, bias, y.host_mut(), &g);
            }
            Ok(())
        })?;
    }
    match norm {
        Some(norm) if !done => norm.apply(&y),
        _ => Ok(y),
    }
}

/// Float types of the CPU path: f32 takes the blocked one where it can, and says so.
trait Blocked: RoundEven {
    fn blocked(
        x: &[i8],
        w: &[i8],
        ranges: &Ranges<Self>,
        bias: Option<&[Self]>,
        norm: Option<Stored>,
        y: &mut [Self],
        g: &Geometry,
    ) -> bool;
}
impl Blocked for f64 {
    fn blocked(
        _: &[i8],
        _: &[i8],
        _: &Ranges<f64>,
        _: Option<&[f64]>,
        _: Option<Stored>,
        _: &mut [f64],
        _: &Geometry,
    ) -> bool {
        false
    }
}
impl Blocked for f32 {
    fn blocked(
        x: &[i8],
        w: &[i8],
        ranges: &Ranges<f32>,
        bias: Option<&[f32]>,
        norm: Option<Stored>,
        y: &mut [f32],
        g: &Geometry,
    ) -> bool {
        let Some(plan) = Plan::new(w, ranges, g) else { return false };
        let norm = norm.map(|n| n.coefficients::<f32>());
        let norm = norm.as_ref().map(|[mean, scale, shift]| [&mean[..], &scale[..], &shift[..]]);
        let epilogue = Epilogue::new(bias, norm, false, g.q);
        plan.run(x, y, |_, _, sums, y| {
            epilogue.apply(sums, Residual::None);
            y.copy_from_slice(sums);
        });
        true
    }
}

/// Writes the sums of codes `x` and `w` times their units, f32, whatever the filter and the zero points; sizes as in `g`.
/// For what [`Plan`] does not take; slow.
pub fn sums(x: &[i8], w: &[i8], ranges: &Ranges<f32>, y: &mut [f32], g: &Geometry) {
    plain::fprop(x, w, ranges, None, y, g);
}

/// [`sums`] in f64: an oracle.
pub(super) fn sums_f64(x: &[i8], w: &[i8], ranges: &Ranges<f64>, y: &mut [f64], g: &Geometry) {
    plain::fprop(x, w, ranges, None, y, g);
}

/// The blocked path for codes of F32 ranges on the CPU, where it takes them.
pub(crate) fn plan(x: &Codes, w: &Codes, g: &Geometry) -> Option<Plan> {
    let of = |q: &Codes, i: usize| Affine::<f32>::new(q.lo.host::<f32>()[i], q.hi.host::<f32>()[i], q.bits);
    Plan::new(w.values.host(), &Ranges::new(of(x, 0), (0..g.k).map(|i| of(w, i)).collect()), g)
}

pub(crate) fn check(x: &Codes, w: &Codes, bias: Option<&Tensor>, g: &Geometry) -> Result<()> {
    let dtype = x.lo.dtype();
    let real = dtype == DType::F32 || (dtype == DType::F64 && x.values.gpu().is_none());
    crate::ensure_op!(real, OP, "ranges are {dtype:?}; use F32");
    for (what, q, n) in [("input", x, 1), ("filter", w, g.k)] {
        let ranged = [&q.lo, &q.hi].iter().all(|t| t.len() == n && t.dtype() == dtype);
        crate::ensure_op!(
            q.values.dtype() == DType::I8 && (2..=8).contains(&q.bits) && ranged,
            OP,
            "{what} codes are {:?} {} of {} bits with ranges {} and {}; expected I8, 2 to 8 bits, {n} ranges of {dtype:?}",
            q.values.dtype(),
            q.values.shape(),
            q.bits,
            q.lo.shape(),
            q.hi.shape()
        );
        let same = [&q.values, &q.lo, &q.hi].iter().all(|t| t.device() == x.values.device());
        crate::ensure_op!(same, OP, "input, filter and ranges lie on different devices");
    }
    let reduction = g.r * g.s * g.c;
    crate::ensure_op!(
        reduction <= MAX_REDUCTION,
        OP,
        "{reduction} taps times channels; sums of more than {MAX_REDUCTION} may not fit in 64 bits"
    );
    if let Some(b) = bias {
        let expected: Shape = [g.k].into();
        crate::ensure_op!(
            b.shape() == expected && b.dtype() == dtype && b.device() == x.values.device(),
            OP,
            "bias is {b:?}, expected [{}] of {dtype:?}",
            g.k
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
