//! The graph under construction, and what is known of the file's values.

use super::constant;
use super::emit;
use super::external::Folder;
use super::faults::Faults;
use super::host::{Budget, Host, Kind, Values};
use super::layout::Layout;
use super::names::Names;
use super::order::label;
use super::storing::Limits;
use super::{MAX_VALUE, Outcome};
use crate::graph::{Graph, InputKind, NodeId, NodeKind};
use crate::tensor::Shape;
use crate::tensor::io::{Checkpoint, HostTensor};
use crate::tensor::onnx::{GraphProto, NodeProto, TensorProto};
use std::collections::HashMap;
use std::rc::Rc;

/// Constants of more values than this are dropped when the last node that reads them is done.
const SMALL: usize = 1 << 10;

/// Padding of height and width that the next node takes in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Padding {
    /// The file's axes that are height and width.
    pub axes: [usize; 2],
    /// On top, left, bottom and right.
    pub sides: [usize; 4],
    /// Whether it is of the lowest number there is instead of 0.
    pub lowest: bool,
}

/// An activation.
#[derive(Clone, Debug)]
pub struct Flow {
    pub node: NodeId,
    pub layout: Layout,
    /// Padding that the file asks for and our node does not have yet.
    pub pad: Option<Padding>,
    /// Whether other values are views of the same node.
    pub shared: bool,
}

impl Flow {
    pub fn new(node: NodeId, layout: Layout) -> Self {
        Self { node, layout, pad: None, shared: false }
    }
}

/// A constant of the file, or one that was computed from others.
#[derive(Clone)]
pub enum Held<'a> {
    File(&'a TensorProto),
    Made(Rc<Host>),
}

/// A value of the file.
#[derive(Clone)]
pub enum Value<'a> {
    Constant(Held<'a>),
    Flow(Flow),
    Sequence(Vec<Value<'a>>),
    /// Made by a node that is not supported, or behind one.
    Missing,
}

pub struct Build<'a> {
    pub graph: Graph,
    pub opset: i64,
    /// Batch size of the file's input, if it is fixed.
    pub batch: Option<i64>,
    /// Shape of each node's output for one sample.
    pub shapes: Vec<Shape>,
    /// Whether a node's output is never below 0.
    pub nonnegative: Vec<bool>,
    pub budget: Budget,
    pub faults: Faults<'a>,
    pub(super) values: HashMap<&'a str, Value<'a>>,
    pub(super) weights: Checkpoint,
    pub(super) names: Names,
    file: &'a GraphProto,
    folder: Option<&'a Folder>,
    /// Which node makes a value.
    maker: HashMap<&'a str, usize>,
    /// How many nodes read each value, besides those that ask for its shape only.
    readers: HashMap<&'a str, usize>,
    /// How many nodes have still to read each value.
    waiting: HashMap<&'a str, usize>,
    pub(super) limits: Limits,
}

impl<'a> Build<'a> {
    pub fn new(name: &str, opset: i64, file: &'a GraphProto, folder: Option<&'a Folder>, limits: Limits) -> Self {
        let mut names = Names::new();
        let (mut readers, mut waiting): (HashMap<&str, usize>, HashMap<&str, usize>) = Default::default();
        for node in &file.node {
            let shape_only = ["Shape", "Size"].contains(&&node.op_type[..]);
            for value in &node.input {
                *waiting.entry(value).or_insert(0) += 1;
                if !shape_only {
                    *readers.entry(value).or_insert(0) += 1;
                }
            }
        }
        for output in &file.output {
            *readers.entry(&output.name).or_insert(0) += 1;
        }
        let outputs = |(i, n): (usize, &'a NodeProto)| n.output.iter().map(move |o| (&o[..], i));
        let constants = file.initializer.iter().map(|t| (&t.name[..], Value::Constant(Held::File(t))));
        Self {
            graph: Graph::new(names.take(name), 0),
            opset,
            batch: None,
            shapes: Vec::new(),
            nonnegative: Vec::new(),
            budget: Budget::new(limits.evaluated),
            faults: Faults::default(),
            values: constants.collect(),
            weights: Checkpoint::default(),
            names,
            file,
            folder,
            maker: file.node.iter().enumerate().flat_map(outputs).collect(),
            readers,
            waiting,
            limits,
        }
    }

    /// Images of `[h, w, c]`, which lie as `layout` says; `batch`: how many, if that is fixed.
    pub fn input(&mut self, name: &'a str, sample: [usize; 3], layout: Layout, batch: Option<i64>) {
        self.batch = batch;
        let own = self.names.take(name);
        let node = self.graph.input(own, InputKind::Real(sample.to_vec()));
        self.shapes.push(Shape::new(&[&[1], &sample[..]].concat()));
        self.nonnegative.push(false);
        self.values.insert(name, Value::Flow(Flow::new(node, layout)));
    }

    /// Takes in one node of the file, whose inputs are known; `last`: only other views of its output follow. What is wrong with
    /// it is noted.
    pub fn node(&mut self, node: &'a NodeProto, last: bool) {
        let missing = |name: &String| matches!(self.values.get(&name[..]), Some(Value::Missing));
        let values = if node.input.iter().any(missing) {
            // Parts of a function that is understood as a whole may be missing.
            match self.by_parts(node) {
                Ok(Some(flow)) => vec![Value::Flow(flow)],
                Ok(None) => {
                    self.faults.behind(node);
                    Vec::new()
                }
                Err(e) => {
                    self.faults.wrong(node, e);
                    Vec::new()
                }
            }
        } else {
            self.outputs_of(node, last).unwrap_or_else(|e| {
                self.faults.wrong(node, e);
                Vec::new()
            })
        };
        let failed = values.is_empty();
        for (i, name) in node.output.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
            match values.get(i) {
                Some(value) => self.values.insert(name, value.clone()),
                None if failed => self.values.insert(name, Value::Missing),
                None => None,
            };
        }
        for name in &node.input {
            let Some(left) = self.waiting.get_mut(&name[..]) else { continue };
            *left -= 1;
            let held = |v: &Value| matches!(v, Value::Constant(Held::Made(t)) if t.held() > SMALL);
            if *left == 0 && self.values.get(&name[..]).is_some_and(held) {
                self.values.remove(&name[..]);
            }
        }
    }

    /// Says why `outputs` cannot be computed.
    pub fn report(&self, outputs: &[&str]) -> String {
        let mut open: Vec<&str> = outputs.to_vec();
        let mut seen = vec![false; self.file.node.len()];
        while let Some(name) = open.pop() {
            let missing = matches!(self.values.get(name), Some(Value::Missing));
            if let Some(&i) = self.maker.get(name).filter(|&&i| missing && !seen[i]) {
                seen[i] = true;
                open.extend(self.file.node[i].input.iter().map(|n| &n[..]));
            }
        }
        let counted = self.file.node.iter().zip(&seen).filter(|(_, seen)| **seen);
        self.faults.report(&counted.map(|(n, _)| std::ptr::from_ref(n)).collect())
    }

    /// The node that makes value `name`.
    pub fn made_by(&self, name: &str) -> Option<&'a NodeProto> {
        self.maker.get(name).map(|&i| &self.file.node[i])
    }

    /// The value called `name`.
    pub fn named(&self, name: &str) -> Option<&Value<'a>> {
        self.values.get(name)
    }

    /// Returns the `i`-th input of `node`.
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

    /// Whether nothing else reads the `i`-th input of `node`, which is `flow`.
    pub fn alone(&self, node: &NodeProto, i: usize, flow: &Flow) -> bool {
        !flow.shared && self.readers.get(&node.input[i][..]) == Some(&1)
    }

    /// The `i`-th input, an activation as it is.
    pub fn raw_flow(&self, node: &NodeProto, i: usize) -> Outcome<Flow> {
        match self.value(node, i)? {
            Value::Flow(flow) => {
                let shared = flow.shared || self.readers.get(&node.input[i][..]).is_some_and(|n| *n > 1);
                Ok(Flow { shared, ..flow.clone() })
            }
            _ => Err(format!("input {i} is no activation")),
        }
    }

    /// Whether the `i`-th input is constant.
    pub fn is_constant(&self, node: &NodeProto, i: usize) -> bool {
        matches!(self.value(node, i), Ok(Value::Constant(_)))
    }

    /// The `i`-th input, a constant.
    pub fn host(&self, node: &NodeProto, i: usize) -> Outcome<Rc<Host>> {
        match self.value(node, i)? {
            Value::Constant(held) => self.decoded(held),
            _ => Err(format!("input {i} ('{}') is computed from the image; a constant is supported", node.input[i])),
        }
    }

    pub fn decoded(&self, held: &Held) -> Outcome<Rc<Host>> {
        match held {
            Held::File(t) => constant::decode(t, self.folder).map(Rc::new),
            Held::Made(t) => Ok(t.clone()),
        }
    }

    /// The `i`-th input, floats of which none is repeated.
    pub fn floats(&mut self, node: &NodeProto, i: usize) -> Outcome<HostTensor> {
        if let Value::Constant(Held::File(t)) = self.value(node, i)? {
            if !Kind::of(t.data_type).is_ok_and(Kind::is_float) {
                let known = "f32 (1), f16 (10), f64 (11) or bf16 (16)";
                return Err(format!("constant '{}' is of type {}; {known} are expected", t.name, t.data_type));
            }
        }
        let t = self.host(node, i)?;
        let n = t.elements()?;
        let Values::Floats(values) = &t.values else {
            return Err(format!("input {i} ('{}') is of integers; floats are expected", node.input[i]));
        };
        if n == 0 {
            return Err(format!(
                "input {i} ('{}') has shape {:?}; dimensions above 0 are expected",
                node.input[i], t.dims
            ));
        }
        if values.len() == n {
            let values = Rc::try_unwrap(t).map(|t| t.values).unwrap_or_else(|t| t.values.clone());
            let Values::Floats(values) = values else { return Err("is no float".into()) };
            return Ok(HostTensor { shape: self.dims(node, i)?, values });
        }
        self.limits.fill(n).map_err(|e| format!("input {i} ('{}') of shape {:?} {e}", node.input[i], t.dims))?;
        Ok(HostTensor { shape: t.dims.clone(), values: vec![values[0]; n] })
    }

    /// Dimensions of the `i`-th input, a constant.
    pub fn dims(&self, node: &NodeProto, i: usize) -> Outcome<Vec<usize>> {
        match self.value(node, i)? {
            Value::Constant(Held::File(t)) => constant::dims(t).map(|(dims, _)| dims),
            Value::Constant(Held::Made(t)) => Ok(t.dims.clone()),
            _ => Err(format!("input {i} ('{}') is computed from the image; a constant is supported", node.input[i])),
        }
    }

    /// The `i`-th input as constant integers.
    pub fn integers(&self, node: &NodeProto, i: usize) -> Outcome<Vec<i64>> {
        self.host(node, i)?.numbers().map_err(|e| format!("input {i} {e}"))
    }

    /// The `i`-th input as one constant number.
    pub fn number(&self, node: &NodeProto, i: usize) -> Outcome<f64> {
        self.host(node, i)?.single().map_err(|e| format!("input {i} {e}"))
    }

    /// Channels of node `id`.
    pub fn channels(&self, id: NodeId) -> usize {
        self.shapes[id].last().copied().unwrap_or(1)
    }

    /// Appends a node called like `node` of the file, or with `suffix` for one that the file has not.
    pub fn push(&mut self, node: &NodeProto, suffix: &str, kind: NodeKind, inputs: &[NodeId]) -> Outcome<NodeId> {
        self.push_named(&format!("{}{suffix}", label(node).trim_start_matches('/')), kind, inputs)
    }

    pub fn push_named(&mut self, name: &str, kind: NodeKind, inputs: &[NodeId]) -> Outcome<NodeId> {
        let name = self.names.take(name);
        let from: Vec<bool> = inputs.iter().map(|&i| self.nonnegative[i]).collect();
        let nonnegative = emit::nonnegative(&kind, &from);
        let id = self.graph.push(name, kind, inputs);
        let shape = match self.graph.shape(id, &self.shapes, 1) {
            Ok(shape) if (1..=MAX_VALUE).contains(&shape.elements()) => shape,
            found => {
                self.graph.nodes.pop();
                return Err(match found {
                    Ok(shape) => format!("its output {shape} is empty or has more than {MAX_VALUE} numbers"),
                    Err(e) => e.to_string(),
                });
            }
        };
        self.shapes.push(shape);
        self.nonnegative.push(nonnegative);
        Ok(id)
    }
}
