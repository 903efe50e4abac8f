//! Layers of deployed networks: a convolution of codes ([`super::conv2d_int`]) with all that follows it in one pass, and that
//! alone ([`Finish`]). Source: ours; each step is the op that it stands for, in the order of
//! [`super::conv2d_int::epilogue`], with equal bits on the CPU, the emulator and a GPU.
//!
//! Filters of up to 4 bits stay packed on a GPU, two codes to a byte, where their channels come in sixteens. No gradients.

mod cases;
mod gpu;
mod plain;

pub use cases::cases;

use super::conv2d::Geometry;
use super::conv2d_int::epilogue::{Epilogue, Residual};
use super::conv2d_int::{Plan, Ranges, sums};
use super::vectorize::vectorize;
use crate::Result;
use crate::device::Device;
use crate::quant::Affine;
use crate::tensor::{DType, Shape, Tensor};
use rayon::prelude::*;

const OP: &str = "integer_layer";
/// Values that [`Finish`] carries through its steps at once, about.
const ROW: usize = 1 << 12;

/// A value of a deployed network.
#[derive(Clone, Debug)]
pub enum Branch {
    /// F32 (F64 in the oracles).
    Real(Tensor),
    /// I8, and their quantizer.
    Codes(Tensor, Affine<f32>),
}

impl Branch {
    /// The values or the codes.
    pub fn tensor(&self) -> &Tensor {
        match self {
            Self::Real(t) | Self::Codes(t, _) => t,
        }
    }
}

/// What follows a layer's sums, in this order; vectors have a value per channel.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    pub bias: Option<Vec<f32>>,
    /// Mean, scale and shift: `(v - mean) * scale + shift`.
    pub norm: Option<[Vec<f32>; 3]>,
    pub relu: bool,
    /// Quantizer of the output; values without.
    pub to: Option<Affine<f32>>,
}

/// [`Steps`] with a residual, which comes before ReLU, as an operation of its own.
pub struct Finish {
    steps: Steps,
    channels: usize,
    /// Of a CPU: the steps for this many pixels.
    rows: (usize, Epilogue),
    gpu: Option<gpu::Tables>,
}

impl Finish {
    /// Errors on vectors that do not have `channels` values.
    pub fn new(device: &Device, channels: usize, steps: Steps) -> Result<Self> {
        Self::with_rows(device, channels, ROW.div_ceil(channels.max(1)), steps)
    }

    fn with_rows(device: &Device, channels: usize, pixels: usize, steps: Steps) -> Result<Self> {
        let vectors = steps.bias.iter().chain(steps.norm.iter().flatten());
        for v in vectors {
            crate::ensure_op!(v.len() == channels && channels > 0, OP, "{} values for {channels} channels", v.len());
        }
        let norm = steps.norm.as_ref().map(|n| [&n[0][..], &n[1][..], &n[2][..]]);
        let rows = (pixels, Epilogue::new(steps.bias.as_deref(), norm, steps.relu, pixels));
        let gpu = if device.is_cpu() { None } else { Some(gpu::Tables::new(device, &steps)?) };
        Ok(Self { steps, channels, rows, gpu })
    }

    /// The steps on `x`, channel last, plus `residual` of its shape. Codes are taken for their values.
    /// Errors on shapes, dtypes or devices that do not fit.
    pub fn run(&self, x: &Branch, residual: Option<&Branch>) -> Result<Branch> {
        let t = x.tensor();
        let c = t.shape().last().copied().unwrap_or(0);
        let fits = c.is_multiple_of(self.channels) && !t.is_empty();
        crate::ensure_op!(fits, OP, "x of shape {} for {} channels", t.shape(), self.channels);
        check(x, t)?;
        residual.map_or(Ok(()), |r| check(r, t))?;
        if t.gpu().is_some() {
            let tables = self.gpu.as_ref().ok_or_else(|| crate::Error::op(OP, "made for the CPU, given a GPU tensor"))?;
            let mut y = Tensor::empty(&t.device(), t.shape(), self.dtype())?;
            gpu::finish(tables, &self.steps, self.channels, x, residual, &mut y)?;
            return Ok(self.branch(y));
        }
        let mut v = match x {
            Branch::Real(t) => t.duplicate()?,
            Branch::Codes(t, a) => values(t, a)?,
        };
        let row = self.rows.0 * self.channels;
        let row_of = |i: usize, n: usize| part(residual, i * row, n);
        match &self.steps.to {
            None => {
                let rows = v.host_mut::<f32>().par_chunks_mut(row).enumerate();
                rows.for_each(|(i, v)| self.rows.1.apply(v, row_of(i, v.len())));
                Ok(Branch::Real(v))
            }
            Some(to) => {
                let mut codes = Tensor::empty(&v.device(), v.shape(), DType::I8)?;
                let rows = v.host_mut::<f32>().par_chunks_mut(row).zip(codes.host_mut::<i8>().par_chunks_mut(row));
                rows.enumerate().for_each(|(i, (v, q))| self.rows.1.quantize(v, row_of(i, q.len()), to, q));
                Ok(Branch::Codes(codes, *to))
            }
        }
    }

    /// [`Self::run`] in f64, values F64 as well: the oracle.
    pub fn run_f64(&self, x: &Branch, residual: Option<&Branch>) -> Result<Branch> {
        plain::finish(&self.steps, self.channels, x, residual).map(|y| self.branch(y))
    }

    /// Of the output.
    fn dtype(&self) -> DType {
        if self.steps.to.is_some() { DType::I8 } else { DType::F32 }
    }

    fn branch(&self, y: Tensor) -> Branch {
        match self.steps.to {
            Some(to) => Branch::Codes(y, to),
            None => Branch::Real(y),
        }
    }
}

/// `n` values of a branch from `start` on.
fn part(branch: Option<&Branch>, start: usize, n: usize) -> Residual<'_> {
    match branch {
        None => Residual::None,
        Some(Branch::Real(t)) => Residual::Real(&t.host::<f32>()[start..][..n]),
        Some(Branch::Codes(t, a)) => Residual::Codes(&t.host::<i8>()[start..][..n], *a),
    }
}

fn values(t: &Tensor, a: &Affine<f32>) -> Result<Tensor> {
    let mut y = Tensor::empty(&t.device(), t.shape(), DType::F32)?;
    let (y_host, codes, a) = (y.host_mut::<f32>(), t.host::<i8>(), *a);
    vectorize(
        #[inline(always)]
        || y_host.iter_mut().zip(codes).for_each(|(y, q)| *y = a.value(f32::from(*q))),
    );
    Ok(y)
}

/// Whether `branch` has the shape and device of `like` and a dtype that it may have.
fn check(branch: &Branch, like: &Tensor) -> Result<()> {
    let t = branch.tensor();
    let dtype = match branch {
        Branch::Codes(..) => t.dtype() == DType::I8,
        Branch::Real(_) => t.dtype() == DType::F32,
    };
    crate::ensure_op!(
        dtype && t.shape() == like.shape() && t.device() == like.device(),
        OP,
        "{t:?} beside {like:?}: shapes and devices must be equal, values F32 and codes I8"
    );
    Ok(())
}

/// A prepared convolution of codes and what follows it.
pub struct IntegerLayer {
    /// `n` is not used.
    g: Geometry,
    codes: Vec<i8>,
    ranges: Ranges<f32>,
    finish: Finish,
    /// Of a CPU, where 32 bits hold the sums.
    plan: Option<Plan>,
    gpu: Option<gpu::Weights>,
}

impl IntegerLayer {
    /// Filters `codes[k r s c]` of `bits` bits and their quantizers beside that of the input (`ranges`), for inputs `g`, whose
    /// batch is free. A linear layer is a convolution of one pixel. Errors on sizes that do not fit each other.
    pub fn new(device: &Device, codes: &[i8], bits: u8, ranges: Ranges<f32>, g: Geometry, steps: Steps) -> Result<Self> {
        let filter = g.r * g.s * g.c;
        crate::ensure_op!(
            codes.len() == g.k * filter && ranges.w.len() == g.k && (2..=8).contains(&bits),
            OP,
            "{} codes of {bits} bits and {} quantizers for {} filters of {filter}",
            codes.len(),
            ranges.w.len(),
            g.k
        );
        let finish = Finish::with_rows(device, g.k, g.q, steps)?;
        let plan = if device.is_cpu() { Plan::new(codes, &ranges, &g) } else { None };
        let gpu = if device.is_cpu() { None } else { Some(gpu::Weights::new(device, codes, bits, &ranges, &g)?) };
        Ok(Self { g, codes: codes.to_vec(), ranges, finish, plan, gpu })
    }

    /// Of codes `x[n h w c]` of the input's quantizer; `residual[n p q k]`. Errors as [`Finish::run`].
    pub fn run(&self, x: &Tensor, residual: Option<&Branch>) -> Result<Branch> {
        let g = Geometry { n: x.shape().first().copied().unwrap_or(0), ..self.g };
        crate::ensure_op!(
            x.dtype() == DType::I8 && x.shape() == Shape::from([g.n, g.h, g.w, g.c]) && g.n > 0,
            OP,
            "x is {x:?}, expected I8 [n {} {} {}]",
            g.h,
            g.w,
            g.c
        );
        let shape = Shape::from([g.n, g.p, g.q, g.k]);
        let mut y = Tensor::empty(&x.device(), shape, self.finish.dtype())?;
        residual.map_or(Ok(()), |r| {
            let t = r.tensor();
            crate::ensure_op!(t.shape() == shape && t.device() == x.device(), OP, "residual {t:?} of sums {shape}");
            check(r, t)
        })?;
        if x.gpu().is_some() {
            let (Some(weights), Some(tables)) = (&self.gpu, &self.finish.gpu) else {
                return Err(crate::Error::op(OP, "made for the CPU, given a GPU tensor"));
            };
            gpu::layer(weights, tables, &self.finish.steps, &g, x, residual, &mut y)?;
            return Ok(self.finish.branch(y));
        }
        let Some(plan) = &self.plan else {
            let mut v = Tensor::empty(&x.device(), shape, DType::F32)?;
            sums(x.host(), &self.codes, &self.ranges, v.host_mut(), &g);
            return self.finish.run(&Branch::Real(v), residual);
        };
        let (row, steps) = (g.q * g.k, &self.finish.rows.1);
        match &self.finish.steps.to {
            Some(to) => plan.run(x.host(), y.host_mut::<i8>(), |n, p, v, y| {
                steps.quantize(v, part(residual, (n * g.p + p) * row, row), to, y);
            }),
            None => plan.run(x.host(), y.host_mut::<f32>(), |n, p, v, y| {
                steps.apply(v, part(residual, (n * g.p + p) * row, row));
                y.copy_from_slice(v);
            }),
        }
        Ok(self.finish.branch(y))
    }

    /// [`Self::run`] in f64 on the CPU, values F64 as well: the oracle.
    pub fn run_f64(&self, x: &Tensor, residual: Option<&Branch>) -> Result<Branch> {
        let g = Geometry { n: x.shape()[0], ..self.g };
        self.finish.run_f64(&Branch::Real(plain::sums(x, &self.codes, &self.ranges, &g)?), residual)
    }
}
