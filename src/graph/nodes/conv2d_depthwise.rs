//! Depthwise convolution: one filter per channel.

use super::super::Graph;
use super::super::deployed::{Deployment, FilterStep, Step};
use super::super::run::Run;
use super::extent::{image, windows};
use super::{Kind, LayerWeights, Outcome, WeightQuant};
use crate::Result;
use crate::autograd::Var;
use crate::ops::conv2d::Conv2dParams;
use crate::ops::conv2d_depthwise::conv2d_depthwise;
use crate::ops::conv2d_depthwise_int::conv2d_depthwise_int;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Convolves each channel of `n h w c` with its own filter; weight `c r s 1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv2dDepthwise {
    pub weight: String,
    pub bias: Option<String>,
    pub params: Conv2dParams,
    pub quant: Option<WeightQuant>,
}

impl Kind for Conv2dDepthwise {
    fn name(&self) -> &'static str {
        "conv2d_depthwise"
    }
    fn layer(&self) -> Option<LayerWeights<'_>> {
        Some(LayerWeights { weight: &self.weight, bias: self.bias.as_ref(), quant: self.quant })
    }
    fn set_quant(&mut self, quant: Option<WeightQuant>) {
        self.quant = quant;
    }
    fn shape(&self, graph: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let ([n, h, w, c], f) = (image(x)?, graph.tensor(&self.weight)?);
        if f.len() != 4 || f[0] != c || f[3] != 1 {
            return Err(format!("filter {f} does not fit {c} channels"));
        }
        let [p, q] = windows([h, w], [f[1], f[2]], &self.params)?;
        Ok([n, p, q, c].into())
    }
    fn macs(&self, graph: &Graph, y: Shape) -> f64 {
        graph.tensor(&self.weight).map_or(0.0, |w| w.elements() as f64) * (y[1] * y[2]) as f64
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let (w, wq) = run.weight(&self.weight, self.quant)?;
        let bias = run.optional(self.bias.as_ref())?;
        match (run.codes(), &wq) {
            (Some(xq), Some(wq)) => conv2d_depthwise_int(run.tape, [&x[0], &w], [&xq, wq], bias.as_ref(), self.params),
            _ => conv2d_depthwise(run.tape, &x[0], &w, bias.as_ref(), self.params),
        }
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        match at.inputs[0].codes {
            Some(codes) => FilterStep::depthwise(at, codes, self.params),
            None => at.on_values(),
        }
    }
}
