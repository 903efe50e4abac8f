//! The tape.

use super::accumulate;
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
struct Slot {
    grad: Option<Tensor>,
    /// Where a parameter's gradient must end up (a view of a flat buffer), and whether it has been written yet.
    target: Option<Tensor>,
    written: bool,
}

/// Records operations of one step. Dropped or consumed by [`Tape::backward`].
pub struct Tape {
    device: Device,
    nodes: Vec<Node>,
    slots: Vec<Slot>,
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
        let shapes = outputs.iter().map(Tensor::shape).collect();
        let inputs = inputs.iter().map(|v| v.id).collect();
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
    pub fn backward(self, loss: &Var) -> Result<Gradients> {
        crate::ensure_op!(loss.value.len() == 1, "backward", "the loss has shape {}, not one element", loss.shape());
        let mut seed = Tensor::empty_like(&loss.value, loss.shape())?;
        seed.fill(1.0)?;
        self.backward_from(&[(loss, seed)])
    }

    /// Differentiates from given output gradients. Nodes are consumed in reverse order, so what they saved is freed as
    /// soon as it has been used.
    pub fn backward_from(mut self, seeds: &[(&Var, Tensor)]) -> Result<Gradients> {
        for (v, g) in seeds {
            let Some(id) = v.id else {
                return Err(Error::op("backward", "nothing that needs a gradient leads to this output"));
            };
            give(&mut self.slots[id], g.clone())?;
        }
        while let Some(node) = self.nodes.pop() {
            if node.outputs.iter().all(|&o| self.slots[o].grad.is_none()) {
                continue;
            }
            let grads = node.outputs.iter().map(|&o| self.slots[o].grad.take()).collect();
            let mut cx = Backward { device: &self.device, slots: &mut self.slots, inputs: node.inputs, grads };
            node.op.backward(&mut cx)?;
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

fn give(slot: &mut Slot, grad: Tensor) -> Result<()> {
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
    slots: &'a mut Vec<Slot>,
    inputs: Vec<Option<usize>>,
    grads: Vec<Option<Tensor>>,
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
    /// Hands over the gradient of input `i` (ignored when not needed): stored if first, else added.
    pub fn give(&mut self, i: usize, grad: Tensor) -> Result<()> {
        match self.inputs[i] {
            Some(id) => give(&mut self.slots[id], grad),
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
