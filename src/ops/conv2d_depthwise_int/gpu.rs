//! Launches of `kernels/conv2d_depthwise_int.cu`.

use crate::Result;
use crate::device::{Device, Launch};
use crate::ops::conv2d::Geometry;
use crate::ops::conv2d_depthwise::Sizes;
use crate::ops::conv2d_int::{Quantizers, Ranges};
use crate::ops::fake_quant::Codes;
use crate::tensor::{DType, Tensor};

/// What the convolution reads besides codes of `x`.
pub struct Filter {
    /// Codes as `[r s][c]`, I8.
    codes: Tensor,
    /// I32: zero points of the filters, then that of `x`.
    zero: Tensor,
    /// F32, per channel.
    unit: Tensor,
}

impl Filter {
    /// Of the codes `w[c r s 1]`, known to the host.
    pub(super) fn new(device: &Device, w: &[i8], ranges: &Ranges<f32>) -> Result<Self> {
        let c = ranges.w.len();
        let terms = w.len() / c;
        let codes: Vec<i8> = (0..w.len()).map(|i| w[i % c * terms + i / c]).collect();
        let zero: Vec<i32> = ranges.w_zero.iter().chain([&ranges.x_zero]).map(|z| *z as i32).collect();
        let unit: Vec<f32> = ranges.w.iter().map(|w| ranges.unit(w)).collect();
        let cpu = Device::cpu();
        Ok(Self {
            codes: Tensor::from_slice(&cpu, [terms, c], &codes)?.to_device(device)?,
            zero: Tensor::from_slice(&cpu, [c + 1], &zero)?.to_device(device)?,
            unit: Tensor::from_slice(&cpu, [c], &unit)?.to_device(device)?,
        })
    }

    /// Of codes and ranges that only the device knows.
    pub(super) fn of([x, w]: [&Codes; 2], g: &Geometry) -> Result<Self> {
        let device = w.values.device();
        let (terms, c) = (g.r * g.s, g.c);
        let codes = Tensor::empty(&device, [terms, c], DType::I8)?;
        let zero = Tensor::empty(&device, [c + 1], DType::I32)?;
        let unit = Tensor::empty(&device, [c], DType::F32)?;
        Launch::over("conv2d_depthwise_int_prepare", terms * c, 256)
            .ptr(w.values.address())
            .val(Quantizers::new(x, w))
            .ptr(codes.address())
            .ptr(zero.address())
            .ptr(unit.address())
            .val(c as i32)
            .val(terms as i32)
            .run(w.values.gpu().expect("a GPU tensor"))?;
        Ok(Self { codes, zero, unit })
    }
}

/// `y[n p q c]` of the codes `x[n h w c]`.
pub(super) fn fprop(x: &Tensor, filter: &Filter, bias: Option<&Tensor>, y: &mut Tensor, g: &Geometry) -> Result<()> {
    let quads = g.c.is_multiple_of(4) && [x, &filter.codes].iter().all(|t| t.address().is_multiple_of(4));
    let name = if quads { "conv2d_depthwise_int_fprop_vec4" } else { "conv2d_depthwise_int_fprop" };
    Launch::over(name, y.len() / if quads { 4 } else { 1 }, 256)
        .val(Sizes::new(g)?)
        .ptr(x.address())
        .ptr(filter.codes.address())
        .ptr(filter.zero.address())
        .ptr(filter.unit.address())
        .ptr(bias.map_or(0, Tensor::address))
        .ptr(y.address())
        .flops((2 * y.len() * g.r * g.s) as f64)
        .run(x.gpu().expect("a GPU tensor"))
}
