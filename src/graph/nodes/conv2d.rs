//! Convolution.

use super::super::Graph;
use super::super::deployed::{Deployment, Step};
use super::super::run::Run;
use super::extent::{image, windows};
use super::{Kind, LayerWeights, Outcome, WeightQuant};
use crate::Result;
use crate::autograd::Var;
use crate::ops::conv2d::{Conv2dParams, conv2d};
use crate::ops::conv2d_int::conv2d_int;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Convolves `n h w c` to `n p q k`; weight `k r s c`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv2d {
    pub weight: String,
    pub bias: Option<String>,
    pub params: Conv2dParams,
    pub quant: Option<WeightQuant>,
}

impl Kind for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }
    fn layer(&self) -> Option<LayerWeights<'_>> {
        Some(LayerWeights { weight: &self.weight, bias: self.bias.as_ref(), quant: self.quant })
    }
    fn set_quant(&mut self, quant: Option<WeightQuant>) {
        self.quant = quant;
    }
    fn shape(&self, graph: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let ([n, h, w, c], f) = (image(x)?, graph.tensor(&self.weight)?);
        if f.len() != 4 || f[3] != c {
            return Err(format!("filter {f} does not fit {c} input channels"));
        }
        let [p, q] = windows([h, w], [f[1], f[2]], &self.params)?;
        Ok([n, p, q, f[0]].into())
    }
    fn macs(&self, graph: &Graph, y: Shape) -> f64 {
        graph.tensor(&self.weight).map_or(0.0, |w| w.elements() as f64) * (y[1] * y[2]) as f64
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let x = run.swing(&x[0], &self.params)?;
        let (w, wq) = run.weight(&self.weight, self.quant)?;
        let bias = run.optional(self.bias.as_ref())?;
        match (run.codes(), &wq) {
            (Some(xq), Some(wq)) => conv2d_int(run.tape, [&x, &w], [&xq, wq], bias.as_ref(), self.params),
            _ => conv2d(run.tape, &x, &w, bias.as_ref(), self.params),
        }
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        at.integer_layer(self.params)
    }
}
