//! Grouped convolution: channels fall into groups that do not see each other.

use super::super::Graph;
use super::super::deployed::{Deployment, FilterStep, Step};
use super::super::run::Run;
use super::extent::{image, windows};
use super::{Kind, LayerWeights, Outcome, WeightQuant};
use crate::Result;
use crate::autograd::Var;
use crate::ops::conv2d::Conv2dParams;
use crate::ops::conv2d_grouped::conv2d_grouped;
use crate::ops::conv2d_grouped_int::conv2d_grouped_int;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Convolves `n h w c` in `groups`; weight `k r s c/groups`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv2dGrouped {
    pub weight: String,
    pub bias: Option<String>,
    pub groups: usize,
    pub params: Conv2dParams,
    pub quant: Option<WeightQuant>,
}

impl Kind for Conv2dGrouped {
    fn name(&self) -> &'static str {
        "conv2d_grouped"
    }
    fn layer(&self) -> Option<LayerWeights<'_>> {
        Some(LayerWeights { weight: &self.weight, bias: self.bias.as_ref(), quant: self.quant })
    }
    fn set_quant(&mut self, quant: Option<WeightQuant>) {
        self.quant = quant;
    }
    fn shape(&self, graph: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let ([n, h, w, c], f, groups) = (image(x)?, graph.tensor(&self.weight)?, self.groups);
        let fits = groups > 0 && f.len() == 4 && c % groups == 0 && f[0] % groups == 0 && f[3] == c / groups;
        if !fits {
            return Err(format!("filter {f} does not fit {c} channels in {groups} groups"));
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
        let (groups, params) = (self.groups, self.params);
        match (run.codes(), &wq) {
            (Some(xq), Some(wq)) => conv2d_grouped_int(run.tape, [&x, &w], [&xq, wq], bias.as_ref(), groups, params),
            _ => conv2d_grouped(run.tape, &x, &w, bias.as_ref(), groups, params),
        }
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        match at.inputs[0].codes {
            Some(codes) => FilterStep::grouped(at, codes, self.groups, self.params),
            None => at.on_values(),
        }
    }
}
