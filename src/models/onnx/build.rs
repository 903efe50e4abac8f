//! The graph under construction, and what is known of the file's values.

use super::attributes::Attributes;
use super::names::Names;
use super::order::label;
use super::sizes::Sizes;
use super::{MAX_CLASSES, MAX_VALUE, Outcome, constant};
use crate::graph::nodes::{Reshape, ShortcutA};
use crate::graph::{Graph, Init, InputKind, NodeId, NodeKind};
use crate::ops::activation::Activation;
use crate::tensor::Shape;
use crate::tensor::io::{Checkpoint, HostTensor};
use crate::tensor::onnx::{GraphProto, NodeProto, TensorProto};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// How the values of a node of ours lie as the file sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Ours `n h w c`, theirs `n c h w`.
    Map,
    /// Every so many rows and columns of a map, which is not subsampled yet.
    Sliced([usize; 2]),
    /// Ours `n c`, theirs `n c 1 1`.
    Pooled,
    /// `n c` in both.
    Rows,
    /// A flattened map `[h, w, c]`: ours in this order, theirs `c h w`.
    Flat([usize; 3]),
}

/// An activation.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub node: NodeId,
    pub form: Form,
}

/// A value of the file.
#[derive(Clone)]
pub enum Value<'a> {
    Constant(Cow<'a, TensorProto>),
    /// Integers: a shape, or numbers of one.
    Sizes(Sizes),
    Flow(Flow),
}

pub struct Build<'a> {
    pub graph: Graph,
    pub opset: i64,
    /// Of the file's input, if it is fixed.
    pub batch: Option<i64>,
    /// Of one sample, by node.
    pub shapes: Vec<Shape>,
    weights: Checkpoint,
    names: Names,
    values: HashMap<&'a str, Value<'a>>,
    /// How many nodes read each value.
    readers: HashMap<&'a str, usize>,
    /// Numbers that parameters may still have: constants that many nodes share are copied.
    budget: usize,
}

impl<'a> Build<'a> {
    pub fn new(name: &str, opset: i64, batch: Option<i64>, budget: usize, file: &'a GraphProto) -> Self {
        let mut names = Names::new();
        let mut readers: HashMap<&str, usize> = HashMap::new();
        for value in file.node.iter().flat_map(|n| &n.input).chain(file.output.iter().map(|o| &o.name)) {
            *readers.entry(value).or_insert(0) += 1;
        }
        let constants = file.initializer.iter().map(|t| (&t.name[..], Value::Constant(Cow::Borrowed(t))));
        Self {
            graph: Graph::new(names.take(name), 0),
            opset,
            batch,
            shapes: Vec::new(),
            weights: Checkpoint::default(),
            names,
            values: constants.collect(),
            readers,
            budget,
        }
    }

    pub fn input(&mut self, name: &'a str, sample: [usize; 3]) {
        let own = self.names.take(name);
        let node = self.graph.input(own, InputKind::Real(sample.to_vec()));
        self.shapes.push(Shape::new(&[&[1], &sample[..]].concat()));
        self.values.insert(name, Value::Flow(Flow { node, form: Form::Map }));
    }

    /// Takes in one node of the file, whose inputs are known.
    pub fn node(&mut self, node: &'a NodeProto) -> Outcome<()> {
        let wrong = |e: String| format!("node '{}' ({}): {e}", label(node), node.op_type);
        let value = self.value_of(node).map_err(wrong)?;
        if let Some(name) = node.output.first() {
            self.values.insert(name, value);
        }
        Ok(())
    }

    fn value_of(&mut self, node: &'a NodeProto) -> Outcome<Value<'a>> {
        if !["", "ai.onnx"].contains(&&node.domain[..]) {
            return Err(format!("operators of '{}' are not supported", node.domain));
        }
        if let Some(value) = self.sizes(node)? {
            return Ok(value);
        }
        let flow = match &node.op_type[..] {
            "Constant" => return constant_value(node),
            // In inference, Dropout does nothing.
            "Identity" | "Dropout" => return self.value(node, 0).cloned(),
            "Cast" => {
                // To f32, which activations are.
                Attributes(node).only("to", 1)?;
                self.flow(node, 0)?
            }
            "Conv" => self.conv(node)?,
            "BatchNormalization" => self.batch_norm(node)?,
            "Gemm" => self.gemm(node)?,
            "MatMul" => self.mat_mul(node)?,
            "Add" | "Sum" => self.add(node)?,
            "Concat" => self.concat(node)?,
            "Relu" => self.activation(node, Activation::Relu)?,
            "LeakyRelu" => match Attributes(node).float("alpha", 0.01) {
                0.0 => self.activation(node, Activation::Relu)?,
                slope if slope.is_finite() && slope > 0.0 => self.activation(node, Activation::LeakyRelu(slope))?,
                slope => return Err(format!("alpha = {slope} is not above 0")),
            },
            "Tanh" => self.activation(node, Activation::Tanh)?,
            "Clip" => self.clip(node)?,
            "GlobalAveragePool" => self.global_average(node)?,
            "ReduceMean" => self.reduce_mean(node)?,
            "MaxPool" | "AveragePool" => self.pool(node)?,
            "Flatten" => self.flatten(node)?,
            "Reshape" => self.reshape(node)?,
            "Squeeze" => self.squeeze(node)?,
            "Slice" => self.slice(node)?,
            "Pad" => self.pad(node)?,
            "Softmax" | "LogSoftmax" => return Err("is supported behind the logits only, where it is left out".into()),
            _ => return Err(format!("is not supported; supported are {SUPPORTED}")),
        };
        Ok(Value::Flow(flow))
    }

    /// What the `i`-th input of `node` is.
    pub fn value(&self, node: &NodeProto, i: usize) -> Outcome<&Value<'a>> {
        match node.input.get(i).filter(|n| !n.is_empty()) {
            Some(name) => self
                .values
                .get(&name[..])
                .ok_or_else(|| format!("reads '{name}', an output of another node that is not computed in inference")),
            None => Err(format!("has no input {i}")),
        }
    }

    /// Whether `node` has an `i`-th input.
    pub fn has(&self, node: &NodeProto, i: usize) -> bool {
        node.input.get(i).is_some_and(|n| !n.is_empty())
    }

    /// How many nodes read the `i`-th input of `node`.
    pub fn readers(&self, node: &NodeProto, i: usize) -> usize {
        self.readers.get(&node.input[i][..]).copied().unwrap_or(0)
    }

    /// The `i`-th input, an activation as it is.
    pub fn raw_flow(&self, node: &NodeProto, i: usize) -> Outcome<Flow> {
        match self.value(node, i)? {
            Value::Flow(flow) => Ok(*flow),
            _ => Err(format!("input {i} is no activation")),
        }
    }

    /// The `i`-th input, an activation with values.
    pub fn flow(&mut self, node: &NodeProto, i: usize) -> Outcome<Flow> {
        let flow = self.raw_flow(node, i)?;
        let Form::Sliced([h, w]) = flow.form else { return Ok(flow) };
        if h != w {
            return Err(format!(
                "reads every {h} rows and {w} columns of a map; the same along both axes is supported"
            ));
        }
        let c_out = self.shapes[flow.node][3];
        let node = self.push(label(node), ".slice", ShortcutA { stride: h, c_out }, &[flow.node])?;
        Ok(Flow { node, form: Form::Map })
    }

    /// The `i`-th input as a map `n h w c`, and its sizes `[h, w, c]`.
    pub fn map(&mut self, node: &NodeProto, i: usize) -> Outcome<(NodeId, [usize; 3])> {
        let mut flow = self.flow(node, i)?;
        if flow.form == Form::Pooled {
            let shape = vec![1, 1, self.shapes[flow.node][1]];
            flow.node = self.push(label(node), ".map", Reshape { shape }, &[flow.node])?;
            flow.form = Form::Map;
        }
        match (flow.form, &self.shapes[flow.node][..]) {
            (Form::Map, &[_, h, w, c]) => Ok((flow.node, [h, w, c])),
            _ => Err(format!("input {i} is no map of images (batch, channels, height, width)")),
        }
    }

    /// The `i`-th input, a float constant.
    pub fn floats(&self, node: &NodeProto, i: usize) -> Outcome<HostTensor> {
        match self.value(node, i)? {
            Value::Constant(t) => constant::floats(t),
            _ => Err(format!("input {i} ('{}') is computed; a constant is supported", node.input[i])),
        }
    }

    /// The `i`-th input as constant integers.
    pub fn integers(&self, node: &NodeProto, i: usize) -> Outcome<Vec<i64>> {
        match self.value(node, i)? {
            Value::Constant(t) => constant::integers(t),
            Value::Sizes(sizes) => sizes.numbers().map_err(|e| format!("input {i} {e}")),
            Value::Flow(_) => Err(format!("input {i} is an activation; constants are supported")),
        }
    }

    /// Appends a node called like `name`, or `name` and `suffix` for one that the file has not.
    pub fn push(&mut self, name: &str, suffix: &str, kind: impl Into<NodeKind>, inputs: &[NodeId]) -> Outcome<NodeId> {
        let name = self.names.take(&format!("{}{suffix}", name.trim_start_matches('/')));
        let id = self.graph.push(name, kind, inputs);
        let shape = self.graph.shape(id, &self.shapes, 1).map_err(|e| e.to_string())?;
        if !(1..=MAX_VALUE).contains(&shape.elements()) {
            return Err(format!("its output {shape} is empty or has more than {MAX_VALUE} numbers"));
        }
        self.shapes.push(shape);
        Ok(id)
    }

    /// Declares a parameter of `shape` (ours) with the values of `t` (as checkpoints hold it); its name.
    pub fn param(&mut self, wanted: &str, shape: &[usize], t: HostTensor) -> Outcome<String> {
        let name = self.stored(wanted, t)?;
        Ok(self.graph.param(name, shape, Init::Zeros))
    }

    /// Declares running statistics; their name.
    pub fn buffer(&mut self, wanted: &str, t: HostTensor) -> Outcome<String> {
        let shape = t.shape.clone();
        let name = self.stored(wanted, t)?;
        Ok(self.graph.buffer(name, &shape, 0.0))
    }

    fn stored(&mut self, wanted: &str, t: HostTensor) -> Outcome<String> {
        if let Some(v) = t.values.iter().find(|v| !v.is_finite()) {
            return Err(format!("'{wanted}' holds {v}; weights must be finite"));
        }
        let rest = self.budget.checked_sub(t.values.len());
        self.budget = rest.ok_or("more weights are shared between nodes than can be copied")?;
        let name = self.names.take(wanted);
        self.weights.tensors.insert(name.clone(), t);
        Ok(name)
    }

    /// The graph that computes the logits `output`, and its weights.
    pub fn finish(mut self, output: &str) -> Outcome<(Graph, Checkpoint)> {
        let Some(Value::Flow(flow)) = self.values.get(output).cloned() else {
            return Err(format!("output '{output}' is no activation"));
        };
        let mut last = flow.node;
        let found = self.shapes[last];
        match (flow.form, &found[..]) {
            (Form::Rows | Form::Pooled, _) => {}
            (Form::Map, &[_, 1, 1, c]) => {
                last = self.push("logits", "", Reshape { shape: vec![c] }, &[last])?;
            }
            _ => return Err(format!("output '{output}' is {found} and not a row of logits per image")),
        }
        let classes = self.shapes[last][1];
        if !(2..=MAX_CLASSES).contains(&classes) {
            return Err(format!("output '{output}' has {classes} logits; 2 to {MAX_CLASSES} are possible"));
        }
        self.graph.classes = classes;
        self.keep_for(last);
        if !matches!(self.graph.nodes[0].kind, NodeKind::Input(_)) {
            return Err(format!("output '{output}' does not depend on the input"));
        }
        Ok((self.graph, self.weights))
    }

    /// Drops nodes that `last` does not depend on (a shape was asked of them), and their weights.
    fn keep_for(&mut self, last: NodeId) {
        let mut kept = vec![false; self.graph.nodes.len()];
        kept[last] = true;
        for id in (0..=last).rev() {
            if kept[id] {
                self.graph.nodes[id].inputs.iter().for_each(|&i| kept[i] = true);
            }
        }
        let nodes = std::mem::take(&mut self.graph.nodes);
        let mut moved = vec![NodeId::MAX; nodes.len()];
        for (id, mut node) in nodes.into_iter().enumerate().filter(|(id, _)| kept[*id]) {
            node.inputs.iter_mut().for_each(|i| *i = moved[*i]);
            moved[id] = self.graph.nodes.len();
            self.graph.nodes.push(node);
        }
        let used: HashSet<&String> = self.graph.nodes.iter().flat_map(|n| n.kind.tensors()).collect();
        self.graph.params.retain(|p| used.contains(&p.name));
        self.graph.buffers.retain(|b| used.contains(&b.name));
        self.weights.tensors.retain(|name, _| used.contains(name));
    }
}

const SUPPORTED: &str = "Conv, BatchNormalization, Gemm, MatMul, Relu, LeakyRelu, Tanh, Clip, Add, Sum, Concat, GlobalAveragePool, \
                         AveragePool, MaxPool, ReduceMean, Flatten, Reshape, Squeeze, Slice with Pad, Dropout, Identity, Constant";

fn constant_value(node: &NodeProto) -> Outcome<Value<'_>> {
    let attributes = Attributes(node);
    if let Some(t) = attributes.get("value").and_then(|a| a.t.as_ref()) {
        return Ok(Value::Constant(Cow::Borrowed(t)));
    }
    if let Some(a) = attributes.get("value_int") {
        return Ok(Value::Sizes(Sizes::fixed(&[a.i])));
    }
    if let Some(a) = attributes.get("value_ints") {
        return Ok(Value::Sizes(Sizes::fixed(&a.ints[..a.ints.len().min(16)])));
    }
    let floats = |dims: Vec<i64>, values: Vec<f32>| TensorProto {
        dims,
        data_type: 1,
        float_data: values,
        name: node.output.first().cloned().unwrap_or_default(),
        ..Default::default()
    };
    if let Some(a) = attributes.get("value_float") {
        return Ok(Value::Constant(Cow::Owned(floats(Vec::new(), vec![a.f]))));
    }
    match attributes.get("value_floats") {
        Some(a) => Ok(Value::Constant(Cow::Owned(floats(vec![a.floats.len() as i64], a.floats.clone())))),
        None => Err("holds no tensor and no numbers".into()),
    }
}
