//! Matrix product.

use super::super::Graph;
use super::super::deployed::{Deployment, Step};
use super::super::run::Run;
use super::extent::first;
use super::{Kind, LayerWeights, Outcome, WeightQuant};
use crate::Result;
use crate::autograd::Var;
use crate::ops::conv2d::Conv2dParams;
use crate::ops::conv2d_int::linear_int;
use crate::ops::linear::linear;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Multiplies `n c` to `n k`; weight `k c`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    pub weight: String,
    pub bias: Option<String>,
    pub quant: Option<WeightQuant>,
}

impl Kind for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn layer(&self) -> Option<LayerWeights<'_>> {
        Some(LayerWeights { weight: &self.weight, bias: self.bias.as_ref(), quant: self.quant })
    }
    fn set_quant(&mut self, quant: Option<WeightQuant>) {
        self.quant = quant;
    }
    fn shape(&self, graph: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let (x, f) = (first(x)?, graph.tensor(&self.weight)?);
        match (&x[..], &f[..]) {
            (&[n, c], &[k, width]) if c == width => Ok([n, k].into()),
            _ => Err(format!("weight {f} does not fit {x}")),
        }
    }
    fn macs(&self, graph: &Graph, _: Shape) -> f64 {
        graph.tensor(&self.weight).map_or(0.0, |w| w.elements() as f64)
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let (w, wq) = run.weight(&self.weight, self.quant)?;
        let bias = run.optional(self.bias.as_ref())?;
        match (run.codes(), &wq) {
            (Some(xq), Some(wq)) => linear_int(run.tape, [&x[0], &w], [&xq, wq], bias.as_ref()),
            _ => linear(run.tape, &x[0], &w, bias.as_ref()),
        }
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        at.integer_layer(Conv2dParams::default())
    }
}
