//! Integer inference, on the CPU or a GPU.

use super::network::IntegerNetwork;
use crate::device::Device;
use crate::graph::deployed::{Deployment, Step};
use crate::graph::nodes::NodeKind;
use crate::ops::integer_layer::Branch;
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};
use rayon::prelude::*;

/// Images that go through all layers together on a CPU, so that values between two layers stay in the cache.
const IMAGES: usize = 4;

/// An integer network, prepared for a device.
pub struct Engine {
    network: IntegerNetwork,
    units: Vec<Prepared>,
    device: Device,
}

/// A unit of the network.
struct Prepared {
    /// `None`: the network's input.
    step: Option<Box<dyn Step>>,
    inputs: Vec<usize>,
    /// Inputs that no later unit reads.
    last_read: Vec<usize>,
}

impl Engine {
    /// Prepares `network` for the CPU. Errors on a network that is not consistent, as [`IntegerNetwork::values`].
    pub fn new(network: IntegerNetwork) -> Result<Self> {
        Self::on(&Device::cpu(), network)
    }

    /// Prepares `network` for `device`. A GPU computes the first f32 layer in f32, without tensor cores. Errors as [`Self::new`],
    /// and the device's.
    pub fn on(device: &Device, network: IntegerNetwork) -> Result<Self> {
        let values = network.values()?;
        let units = network.units()?;
        let mut prepared = Vec::with_capacity(units.len());
        let mut last_use = vec![usize::MAX; units.len()];
        for (i, unit) in units.iter().enumerate() {
            unit.inputs.iter().for_each(|&from| last_use[from] = i);
        }
        for (i, unit) in units.iter().enumerate() {
            let node = &network.graph.nodes[unit.head];
            let step = match node.kind {
                NodeKind::Input(_) => None,
                _ => {
                    let inputs = unit.inputs.iter().map(|&from| &values[units[from].end]).collect();
                    let (output, layer, tensors) = (&values[unit.end], unit.layer.as_ref(), &network.tensors);
                    let at = Deployment { device, node, inputs, output, layer, tensors };
                    Some(node.kind.rules().prepare(&at)?)
                }
            };
            let last_read = unit.inputs.iter().copied().filter(|&from| last_use[from] == i).collect();
            prepared.push(Prepared { step, inputs: unit.inputs.clone(), last_read });
        }
        Ok(Self { network, units: prepared, device: device.clone() })
    }

    /// Returns the network.
    pub fn network(&self) -> &IntegerNetwork {
        &self.network
    }

    /// Returns the device that computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns logits `[n classes]` of inputs `x[n ..]`, both f32 on the engine's device. A sample's logits do not depend on the
    /// others.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        let (name, input) = (&self.network.graph.name, self.network.input());
        let sample: usize = input.iter().product();
        let n = x.len() / sample;
        if x.shape().len() != input.len() + 1 || x.shape()[1..] != input[..] || n == 0 {
            return Err(Error::network(name, format!("inputs {} do not fit samples of {input:?}", x.shape())));
        }
        if x.device() != self.device || x.dtype() != DType::F32 {
            let detail = format!("inputs {x:?}; expected F32 on {}", self.device.name());
            return Err(Error::network(name, detail));
        }
        if !self.device.is_cpu() {
            return self.run(x.clone());
        }
        let classes = self.network.graph.classes;
        let mut out = Tensor::empty(&self.device, [n, classes], DType::F32)?;
        // Small batches leave the threads to the layers.
        let images = if n < IMAGES * rayon::current_num_threads() { n } else { IMAGES };
        let parts: Vec<_> = out.host_mut::<f32>().chunks_mut(images * classes).enumerate().collect();
        parts.into_par_iter().try_for_each(|(i, out)| {
            let count = out.len() / classes;
            let shape = Shape::new(&[&[count], input].concat());
            out.copy_from_slice(self.run(x.view(i * images * sample, shape)?)?.host::<f32>());
            Ok(())
        })?;
        Ok(out)
    }

    fn run(&self, x: Tensor) -> Result<Tensor> {
        let mut branches: Vec<Option<Branch>> = vec![None; self.units.len()];
        for (i, unit) in self.units.iter().enumerate() {
            let y = match &unit.step {
                None => Branch::Real(x.clone()),
                Some(step) => {
                    let alive = |from: &usize| branches[*from].as_ref().expect("inputs are alive until their last use");
                    step.run(&unit.inputs.iter().map(alive).collect::<Vec<_>>())?
                }
            };
            for &from in &unit.last_read {
                branches[from] = None;
            }
            branches[i] = Some(y);
        }
        match branches.pop().flatten() {
            Some(Branch::Real(y)) => Ok(y),
            _ => unreachable!("the output was checked to be f32"),
        }
    }
}
