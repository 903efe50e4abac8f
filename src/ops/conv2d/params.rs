//! Parameters and sizes of a convolution.

use crate::Result;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// In what precision a GPU multiplies (accumulation is f32 always). The CPU computes in f32 whatever this says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Math {
    #[default]
    F32,
    /// Operands rounded to 10 mantissa bits.
    Tf32,
    /// Operands rounded to 7 mantissa bits.
    Bf16,
}

/// Stride, zero padding and dilation of a convolution, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv2dParams {
    /// Of rows and columns, at least 1.
    pub stride: [usize; 2],
    /// Zeros above, left of, below and right of the image.
    pub pad: [usize; 4],
    /// Distance of neighbouring taps along rows and columns, at least 1.
    pub dilation: [usize; 2],
    /// Files do not hold it.
    #[serde(skip)]
    pub math: Math,
}

impl Default for Conv2dParams {
    fn default() -> Self {
        Self { stride: [1; 2], pad: [0; 4], dilation: [1; 2], math: Math::F32 }
    }
}

impl Conv2dParams {
    /// Returns the parameters with the same stride along both axes, the same padding on all four sides, dilation 1 and
    /// f32 arithmetic.
    pub fn new(stride: usize, pad: usize) -> Self {
        Self { stride: [stride; 2], pad: [pad; 4], ..Self::default() }
    }
    /// Sets the strides of rows and columns.
    pub fn strides(mut self, stride: [usize; 2]) -> Self {
        self.stride = stride;
        self
    }
    /// Sets the padding above, left, below and right.
    pub fn pads(mut self, pad: [usize; 4]) -> Self {
        self.pad = pad;
        self
    }
    /// Sets the dilations of rows and columns.
    pub fn dilations(mut self, dilation: [usize; 2]) -> Self {
        self.dilation = dilation;
        self
    }
    pub fn math(mut self, math: Math) -> Self {
        self.math = math;
        self
    }
    /// Sets the same dilation along both axes.
    pub fn dilation(mut self, dilation: usize) -> Self {
        self.dilation = [dilation; 2];
        self
    }
}

/// Writes what differs between axes in full, else one number: `s2_p1`, `s2x1_p0.0.1.1`, and `_d2` where taps lie apart.
/// For names of cases.
impl std::fmt::Display for Conv2dParams {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let axes = |v: [usize; 2]| if v[0] == v[1] { v[0].to_string() } else { format!("{}x{}", v[0], v[1]) };
        let [top, left, bottom, right] = self.pad;
        write!(f, "s{}_p", axes(self.stride))?;
        match self.pad {
            [p, ..] if self.pad == [p; 4] => write!(f, "{p}")?,
            _ => write!(f, "{top}.{left}.{bottom}.{right}")?,
        }
        if self.dilation == [1; 2] { Ok(()) } else { write!(f, "_d{}", axes(self.dilation)) }
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
    pub stride: [usize; 2],
    pub pad: [usize; 4],
    pub dilation: [usize; 2],
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
        crate::ensure_op!(
            stride.iter().chain(&dilation).all(|&v| v > 0),
            op,
            "strides {}x{} and dilations {}x{} must be at least 1",
            stride[0],
            stride[1],
            dilation[0],
            dilation[1]
        );
        let extent = |axis: usize, len: usize, taps: usize| {
            let reach = (taps - 1).checked_mul(dilation[axis])?.checked_add(1)?;
            let room = len.checked_add(pad[axis])?.checked_add(pad[axis + 2])?.checked_sub(reach)?;
            Some(room / stride[axis] + 1)
        };
        let (Some(p), Some(q)) = (extent(0, h, r), extent(1, width, s)) else {
            return Err(crate::Error::op(
                op,
                format!(
                    "filter {w} with dilations {}x{} does not fit in input {x} with padding {} {} {} {} (top, left, \
                     bottom, right)",
                    dilation[0], dilation[1], pad[0], pad[1], pad[2], pad[3]
                ),
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
        4.0 * (self.n * self.h * self.w * self.c
            + self.k * self.r * self.s * self.c
            + self.n * self.p * self.q * self.k) as f64
    }

    /// Returns the input coordinate that output coordinate `o` meets at tap `t` along `axis` (0 rows, 1 columns), if it is
    /// inside the image.
    pub(crate) fn source(&self, axis: usize, o: usize, t: usize) -> Option<usize> {
        let at = (o * self.stride[axis] + t * self.dilation[axis]).checked_sub(self.pad[axis])?;
        (at < [self.h, self.w][axis]).then_some(at)
    }
    /// Returns the output coordinate that meets input coordinate `i` at tap `t` along `axis`, if there is one.
    pub(crate) fn meets(&self, axis: usize, i: usize, t: usize) -> Option<usize> {
        let at = (i + self.pad[axis]).checked_sub(t * self.dilation[axis])?;
        let o = at / self.stride[axis];
        (at % self.stride[axis] == 0 && o < [self.p, self.q][axis]).then_some(o)
    }

    /// Longest sum behind one element of the output, the input gradient or the filter gradient.
    pub fn reduction(&self) -> usize {
        (self.r * self.s * self.c).max(self.r * self.s * self.k).max(self.n * self.p * self.q)
    }
}
