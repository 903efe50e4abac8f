//! A convolution and its batch norm as one node: Tune mode under running statistics.

use super::super::Graph;
use super::super::forward::Mode;
use super::super::run::Run;
use super::{BatchNorm, Conv2d, Kind, LayerWeights, Outcome, WeightQuant};
use crate::Result;
use crate::autograd::Var;
use crate::ops::conv_bn_tune::{conv_bn_tune, conv_bn_tune_in_turn};
use crate::ops::conv2d::conv2d;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Convolves and normalizes. Under running statistics it convolves with scaled filters (You et al. 2024).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvBn {
    pub conv: Conv2d,
    pub norm: BatchNorm,
    /// Name of the batch norm's node before it was fused.
    pub norm_name: String,
}

impl Kind for ConvBn {
    fn name(&self) -> &'static str {
        "conv_bn"
    }
    fn layer(&self) -> Option<LayerWeights<'_>> {
        self.conv.layer()
    }
    fn set_quant(&mut self, quant: Option<WeightQuant>) {
        self.conv.quant = quant;
    }
    fn tensors(&self) -> Vec<&String> {
        [self.conv.tensors(), self.norm.tensors()].concat()
    }
    fn shape(&self, graph: &Graph, n: usize, x: &[Shape]) -> Outcome<Shape> {
        let y = self.conv.shape(graph, n, x)?;
        self.norm.shape(graph, n, &[y])
    }
    fn macs(&self, graph: &Graph, y: Shape) -> f64 {
        self.conv.macs(graph, y)
    }

    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let Conv2d { weight, bias, params, quant } = &self.conv;
        let x = run.swing(&x[0], params)?;
        if run.how.mode != Mode::Eval {
            // Batch statistics belong to generators and supervised training, which run no students.
            let (w, _) = run.weight_value(weight, *quant)?;
            let bias = run.optional(bias.as_ref())?;
            let z = conv2d(run.tape, &x, &w, bias.as_ref(), *params)?;
            return self.norm.run(run, &[z]);
        }
        let (w, wq) = run.weight(weight, *quant)?;
        let bias = run.optional(bias.as_ref())?;
        let vectors = run.norm_vectors(&self.norm)?;
        let scaled = run.scaled()?;
        let norm = vectors.tune(scaled.as_ref());
        // A student computes what its unfused and its deployed form compute, bit for bit.
        let y = if quant.is_some() && !run.how.float && !run.stands_in(weight) {
            let codes = run.codes();
            let codes = codes.as_ref().zip(wq.as_ref()).map(|(x, w)| [x, w]);
            conv_bn_tune_in_turn(run.tape, [&x, &w], codes, bias.as_ref(), norm, *params)?
        } else {
            conv_bn_tune(run.tape, &x, &w, bias.as_ref(), norm, *params)?
        };
        run.observe_behind(&y, &vectors)?;
        Ok(y)
    }
}
