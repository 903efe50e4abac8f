//! Which function takes in which operator.

use super::Outcome;
use super::attributes::Attributes;
use super::build::{Build, Flow, Held, Padding, Value};
use super::emit::Function;
use super::fold::{self, Inputs};
use super::host::{Host, Kind, Size};
use super::operators;
use crate::tensor::onnx::{AttributeProto, NodeProto};
use std::rc::Rc;

fn made<'a>(t: Host) -> Value<'a> {
    Value::Constant(Held::Made(Rc::new(t)))
}

impl<'a> Build<'a> {
    /// The outputs of `node` in order; those behind the last that is computed in inference are left out.
    pub(super) fn outputs_of(&mut self, node: &'a NodeProto, last: bool) -> Outcome<Vec<Value<'a>>> {
        if !operators::own(node) {
            return Err("is not supported".into());
        }
        if let Some(values) = self.constant_outputs(node)? {
            return Ok(values);
        }
        let flow = match &node.op_type[..] {
            // In inference, Dropout does nothing.
            "Identity" | "Dropout" => {
                let value = self.value(node, 0)?.clone();
                return Ok(vec![if matches!(value, Value::Flow(_)) {
                    Value::Flow(self.raw_flow(node, 0)?)
                } else {
                    value
                }]);
            }
            // Behind the logits it changes no order of classes; training and distillation want what goes into it.
            "Softmax" | "LogSoftmax" if last => self.flow(node, 0)?,
            "Softmax" | "LogSoftmax" => {
                return Err("is supported behind the logits only, where it is left out".into());
            }
            "Cast" => {
                // Activations are f32. From double to f32 a file loses nothing that its weights have.
                match Attributes(node).int("to", 1) {
                    1 | 11 => self.raw_flow(node, 0)?,
                    to => return Err(format!("to = {to} is not supported: f32 (1) is; export the model in float32")),
                }
            }
            "CastLike" => self.raw_flow(node, 0)?,
            "Split" => return self.split(node),
            "SplitToSequence" => return self.split_to_sequence(node).map(|all| vec![Value::Sequence(all)]),
            "SequenceConstruct" => {
                let all = (0..node.input.len()).map(|i| self.value(node, i).cloned());
                return Ok(vec![Value::Sequence(all.collect::<Outcome<_>>()?)]);
            }
            "SequenceAt" => return self.sequence_at(node).map(|v| vec![v]),
            "Conv" => self.conv(node)?,
            "BatchNormalization" => self.batch_norm(node)?,
            "Gemm" => self.gemm(node)?,
            "MatMul" => self.mat_mul(node)?,
            "Add" | "Sum" | "Mean" | "Sub" | "Mul" | "Div" => self.arithmetic(node)?,
            "Neg" => self.negated(node)?,
            "Reciprocal" => self.reciprocal(node)?,
            "Concat" | "ConcatFromSequence" => self.concat(node)?,
            "ScatterND" => self.scatter(node)?,
            "Relu" => self.activation(node, Function::Relu)?,
            "LeakyRelu" => self.leaky_relu(node)?,
            "PRelu" => self.prelu(node)?,
            "Tanh" => self.activation(node, Function::Tanh)?,
            "Sigmoid" => self.activation(node, Function::Sigmoid)?,
            "HardSigmoid" => self.hard_sigmoid(node)?,
            "HardSwish" => self.activation(node, Function::HardSwish)?,
            "Celu" => self.celu(node)?,
            "Elu" | "Selu" => self.elu(node)?,
            "Gelu" => self.gelu(node)?,
            "Mish" => self.activation(node, Function::Mish)?,
            "Softplus" => self.activation(node, Function::Softplus)?,
            "Swish" => self.swish(node)?,
            "ThresholdedRelu" => self.thresholded_relu(node)?,
            "Clip" | "Max" | "Min" => self.clip(node)?,
            "GlobalAveragePool" | "GlobalMaxPool" => self.global_pool(node)?,
            "ReduceMean" | "ReduceSum" | "ReduceMax" => self.reduce(node)?,
            "MaxPool" | "AveragePool" => self.pool(node)?,
            "LRN" => self.lrn(node)?,
            "Resize" | "Upsample" => self.resize(node)?,
            "Flatten" => self.flatten(node)?,
            "Reshape" => self.reshape(node)?,
            "Squeeze" => self.squeeze(node)?,
            "Unsqueeze" => self.unsqueeze(node)?,
            "Transpose" => self.transpose(node)?,
            "Expand" | "Tile" => self.expand(node)?,
            "Slice" => self.slice(node)?,
            "Gather" => self.gather(node)?,
            "Pad" => self.pad(node)?,
            _ => return Err("is not supported".into()),
        };
        Ok(vec![Value::Flow(flow)])
    }

    /// The outputs of a node that computes with constants only, or asks for a shape.
    fn constant_outputs(&mut self, node: &'a NodeProto) -> Outcome<Option<Vec<Value<'a>>>> {
        let op = &node.op_type[..];
        if op == "Constant" {
            return constant_value(node).map(|v| Some(vec![v]));
        }
        if op == "Shape" || op == "Size" {
            let dims = match self.value(node, 0)? {
                Value::Flow(flow) => self.sizes(flow),
                _ => self.dims(node, 0)?.into_iter().map(|d| Size::Fixed(d as i64)).collect(),
            };
            if op == "Shape" {
                return Ok(Some(vec![made(fold::shape_of(dims, Attributes(node))?)]));
            }
            let all = fold::product(&dims)?;
            return Ok(Some(vec![made(Host::integers(Kind::I64, Vec::new(), vec![all]))]));
        }
        if op == "CastLike" && self.is_constant(node, 0) {
            let like = if self.is_constant(node, 1) { self.host(node, 1)?.kind } else { Kind::F32 };
            return Ok(Some(vec![made(fold::cast(&*self.host(node, 0)?, like)?)]));
        }
        let present = || (0..node.input.len()).filter(|&i| self.has(node, i));
        if present().count() == 0 || !present().all(|i| self.is_constant(node, i)) {
            return Ok(None);
        }
        if op == "Identity" || op == "Dropout" || !fold::knows(op) {
            return Ok(None);
        }
        let host = |i: usize| self.has(node, i).then(|| self.host(node, i)).transpose();
        let inputs: Vec<Option<Rc<Host>>> = (0..node.input.len()).map(host).collect::<Outcome<_>>()?;
        let found = fold::evaluate(node, self.opset, &Inputs(&inputs), &mut self.budget)?;
        Ok(Some(found.into_iter().map(made).collect()))
    }

    /// The file's sizes of an activation, with padding that is still to come.
    pub(super) fn sizes(&self, flow: &Flow) -> Vec<Size> {
        let mut sizes = flow.layout.sizes();
        if let Some(Padding { axes, sides: [top, left, bottom, right], .. }) = flow.pad {
            for (axis, more) in [(axes[0], top + bottom), (axes[1], left + right)] {
                if let Size::Fixed(v) = &mut sizes[axis] {
                    *v += more as i64;
                }
            }
        }
        sizes
    }
}

fn constant_value(node: &NodeProto) -> Outcome<Value<'_>> {
    let attributes = Attributes(node);
    if let Some(t) = attributes.get("value").and_then(|a| a.t.as_ref()) {
        return Ok(Value::Constant(Held::File(t)));
    }
    let one = |a: &AttributeProto, f: fn(&AttributeProto) -> Host| f(a);
    let found = [
        attributes.get("value_int").map(|a| one(a, |a| Host::integers(Kind::I64, Vec::new(), vec![Size::Fixed(a.i)]))),
        attributes.get("value_float").map(|a| one(a, |a| Host::floats(Kind::F32, Vec::new(), vec![a.f]))),
        attributes
            .get("value_floats")
            .map(|a| one(a, |a| Host::floats(Kind::F32, vec![a.floats.len()], a.floats.clone()))),
        attributes
            .get("value_ints")
            .filter(|a| a.ints.len() <= super::host::MAX_INTEGERS)
            .map(|a| one(a, |a| Host::fixed(&a.ints))),
    ];
    let found = found.into_iter().flatten().next();
    found.map(made).ok_or_else(|| "holds no tensor and no numbers that are understood".into())
}
