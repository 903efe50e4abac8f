//! What block reconstruction learns: rounding, steps and activation ranges, each with its optimizer.

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::graph::{Block, Init, Network, ParamSpec, ParamStore};
use crate::ops::adaround::Rounding;
use crate::ops::elementwise::mul;
use crate::optim::{Adam, Rate};
use crate::tensor::Shape;
use std::collections::BTreeMap;

/// A store and its optimizer.
pub struct Group {
    store: ParamStore,
    adam: Adam,
}

impl Group {
    fn new(student: &Network, specs: &[ParamSpec]) -> Result<Self> {
        let mut store = ParamStore::new(&student.device(), specs, 0)?;
        store.train()?;
        let adam = Adam::new(store.values(), 0.9, 0.999, 1e-8)?;
        Ok(Self { store, adam })
    }
    pub fn step(&mut self, lr: impl Into<Rate>) -> Result<()> {
        let (values, grads) = self.store.flat()?;
        self.adam.step(values, grads, lr)
    }
}

/// What is learned in a block, by quantizer.
pub struct Learned {
    weights: Vec<(String, Rounding)>,
    activations: Vec<String>,
    /// Rounding variables, shaped like the weights.
    pub choices: Group,
    /// Steps relative to the calibrated ones, `[k]`.
    pub ratios: Group,
    /// `NAME.lo` and `.hi` of activations.
    pub ranges: Group,
}

impl Learned {
    pub fn new(student: &Network, block: Block) -> Result<Self> {
        let needed = student.graph.needed(&[block.to], [block.from])?;
        let inside: Vec<_> =
            student.graph.quantizers().into_iter().filter(|q| needed[q.node] && q.node != block.from).collect();
        let (mut weights, mut activations) = (Vec::new(), Vec::new());
        let [mut choices, mut ratios, mut ranges] = [Vec::new(), Vec::new(), Vec::new()];
        let spec = |name: String, shape: Shape, init| ParamSpec { name, shape, init };
        for q in &inside {
            let range = |end: &str| student.ranges.get(&format!("{}.{end}", q.name));
            if q.weight {
                let w = student.params.get(&q.name)?;
                choices.push(spec(q.name.clone(), w.shape(), Init::Zeros));
                ratios.push(spec(q.name.clone(), [q.channels].into(), Init::Ones));
                weights.push((q.name.clone(), Rounding::new(&w, &range("lo")?, &range("hi")?, q.bits)?));
            } else {
                ranges.extend(["lo", "hi"].map(|end| spec(format!("{}.{end}", q.name), [1].into(), Init::Zeros)));
                activations.push(q.name.clone());
            }
        }
        let [choices, ratios, ranges] =
            [Group::new(student, &choices)?, Group::new(student, &ratios)?, Group::new(student, &ranges)?];
        for (name, rounding) in &weights {
            choices.store.get(name)?.copy_from(&rounding.start)?;
        }
        for name in activations.iter().flat_map(|n| [format!("{n}.lo"), format!("{n}.hi")]) {
            ranges.store.get(&name)?.copy_from(&student.ranges.get(&name)?)?;
        }
        Ok(Self { weights, activations, choices, ratios, ranges })
    }

    /// Whether there is nothing to learn: a block without quantizers.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty() && self.activations.is_empty()
    }

    /// All of it on a tape: softly rounded weights and activation ranges by name, and the rounding variables.
    pub fn on(&self, tape: &mut Tape) -> Result<(BTreeMap<String, Var>, Vec<Var>)> {
        let (mut stand_ins, mut open) = (BTreeMap::new(), Vec::new());
        for (name, rounding) in &self.weights {
            let v = self.choices.store.var(tape, name)?;
            let ratio = self.ratios.store.var(tape, name)?;
            let step = mul(tape, &ratio, &Var::constant(rounding.step.clone()))?;
            stand_ins.insert(name.clone(), rounding.soft(tape, &v, &step)?);
            open.push(v);
        }
        for name in self.activations.iter().flat_map(|n| [format!("{n}.lo"), format!("{n}.hi")]) {
            stand_ins.insert(name.clone(), self.ranges.store.var(tape, &name)?);
        }
        Ok((stand_ins, open))
    }

    /// Hard rounding: weights become the values of their codes, so that the student's own quantizers give these codes.
    pub fn write(&self, student: &mut Network) -> Result<()> {
        for (name, rounding) in &self.weights {
            let mut tape = Tape::inference(&student.device());
            let ratio = Var::constant(self.ratios.store.get(name)?);
            let step = mul(&mut tape, &ratio, &Var::constant(rounding.step.clone()))?.value;
            let hard = rounding.harden(&self.choices.store.get(name)?, &step)?;
            student.params.get(name)?.copy_from(&hard.values)?;
            student.set_range(name, &hard.lo, &hard.hi)?;
        }
        for name in &self.activations {
            let [lo, hi] = ["lo", "hi"].map(|end| self.ranges.store.get(&format!("{name}.{end}")));
            student.set_range(name, &lo?, &hi?)?;
        }
        Ok(())
    }
}
