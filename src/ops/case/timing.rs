//! Seconds of a case, and the work that it has to do at least.

use super::inputs::{Rng, tensor, values};
use super::{Case, GradCheck};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::tensor::{DType, Tensor};
use std::hint::black_box;

/// Ops whose counted operations are products of inputs 0 and 1: the gradient of each of the two takes as many again.
const PRODUCTS: [&str; 7] =
    ["conv2d", "conv2d_depthwise", "conv2d_int", "conv_block", "conv_bn_tune", "conv_stats", "linear"];

/// What of a case is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The op on a tape that records nothing.
    Forward,
    /// Recorded, and its gradient rule run with given output gradients.
    ForwardBackward,
}

impl Pass {
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::ForwardBackward => "forward_backward",
        }
    }

    /// Those that a case has.
    pub fn of(case: &Case) -> &'static [Self] {
        let gradients = case.check != GradCheck::None && case.inputs.iter().any(|i| i.grad);
        if gradients { &[Self::Forward, Self::ForwardBackward] } else { &[Self::Forward] }
    }
}

/// What one execution must do at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Arithmetic operations, where the case counts them (0 elsewhere). With gradients: of products only, which the gradient
    /// rule computes in known number.
    pub flops: f64,
    /// Bytes: what the case declares, else inputs and outputs; with gradients also those of outputs (read) and inputs (written).
    pub bytes: f64,
}

/// A case with its tensors on a device.
pub struct Ready<'a> {
    op: &'static str,
    case: &'a Case,
    device: Device,
    inputs: Vec<Tensor>,
    /// Of the outputs; empty where the case has no gradients.
    gradients: Vec<Tensor>,
    /// Bytes of the outputs.
    outputs: usize,
}

impl<'a> Ready<'a> {
    /// Draws the inputs (always the same) and runs the case once. Errors are the op's.
    pub fn new(op: &'static str, case: &'a Case, device: &Device) -> Result<Self> {
        let mut rng = Rng(42);
        let draw = |i| tensor(device, i, &values(i, &mut rng), DType::F32);
        let inputs = case.inputs.iter().map(draw).collect::<Result<_>>()?;
        let mut ready = Self { op, case, device: device.clone(), inputs, gradients: Vec::new(), outputs: 0 };
        let outputs = ready.forward()?;
        ready.outputs = outputs.iter().map(|o| bytes(&o.value)).sum();
        if Pass::of(case).contains(&Pass::ForwardBackward) {
            let mut rng = Rng(1000);
            let gradient = |o: &Var| {
                let v: Vec<f32> = (0..o.value.len()).map(|_| rng.normal() as f32).collect();
                Tensor::from_slice(device, o.shape(), &v)
            };
            ready.gradients = outputs.iter().map(gradient).collect::<Result<_>>()?;
        }
        Ok(ready)
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.inputs.iter().chain(&self.gradients).map(bytes).sum()
    }

    /// What `pass` must do at least.
    pub fn work(&self, pass: Pass) -> Work {
        let inputs: usize = self.inputs.iter().map(bytes).sum();
        let declared = (self.case.bytes > 0.0).then_some(self.case.bytes);
        let forward = declared.unwrap_or((inputs + self.outputs) as f64);
        if pass == Pass::Forward {
            return Work { flops: self.case.flops, bytes: forward };
        }
        let wanted = |i: usize| self.case.inputs.get(i).is_some_and(|i| i.grad);
        let written: usize = (0..self.inputs.len()).filter(|&i| wanted(i)).map(|i| bytes(&self.inputs[i])).sum();
        let read: usize = self.gradients.iter().map(bytes).sum();
        let products = if PRODUCTS.contains(&self.op) { self.case.flops } else { 0.0 };
        let times = 1 + usize::from(wanted(0)) + usize::from(wanted(1));
        Work { flops: products * times as f64, bytes: forward + (read + written) as f64 }
    }

    /// Runs `pass` once; on a GPU it is queued.
    pub fn run(&self, pass: Pass) -> Result<()> {
        match pass {
            Pass::Forward => self.forward().map(|outputs| drop(black_box(outputs))),
            Pass::ForwardBackward => self.forward_backward(),
        }
    }

    /// Seconds per execution of `n` executions, waited for once at the end, so that on a GPU launches overlap with work as
    /// they do in a training step.
    pub fn seconds(&self, pass: Pass, n: usize) -> Result<f64> {
        let taken = self.device.timed(|| (0..n).try_for_each(|_| self.run(pass)))?;
        Ok(taken / n as f64)
    }

    fn forward(&self) -> Result<Vec<Var>> {
        let vars: Vec<Var> = self.inputs.iter().cloned().map(Var::constant).collect();
        (self.case.run)(&mut Tape::inference(&self.device), &vars)
    }

    fn forward_backward(&self) -> Result<()> {
        let mut tape = Tape::new(&self.device);
        let leaf = |(i, t): (&super::Input, &Tensor)| {
            if i.grad { tape.leaf(t.clone()) } else { Var::constant(t.clone()) }
        };
        let vars: Vec<Var> = self.case.inputs.iter().zip(&self.inputs).map(leaf).collect();
        let outputs = (self.case.run)(&mut tape, &vars)?;
        let wanted = outputs.iter().zip(&self.gradients).filter(|(o, _)| o.needs_grad());
        let seeds: Vec<(&Var, Tensor)> = wanted.map(|(o, g)| (o, g.clone())).collect();
        black_box(tape.backward_from(&seeds)?);
        Ok(())
    }
}

fn bytes(t: &Tensor) -> usize {
    t.len() * t.dtype().size()
}
