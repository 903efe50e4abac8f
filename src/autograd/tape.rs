//! The tape.

use super::accumulate;
use super::finish::{Finished, Promise};
use super::scale::Scale;
use crate::device::Device;
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

/// A value in a computation; `id` is its gradient slot, absent for what needs no gradient.
#[derive(Clone, Debug)]
pub struct Var {
    pub value: Tensor,
    id: Option<usize>,
}

impl Var {
    /// A value that no gradient flows to.
    pub fn constant(value: Tensor) -> Self {
        Self { value, id: None }
    }
    pub fn needs_grad(&self) -> bool {
        self.id.is_some()
    }
    pub fn shape(&self) -> Shape {
        self.value.shape()
    }
    pub fn dtype(&self) -> DType {
        self.value.dtype()
    }
    pub(super) fn id(&self) -> Option<usize> {
        self.id
    }
    /// The same value, cut off from the tape.
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }
}

/// The backward rule of one recorded operation, holding what it saved.
pub trait Op: Send {
    /// The op's one name.
    fn name(&self) -> &'static str;
    /// Reads `cx.grad(output)`, writes the gradients of the inputs that `cx.needs(input)`.
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()>;
    /// Whether it reads its one output's gradient by [`Backward::scale`], which spares the launch that would store a number
    /// the host knows.
    fn takes_scale(&self) -> bool {
        false
    }
}

/// How a kernel must write a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradMode {
    Overwrite,
    Accumulate,
}

impl GradMode {
    /// `beta` of `dx = beta * dx + new`.
    pub fn beta(self) -> f32 {
        match self {
            Self::Overwrite => 0.0,
            Self::Accumulate => 1.0,
        }
    }
}

struct Node {
    op: Box<dyn Op>,
    inputs: Vec<Option<usize>>,
    outputs: Vec<usize>,
    shapes: Vec<Shape>,
}

#[derive(Default)]
pub(super) struct Slot {
    pub grad: Option<Tensor>,
    /// Nodes with this as an input that have not run yet.
    pub readers: usize,
    pub promise: Option<Promise>,
    pub finished: Option<Finished>,
    /// The gradient while it is a number that the host knows; then `grad` is `None`.
    known: Option<f64>,
    /// What the value is like, if an op made it. Only then is its gradient kept as a number: a leaf's is read later.
    like: Option<(Shape, DType)>,
    /// Where a parameter's gradient must end up (a view of a flat buffer), and whether it has been written yet.
    pub target: Option<Tensor>,
    written: bool,
}

/// Records operations of one step. Dropped or consumed by [`Tape::backward`].
pub struct Tape {
    device: Device,
    nodes: Vec<Node>,
    pub(super) slots: Vec<Slot>,
    enabled: bool,
}

impl Tape {
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), nodes: Vec::new(), slots: Vec::new(), enabled: true }
    }

    /// A tape that records nothing: inference.
    pub fn inference(device: &Device) -> Self {
        Self { enabled: false, ..Self::new(device) }
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether it records anything: not if made by [`Tape::inference`].
    pub fn records(&self) -> bool {
        self.enabled
    }

    /// A value whose gradient is wanted; read it from [`Gradients`] after backward.
    pub fn leaf(&mut self, value: Tensor) -> Var {
        let id = self.enabled.then(|| self.slot(None));
        Var { value, id }
    }

    /// A parameter whose gradient is written (not added) to `target`.
    pub fn parameter(&mut self, value: Tensor, target: Tensor) -> Var {
        let id = self.enabled.then(|| self.slot(Some(target)));
        Var { value, id }
    }

    /// `value`, of `v`'s shape, whose gradient is taken for `v`'s own: what flows back to it flows to `v`, without a node.
    pub fn straight_through(&self, v: &Var, value: Tensor) -> Var {
        debug_assert_eq!(v.shape(), value.shape());
        Var { value, id: v.id }
    }

    fn slot(&mut self, target: Option<Tensor>) -> usize {
        self.slots.push(Slot { target, ..Slot::default() });
        self.slots.len() - 1
    }

    /// Whether a node over these inputs would be recorded: ops ask before they save anything.
    pub fn wants(&self, inputs: &[&Var]) -> bool {
        self.enabled && inputs.iter().any(|v| v.needs_grad())
    }

    /// Records `op` and returns its outputs as variables. When no input needs a gradient nothing is recorded.
    pub fn record(&mut self, op: impl Op + 'static, inputs: &[&Var], outputs: Vec<Tensor>) -> Vec<Var> {
        if !self.wants(inputs) {
            return outputs.into_iter().map(Var::constant).collect();
        }
        let ids: Vec<usize> = outputs.iter().map(|_| self.slot(None)).collect();
        for (&id, output) in ids.iter().zip(&outputs) {
            self.slots[id].like = Some((output.shape(), output.dtype()));
        }
        let shapes = outputs.iter().map(Tensor::shape).collect();
        let inputs: Vec<Option<usize>> = inputs.iter().map(|v| v.id).collect();
        inputs.iter().flatten().for_each(|&i| self.slots[i].readers += 1);
        self.nodes.push(Node { op: Box::new(op), inputs, outputs: ids.clone(), shapes });
        outputs.into_iter().zip(ids).map(|(value, id)| Var { value, id: Some(id) }).collect()
    }

    /// [`Tape::record`] for ops with one output.
    pub fn record_one(&mut self, op: impl Op + 'static, inputs: &[&Var], output: Tensor) -> Var {
        self.record(op, inputs, vec![output]).pop().expect("one output gives one variable")
    }

    /// Lines of `name  output shapes  gradients flow to inputs`, in execution order.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for n in &self.nodes {
            let shapes: Vec<String> = n.shapes.iter().map(|s| s.to_string()).collect();
            let needs: String = n.inputs.iter().map(|i| if i.is_some() { 'x' } else { '.' }).collect();
            text += &format!("{:<24} {:<28} {needs}\n", n.op.name(), shapes.join(" "));
        }
        text
    }

    /// Differentiates a one-element loss.
    pub fn backward(mut self, loss: &Var) -> Result<Gradients> {
        crate::ensure_op!(loss.value.len() == 1, "backward", "the loss has shape {}, not one element", loss.shape());
        let Some(id) = loss.id else { return Err(unreached()) };
        give_known(&self.device, &mut self.slots[id], 1.0, (loss.shape(), loss.dtype()))?;
        self.run()
    }

    /// Differentiates from given output gradients. Nodes are consumed in reverse order, so what they saved is freed as
    /// soon as it has been used.
    pub fn backward_from(mut self, seeds: &[(&Var, Tensor)]) -> Result<Gradients> {
        for (v, g) in seeds {
            let Some(id) = v.id else { return Err(unreached()) };
            give(&self.device, &mut self.slots[id], g.clone())?;
        }
        self.run()
    }

    fn run(mut self) -> Result<Gradients> {
        while let Some(node) = self.nodes.pop() {
            if node.outputs.iter().all(|&o| self.slots[o].grad.is_none() && self.slots[o].known.is_none()) {
                has_run(&mut self.slots, &node.inputs);
                continue;
            }
            let mut known = None;
            if node.op.takes_scale() {
                known = self.slots[node.outputs[0]].known.take();
            }
            for &o in &node.outputs {
                store(&self.device, &mut self.slots[o])?;
            }
            let grads = node.outputs.iter().map(|&o| self.slots[o].grad.take()).collect();
            let finished = self.slots[node.outputs[0]].finished.take();
            let (device, slots) = (&self.device, &mut self.slots);
            let mut cx = Backward { device, slots, inputs: node.inputs, grads, known, finished };
            node.op.backward(&mut cx)?;
            let Backward { slots, inputs, .. } = cx;
            has_run(slots, &inputs);
        }
        // A parameter that nothing reached has gradient zero, not last step's.
        for slot in &mut self.slots {
            if let (Some(t), false) = (&mut slot.target, slot.written) {
                t.fill_zero()?;
            }
        }
        Ok(Gradients { slots: self.slots })
    }
}

/// A node has given all it has to give to its inputs.
fn has_run(slots: &mut [Slot], inputs: &[Option<usize>]) {
    inputs.iter().flatten().for_each(|&i| slots[i].readers -= 1);
}

fn unreached() -> Error {
    Error::op("backward", "nothing that needs a gradient leads to this output")
}

/// Adds a number to the gradient of a one-element value.
fn give_known(device: &Device, slot: &mut Slot, value: f64, like: (Shape, DType)) -> Result<()> {
    if slot.like.is_some() && slot.grad.is_none() {
        // Rounded as the device would.
        let sum = slot.known.map_or(value, |held| held + value);
        slot.known = Some(if like.1 == DType::F64 { sum } else { f64::from(sum as f32) });
        return Ok(());
    }
    let stored = constant(device, value, like)?;
    give(device, slot, stored)
}

fn constant(device: &Device, value: f64, (shape, dtype): (Shape, DType)) -> Result<Tensor> {
    let mut t = Tensor::empty(device, shape, dtype)?;
    if dtype == DType::F64 {
        t.host_mut::<f64>().fill(value);
    } else {
        t.fill(value as f32)?;
    }
    Ok(t)
}

/// Writes down a gradient that is only known so far.
fn store(device: &Device, slot: &mut Slot) -> Result<()> {
    if let (Some(value), Some(like)) = (slot.known.take(), slot.like) {
        slot.grad = Some(constant(device, value, like)?);
    }
    Ok(())
}

fn give(device: &Device, slot: &mut Slot, grad: Tensor) -> Result<()> {
    store(device, slot)?;
    if let Some(target) = &mut slot.target {
        if slot.written {
            accumulate(target, &grad)?;
        } else {
            target.copy_from(&grad)?;
            slot.written = true;
        }
        return Ok(());
    }
    slot.grad = Some(match slot.grad.take() {
        None => grad,
        Some(mut held) => {
            // Two inputs may have been given the same tensor: then adding in place would change both.
            if !held.is_unique() {
                held = held.duplicate()?;
            }
            accumulate(&mut held, &grad)?;
            held
        }
    });
    Ok(())
}

/// What an op sees in its backward pass.
pub struct Backward<'a> {
    device: &'a Device,
    pub(super) slots: &'a mut Vec<Slot>,
    pub(super) inputs: Vec<Option<usize>>,
    grads: Vec<Option<Tensor>>,
    /// Of output 0, where the op takes it.
    known: Option<f64>,
    pub(super) finished: Option<Finished>,
}

impl Backward<'_> {
    pub fn device(&self) -> &Device {
        self.device
    }
    /// Whether there is an input `i` (optional ones come last) and it needs its gradient.
    pub fn needs(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }
    /// The gradient of output `o`; `None` if nothing flowed back to it (another output was used).
    pub fn grad(&mut self, o: usize) -> Option<Tensor> {
        self.grads[o].take()
    }
    /// The gradient of the one output of an op that [`Op::takes_scale`]; `None` if nothing flowed back to it.
    pub fn scale(&mut self) -> Option<Scale> {
        self.known.take().map(Scale::Known).or_else(|| self.grad(0).map(Scale::Stored))
    }
    /// Hands over the gradient of input `i` (ignored when not needed): stored if first, else added.
    pub fn give(&mut self, i: usize, grad: Tensor) -> Result<()> {
        match self.inputs[i] {
            Some(id) => give(self.device, &mut self.slots[id], grad),
            None => Ok(()),
        }
    }
    /// [`Self::give`] for an input of one element and a number that the host knows.
    pub fn give_known(&mut self, i: usize, value: f64, like: (Shape, DType)) -> Result<()> {
        match self.inputs[i] {
            Some(id) => give_known(self.device, &mut self.slots[id], value, like),
            None => Ok(()),
        }
    }
    /// Where the gradient of input `i` ends up, if it is a parameter's and nothing has reached it yet: the op must fill it whole,
    /// and give nothing more. Saves the copy that [`Self::give`] makes into a parameter's gradient.
    pub fn home(&mut self, i: usize, shape: impl Into<Shape>) -> Result<Option<Tensor>> {
        let Some(slot) = self.inputs.get(i).copied().flatten().map(|id| &mut self.slots[id]) else { return Ok(None) };
        match &slot.target {
            Some(t) if !slot.written => {
                slot.written = true;
                t.reshape(shape.into()).map(Some)
            }
            _ => Ok(None),
        }
    }
    /// A tensor to write input `i`'s gradient into directly, and how: for kernels that can accumulate themselves.
    /// The op must fill it whole.
    pub fn target(&mut self, i: usize, shape: impl Into<Shape>, dtype: DType) -> Result<(Tensor, GradMode)> {
        let id = self.inputs[i].expect("target is asked for only when needs(i)");
        let shape = shape.into();
        let slot = &mut self.slots[id];
        store(self.device, slot)?;
        if let Some(t) = &slot.target {
            let mode = if slot.written { GradMode::Accumulate } else { GradMode::Overwrite };
            slot.written = true;
            return Ok((t.reshape(shape)?, mode));
        }
        match &mut slot.grad {
            Some(held) => {
                if !held.is_unique() {
                    *held = held.duplicate()?;
                }
                Ok((held.reshape(shape)?, GradMode::Accumulate))
            }
            None => {
                let t = Tensor::empty(self.device, shape, dtype)?;
                slot.grad = Some(t.clone());
                Ok((t, GradMode::Overwrite))
            }
        }
    }
}

/// Gradients of leaves after backward.
pub struct Gradients {
    slots: Vec<Slot>,
}

impl Gradients {
    /// The gradient of a leaf, if anything reached it.
    pub fn of(&self, v: &Var) -> Option<Tensor> {
        let slot = &self.slots[v.id?];
        slot.target.clone().or_else(|| slot.grad.clone())
    }
}
