//! Parameters and sizes of a convolution.

use crate::Result;
use crate::tensor::Shape;

/// In what precision a GPU multiplies (accumulation is f32 always). The CPU computes in f32 whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Math {
    #[default]
    F32,
    /// Operands rounded to 10 mantissa bits.
    Tf32,
    /// Operands rounded to 7 mantissa bits.
    Bf16,
}

/// Stride, zero padding and dilation, in pixels, the same for both directions and all four sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Conv2dParams {
    /// At least 1.
    pub stride: usize,
    pub pad: usize,
    /// Distance of neighbouring taps, at least 1.
    pub dilation: usize,
    /// Files do not hold it.
    #[serde(skip)]
    pub math: Math,
}

impl Default for Conv2dParams {
    fn default() -> Self {
        Self { stride: 1, pad: 0, dilation: 1, math: Math::F32 }
    }
}

impl Conv2dParams {
    /// Dilation 1, f32 arithmetic.
    pub fn new(stride: usize, pad: usize) -> Self {
        Self { stride, pad, ..Self::default() }
    }
    pub fn math(mut self, math: Math) -> Self {
        self.math = math;
        self
    }
    pub fn dilation(mut self, dilation: usize) -> Self {
        self.dilation = dilation;
        self
    }
}

/// All sizes of one convolution: input `n h w c`, filter `k r s c`, output `n p q k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub c: usize,
    pub k: usize,
    pub r: usize,
    pub s: usize,
    pub p: usize,
    pub q: usize,
    pub stride: usize,
    pub pad: usize,
    pub dilation: usize,
}

impl Geometry {
    /// From input shape `[n h w c]` and filter shape `[k r s c]`. Errors if a rank is not 4, a dimension, the stride or
    /// the dilation is 0, the channels differ, or the dilated filter is larger than the padded input.
    pub fn new(op: &'static str, x: Shape, w: Shape, params: Conv2dParams) -> Result<Self> {
        let [n, h, width, c] = x.nhwc(op)?;
        crate::ensure_op!(w.len() == 4, op, "expected a rank-4 filter (k r s c), got {w}");
        let (k, r, s) = (w[0], w[1], w[2]);
        let Conv2dParams { stride, pad, dilation, .. } = params;
        crate::ensure_op!(x.elements() > 0 && w.elements() > 0, op, "input {x} or filter {w} is empty");
        crate::ensure_op!(w[3] == c, op, "input {x} has {c} channels, filter {w} has {}", w[3]);
        crate::ensure_op!(stride > 0 && dilation > 0, op, "stride {stride} and dilation {dilation} must be at least 1");
        let extent = |len: usize, taps: usize| {
            (len + 2 * pad).checked_sub((taps - 1) * dilation + 1).map(|room| room / stride + 1)
        };
        let (Some(p), Some(q)) = (extent(h, r), extent(width, s)) else {
            return Err(crate::Error::op(
                op,
                format!("filter {w} with dilation {dilation} does not fit in input {x} with padding {pad}"),
            ));
        };
        Ok(Self { n, h, w: width, c, k, r, s, p, q, stride, pad, dilation })
    }

    /// Multiplications and additions of the forward pass.
    pub fn flops(&self) -> f64 {
        2.0 * [self.n, self.p, self.q, self.k, self.r, self.s, self.c].iter().map(|&d| d as f64).product::<f64>()
    }

    /// Bytes of input, filter and output in f32.
    pub fn bytes(&self) -> f64 {
        4.0 * (self.n * self.h * self.w * self.c + self.k * self.r * self.s * self.c + self.n * self.p * self.q * self.k)
            as f64
    }

    /// Longest sum behind one element of the output, the input gradient or the filter gradient.
    pub fn reduction(&self) -> usize {
        (self.r * self.s * self.c).max(self.r * self.s * self.k).max(self.n * self.p * self.q)
    }
}
