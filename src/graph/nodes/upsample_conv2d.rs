//! Upsampling and convolution in one.

use super::super::Graph;
use super::super::run::Run;
use super::extent::image;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::conv2d::{Math, upsample_conv2d_in};
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Upsamples to the nearest by 2, then convolves 3x3 with padding 1; weight `k 3 3 c`. Generators have it. It is not quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpsampleConv2d {
    pub weight: String,
    pub bias: Option<String>,
    pub math: Math,
}

impl Kind for UpsampleConv2d {
    fn name(&self) -> &'static str {
        "upsample_conv2d"
    }
    fn tensors(&self) -> Vec<&String> {
        [&self.weight].into_iter().chain(&self.bias).collect()
    }
    fn shape(&self, graph: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let ([n, h, w, c], f) = (image(x)?, graph.tensor(&self.weight)?);
        match f[..] {
            [k, 3, 3, channels] if channels == c => Ok([n, 2 * h, 2 * w, k].into()),
            _ => Err(format!("filter {f} does not fit {c} input channels")),
        }
    }
    fn macs(&self, graph: &Graph, y: Shape) -> f64 {
        // Four of nine taps remain per output pixel.
        graph.tensor(&self.weight).map_or(0.0, |w| w.elements() as f64) * 4.0 / 9.0 * (y[1] * y[2]) as f64
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let w = run.param(&self.weight)?;
        let bias = run.optional(self.bias.as_ref())?;
        upsample_conv2d_in(run.tape, &x[0], &w, bias.as_ref(), self.math)
    }
}
