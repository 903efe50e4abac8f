//! Layers with weights, sums, activations.

use super::attributes::Attributes;
use super::build::{Build, Flow, Form, Value};
use super::order::label;
use super::{MAX_SIZE, Outcome};
use crate::graph::{NodeId, NodeKind};
use crate::ops::activation::Activation;
use crate::ops::conv2d::Conv2dParams;
use crate::tensor::io::HostTensor;
use crate::tensor::onnx::NodeProto;

impl Build<'_> {
    pub(super) fn conv(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let (x, [h, w, c]) = self.map(node, 0)?;
        let weight = self.floats(node, 1)?;
        let &[k, per_group, r, s] = &weight.shape[..] else {
            return Err(format!("its weight has shape {:?}; two-dimensional convolutions are supported", weight.shape));
        };
        if weight.shape.iter().any(|d| *d > MAX_SIZE) {
            return Err(format!("its weight has shape {:?}; sizes up to {MAX_SIZE} are supported", weight.shape));
        }
        if attributes.get("kernel_shape").is_some() && attributes.kernel()? != [r, s] {
            return Err(format!("kernel_shape does not fit the weight's shape {:?}", weight.shape));
        }
        let group = attributes.int("group", 1);
        let depthwise = group == c as i64 && group == k as i64 && per_group == 1 && group > 1;
        if !depthwise && group != 1 {
            return Err(format!("{group} groups of {c} channels to {k} are not supported: 1, or one per channel, are"));
        }
        if !depthwise && per_group != c {
            return Err(format!("its weight of shape {:?} does not fit {c} channels", weight.shape));
        }
        let window = attributes.window([r, s], [h, w])?;
        let params = Conv2dParams { dilation: window.dilation, ..Conv2dParams::new(window.stride, window.pad) };
        let bias = if self.has(node, 2) { Some(self.channels(node, 2, k)?) } else { None };
        // A depthwise filter has one input channel, in the file's order as in ours the one besides k, r and s.
        let weight = self.param(&node.input[1], &[k, r, s, per_group], weight)?;
        let bias = bias.map(|b| self.param(&node.input[2], &[k], b)).transpose()?;
        let kind = if depthwise {
            NodeKind::Conv2dDepthwise { weight, bias, params, quant: None }
        } else {
            NodeKind::Conv2d { weight, bias, params, quant: None }
        };
        Ok(Flow { node: self.push(label(node), "", kind, &[x])?, form: Form::Map })
    }

    /// The `i`-th input, a constant with one value per channel.
    fn channels(&self, node: &NodeProto, i: usize, c: usize) -> Outcome<HostTensor> {
        let t = self.floats(node, i)?;
        if t.shape != [c] {
            return Err(format!("input {i} ('{}') has shape {:?}, expected [{c}]", node.input[i], t.shape));
        }
        Ok(t)
    }

    /// In its inference form, also where the file is one for training.
    pub(super) fn batch_norm(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        attributes.only("spatial", 1)?;
        let x = self.flow(node, 0)?;
        let c = self.shapes[x.node].last().copied().unwrap_or(0);
        let eps = attributes.float("epsilon", 1e-5);
        if !(eps.is_finite() && eps > 0.0) {
            return Err(format!("epsilon = {eps} is not above 0"));
        }
        let mut all = Vec::with_capacity(4);
        for i in 1..5 {
            let mut t = self.channels(node, i, c)?;
            if let Form::Flat(sizes) = x.form {
                t.values = channels_last(&t.values, sizes);
            }
            all.push(t);
        }
        let [gamma, beta, mean, var]: [HostTensor; 4] = all.try_into().expect("four of them");
        if let Some(v) = var.values.iter().find(|v| **v < 0.0) {
            return Err(format!("'{}' holds a negative variance ({v})", node.input[4]));
        }
        let kind = NodeKind::BatchNorm {
            gamma: Some(self.param(&node.input[1], &[c], gamma)?),
            beta: Some(self.param(&node.input[2], &[c], beta)?),
            mean: self.buffer(&node.input[3], mean)?,
            var: self.buffer(&node.input[4], var)?,
            eps,
        };
        Ok(Flow { node: self.push(label(node), "", kind, &[x.node])?, form: x.form })
    }

    pub(super) fn gemm(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        attributes.only("transA", 0)?;
        for name in ["alpha", "beta"] {
            let v = attributes.float(name, 1.0);
            if v != 1.0 && (name == "alpha" || self.has(node, 2)) {
                return Err(format!("{name} = {v} is not supported, only 1"));
            }
        }
        let bias = if self.has(node, 2) { Some(self.floats(node, 2)?) } else { None };
        self.linear(node, attributes.int("transB", 0) == 0, bias)
    }

    pub(super) fn mat_mul(&mut self, node: &NodeProto) -> Outcome<Flow> {
        self.linear(node, true, None)
    }

    /// `turned`: the weight is `[c, k]`.
    fn linear(&mut self, node: &NodeProto, turned: bool, bias: Option<HostTensor>) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        if !matches!(x.form, Form::Rows | Form::Flat(_)) {
            return Err("its input is no row per image; flatten it before".into());
        }
        let c = self.shapes[x.node][1];
        let mut weight = self.floats(node, 1)?;
        let &[rows, columns] = &weight.shape[..] else {
            return Err(format!("its weight has shape {:?}; two dimensions are expected", weight.shape));
        };
        let (k, width) = if turned { (columns, rows) } else { (rows, columns) };
        if width != c {
            return Err(format!("its weight of shape {:?} does not fit {c} inputs", weight.shape));
        }
        if turned {
            weight.values = (0..k * c).map(|i| weight.values[i % c * k + i / c]).collect();
        }
        if let Form::Flat(sizes) = x.form {
            weight.values = weight.values.chunks_exact(c).flat_map(|row| channels_last(row, sizes)).collect();
        }
        weight.shape = vec![k, c];
        let bias = bias.map(|b| row_of(b, k)).transpose()?;
        let weight = self.param(&node.input[1], &[k, c], weight)?;
        let bias = bias.map(|b| self.param(&node.input[2], &[k], b)).transpose()?;
        let kind = NodeKind::Linear { weight, bias, quant: None };
        Ok(Flow { node: self.push(label(node), "", kind, &[x.node])?, form: Form::Rows })
    }

    /// Of two activations; or of a matrix product and its bias.
    pub(super) fn add(&mut self, node: &NodeProto) -> Outcome<Flow> {
        if node.input.len() != 2 {
            return Err(format!("{} inputs are not supported, two are", node.input.len()));
        }
        for (i, other) in [(0, 1), (1, 0)] {
            if let (Value::Flow(x), Value::Constant(_)) = (self.value(node, i)?, self.value(node, other)?) {
                return self.bias(node, *x, i, other);
            }
        }
        let (a, b) = (self.flow(node, 0)?, self.flow(node, 1)?);
        let [s, t] = [a, b].map(|x| self.shapes[x.node]);
        if s != t || a.form != b.form {
            return Err(format!("{s} and {t} differ in shape; sums of equal shapes are supported"));
        }
        Ok(Flow { node: self.push(label(node), "", NodeKind::Add, &[a.node, b.node])?, form: a.form })
    }

    fn bias(&mut self, node: &NodeProto, x: Flow, i: usize, other: usize) -> Outcome<Flow> {
        let alone = self.readers(node, i) == 1;
        let fits = matches!(self.graph.nodes[x.node].kind, NodeKind::Linear { bias: None, .. });
        if !(alone && fits) {
            return Err("a constant is added, which is supported right behind MatMul only".into());
        }
        let k = self.shapes[x.node][1];
        let values = row_of(self.floats(node, other)?, k)?;
        let name = self.param(&node.input[other], &[k], values)?;
        let NodeKind::Linear { bias, .. } = &mut self.graph.nodes[x.node].kind else { unreachable!("checked") };
        *bias = Some(name);
        Ok(x)
    }

    /// Of channels.
    pub(super) fn concat(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let all: Vec<Flow> = (0..node.input.len()).map(|i| self.flow(node, i)).collect::<Outcome<_>>()?;
        let form = all.first().ok_or("has no inputs")?.form;
        if matches!(form, Form::Flat(_)) || all.iter().any(|x| x.form != form) {
            return Err("joins flattened maps, or values of different ranks, which is not supported".into());
        }
        let rank = if form == Form::Rows { 2 } else { 4 };
        let axis = Attributes(node).int("axis", 0);
        if axis != 1 && axis != 1 - rank {
            return Err(format!("axis = {axis} is not supported: channels (1) are"));
        }
        let inputs: Vec<NodeId> = all.iter().map(|x| x.node).collect();
        Ok(Flow { node: self.push(label(node), "", NodeKind::Concat, &inputs)?, form })
    }

    pub(super) fn activation(&mut self, node: &NodeProto, kind: Activation) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        Ok(Flow { node: self.push(label(node), "", NodeKind::Activation(kind), &[x.node])?, form: x.form })
    }

    /// ReLU, or ReLU6.
    pub(super) fn clip(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let end = |i: usize, name: &str, open: f32| -> Outcome<f32> {
            if self.opset < 11 {
                return Ok(Attributes(node).float(name, open));
            }
            if !self.has(node, i) {
                return Ok(open);
            }
            match self.floats(node, i)?.values[..] {
                [v] => Ok(v),
                _ => Err(format!("input {i} is not one number")),
            }
        };
        let (low, high) = (end(1, "min", f32::MIN)?, end(2, "max", f32::MAX)?);
        match (low, high) {
            (0.0, f32::MAX..) => self.activation(node, Activation::Relu),
            (0.0, 6.0) => self.activation(node, Activation::RELU6),
            _ => Err(format!("to {low} .. {high} is not supported: from 0, or from 0 to 6, are (ReLU and ReLU6)")),
        }
    }
}

/// A bias of `k` values: `[k]`, `[1, k]`, or one value for all.
fn row_of(t: HostTensor, k: usize) -> Outcome<HostTensor> {
    let rest = &t.shape[..t.shape.len().saturating_sub(1)];
    match (t.values.len(), t.shape.last()) {
        (n, Some(&last)) if n == k && last == k && rest.iter().all(|d| *d == 1) => {
            Ok(HostTensor { shape: vec![k], values: t.values })
        }
        (1, _) => Ok(HostTensor { shape: vec![k], values: vec![t.values[0]; k] }),
        _ => Err(format!("its bias has shape {:?}, expected [{k}]", t.shape)),
    }
}

/// Values of a flattened map `c h w` in the order `h w c`.
fn channels_last(values: &[f32], [h, w, c]: [usize; 3]) -> Vec<f32> {
    (0..h * w * c).map(|i| values[i % c * h * w + i / c]).collect()
}
