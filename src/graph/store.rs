//! Named parameters side by side in one flat buffer, their gradients in another of the same layout: an optimizer steps
//! the whole store in one launch.

use super::{Init, ParamSpec};
use crate::autograd::{Tape, Var};
use crate::device::Device;
use crate::ops::random;
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};
use std::collections::HashMap;

/// Parameters start at multiples of this many elements (256 bytes), so that vector loads are aligned.
const ALIGN: usize = 64;

/// Flat parameter buffer with named views.
pub struct ParamStore {
    index: HashMap<String, usize>,
    entries: Vec<(String, usize, Shape)>,
    values: Tensor,
    grads: Option<Tensor>,
}

impl ParamStore {
    /// Allocates and initialises `specs`. Draws are Philox with `seed`, one stream per parameter.
    pub fn new(device: &Device, specs: &[ParamSpec], seed: u64) -> Result<Self> {
        let mut entries = Vec::with_capacity(specs.len());
        let mut end = 0;
        for s in specs {
            entries.push((s.name.clone(), end, s.shape));
            end += s.shape.elements().div_ceil(ALIGN) * ALIGN;
        }
        let index = entries.iter().enumerate().map(|(i, e)| (e.0.clone(), i)).collect();
        let values = Tensor::zeros(device, [end.max(ALIGN)], DType::F32)?;
        let store = Self { index, entries, values, grads: None };
        let cpu = Device::cpu();
        for (stream, s) in specs.iter().enumerate() {
            let stream = stream as u64;
            let drawn: Vec<f32> = match s.init {
                Init::Zeros => continue,
                Init::Ones => vec![1.0; s.shape.elements()],
                Init::Uniform { bound } => {
                    let u = random::uniform(&cpu, s.shape, seed, stream)?.to_vec::<f32>()?;
                    u.into_iter().map(|v| (2.0 * v - 1.0) * bound).collect()
                }
                Init::Normal { std } => {
                    let z = random::normal(&cpu, s.shape, seed, stream)?.to_vec::<f32>()?;
                    z.into_iter().map(|v| v * std).collect()
                }
            };
            store.get(&s.name)?.write(&drawn)?;
        }
        Ok(store)
    }

    /// The view of one parameter.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        self.view_in(&self.values, name)
    }

    /// The view of one parameter's gradient (zero before the first backward).
    pub fn grad(&self, name: &str) -> Result<Tensor> {
        let grads = self.grads.as_ref().ok_or_else(|| Error::op("parameters", "this store is not trained"))?;
        self.view_in(grads, name)
    }

    fn view_in(&self, flat: &Tensor, name: &str) -> Result<Tensor> {
        let i = *self.index.get(name).ok_or_else(|| Error::op("parameters", format!("no parameter '{name}'")))?;
        let (_, start, shape) = &self.entries[i];
        flat.view(*start, *shape)
    }

    /// The parameter on a tape: with a gradient target when this store is trained, else a constant.
    pub fn var(&self, tape: &mut Tape, name: &str) -> Result<Var> {
        let value = self.get(name)?;
        match &self.grads {
            Some(g) => Ok(tape.parameter(value, self.view_in(g, name)?)),
            None => Ok(Var::constant(value)),
        }
    }

    /// Allocates the gradient buffer: from now on [`ParamStore::var`] asks for gradients.
    pub fn train(&mut self) -> Result<()> {
        if self.grads.is_none() {
            self.grads = Some(Tensor::zeros(&self.values.device(), self.values.shape(), DType::F32)?);
        }
        Ok(())
    }

    /// The same values in the same memory, without gradients: for another reader on `device`, see [`Tensor::lent`].
    pub(super) fn shared(&self, device: &Device) -> Result<Self> {
        let (index, entries) = (self.index.clone(), self.entries.clone());
        Ok(Self { index, entries, values: self.values.lent(device)?, grads: None })
    }

    /// Drops the gradient buffer.
    pub fn freeze(&mut self) {
        self.grads = None;
    }

    /// Flat values and gradients, for an optimizer. Gaps between parameters are zero in both.
    pub fn flat(&mut self) -> Result<(&mut Tensor, &Tensor)> {
        let grads = self.grads.as_ref().ok_or_else(|| Error::op("parameters", "this store is not trained"))?;
        Ok((&mut self.values, grads))
    }

    pub fn values(&self) -> &Tensor {
        &self.values
    }

    pub fn values_mut(&mut self) -> &mut Tensor {
        &mut self.values
    }

    /// Names and shapes in order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, Shape)> {
        self.entries.iter().map(|(n, _, s)| (n.as_str(), *s))
    }

    /// Where a parameter lies in the flat buffers: first element and count.
    pub fn span(&self, name: &str) -> Result<(usize, usize)> {
        let i = *self.index.get(name).ok_or_else(|| Error::op("parameters", format!("no parameter '{name}'")))?;
        Ok((self.entries[i].1, self.entries[i].2.elements()))
    }

    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// Number of trainable scalars.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|e| e.2.elements()).sum()
    }
}
