//! Launches of `kernels/conv2d_grouped_int.cu`.

use crate::Result;
use crate::device::{Device, Launch};
use crate::ops::conv2d_grouped::{Groups, Sizes};
use crate::ops::conv2d_int::{Quantizers, Ranges};
use crate::ops::fake_quant::Codes;
use crate::tensor::{DType, Tensor};

/// What the convolution reads besides codes of `x`.
pub struct Filter {
    /// Codes as `[tap][c/groups / V][k][V]`, I8, `V` of [`together`].
    codes: Tensor,
    /// I32: zero points of the filters, then that of `x`.
    zero: Tensor,
    /// F32, per output channel.
    unit: Tensor,
}

/// Channels of a group that are read at once.
fn together(g: &Groups) -> usize {
    if g.each.c.is_multiple_of(4) { 4 } else { 1 }
}

impl Filter {
    /// Of the codes `w[k r s c/groups]`, known to the host.
    pub(super) fn new(device: &Device, w: &[i8], ranges: &Ranges<f32>, g: &Groups) -> Result<Self> {
        let ([k, r, s, c], v) = (g.w(), together(g));
        let mut codes = vec![0i8; w.len()];
        for (at, code) in w.iter().enumerate() {
            let (filter, tap, i) = (at / (r * s * c), at / c % (r * s), at % c);
            codes[((tap * (c / v) + i / v) * k + filter) * v + i % v] = *code;
        }
        let zero: Vec<i32> = ranges.w_zero.iter().chain([&ranges.x_zero]).map(|z| *z as i32).collect();
        let unit: Vec<f32> = ranges.w.iter().map(|w| ranges.unit(w)).collect();
        let cpu = Device::cpu();
        Ok(Self {
            codes: Tensor::from_slice(&cpu, [codes.len()], &codes)?.to_device(device)?,
            zero: Tensor::from_slice(&cpu, [k + 1], &zero)?.to_device(device)?,
            unit: Tensor::from_slice(&cpu, [k], &unit)?.to_device(device)?,
        })
    }

    /// Of codes and ranges that only the device knows.
    pub(super) fn of([x, w]: [&Codes; 2], g: &Groups) -> Result<Self> {
        let device = w.values.device();
        let codes = Tensor::empty(&device, [w.values.len()], DType::I8)?;
        let zero = Tensor::empty(&device, [g.k() + 1], DType::I32)?;
        let unit = Tensor::empty(&device, [g.k()], DType::F32)?;
        Launch::over("conv2d_grouped_int_prepare", w.values.len(), 256)
            .ptr(w.values.address())
            .val(Quantizers::new(x, w))
            .ptr(codes.address())
            .ptr(zero.address())
            .ptr(unit.address())
            .val(Sizes::new(g)?)
            .val(together(g) as i32)
            .run(w.values.gpu().expect("a GPU tensor"))?;
        Ok(Self { codes, zero, unit })
    }
}

/// `y[n p q k]` of the codes `x[n h w c]`.
pub(super) fn fprop(x: &Tensor, filter: &Filter, bias: Option<&Tensor>, y: &mut Tensor, g: &Groups) -> Result<()> {
    let fours = together(g) == 4;
    crate::ensure_op!(!fours || x.address().is_multiple_of(4), super::OP, "codes must be 4-byte aligned");
    let name = if fours { "conv2d_grouped_int_fprop_vec4" } else { "conv2d_grouped_int_fprop" };
    Launch::over(name, y.len(), 256)
        .val(Sizes::new(g)?)
        .ptr(x.address())
        .ptr(filter.codes.address())
        .ptr(filter.zero.address())
        .ptr(filter.unit.address())
        .ptr(bias.map_or(0, Tensor::address))
        .ptr(y.address())
        .flops(g.flops())
        .run(x.gpu().expect("a GPU tensor"))
}
