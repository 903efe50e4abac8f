//! Batch normalization over the last dimension.

use super::super::Graph;
use super::super::deployed::{Deployment, FinishStep, IntegerTensors, OnnxNode, Step};
use super::super::forward::Mode;
use super::super::run::Run;
use super::extent::first;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::batch_norm::{Running, batch_norm_eval, batch_norm_train};
use crate::ops::integer_layer::Steps;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Normalizes per channel. Without `gamma` and `beta` it is affine-free. `mean` and `var` are buffers. All are `[c]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    pub gamma: Option<String>,
    pub beta: Option<String>,
    pub mean: String,
    pub var: String,
    pub eps: f32,
}

impl BatchNorm {
    /// Returns how many values each of its vectors has. Errors if one is missing.
    pub fn tensors_of(&self, all: &IntegerTensors) -> Result<Vec<usize>> {
        self.tensors().into_iter().map(|name| Ok(all.vector(name)?.values.len())).collect()
    }
}

impl Kind for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }
    fn pointwise(&self) -> bool {
        true
    }
    fn tensors(&self) -> Vec<&String> {
        [&self.mean, &self.var].into_iter().chain(&self.gamma).chain(&self.beta).collect()
    }
    fn shape(&self, graph: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let x = first(x)?;
        let c = x.last().copied().unwrap_or(0);
        for name in self.tensors() {
            let found = graph.tensor(name)?;
            if found[..] != [c] {
                return Err(format!("'{name}' has shape {found}, expected {c} channels"));
            }
        }
        if !(self.eps.is_finite() && self.eps >= 0.0) {
            return Err(format!("epsilon {} is not a small number above 0", self.eps));
        }
        Ok(x)
    }

    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let x = &x[0];
        run.observe_before(x)?;
        let v = run.norm_vectors(self)?;
        let (gamma, beta) = (v.gamma.as_ref(), v.beta.as_ref());
        match run.how.mode {
            Mode::Eval => batch_norm_eval(run.tape, x, gamma, beta, &v.mean, &v.var, self.eps),
            Mode::Batch => batch_norm_train(run.tape, x, gamma, beta, None, self.eps),
            Mode::Train { momentum } => {
                let running = Running { mean: v.mean.clone(), var: v.var.clone(), momentum };
                batch_norm_train(run.tape, x, gamma, beta, Some(running), self.eps)
            }
        }
    }

    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        let norm = at.tensors.norm(self)?.vectors();
        FinishStep::boxed(at, Steps { norm: Some(norm), ..Steps::default() })
    }

    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let norm = node.tensors.norm(self).map_err(|e| e.to_string())?;
        let (scale, shift) = norm.affine(None);
        let x = node.inputs[0].clone();
        Ok(node.scale_and_shift(x, &scale, &shift))
    }
}
