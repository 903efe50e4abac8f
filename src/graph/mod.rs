//! A network as data: nodes in topological order, named parameters and buffers. Models build one, passes rewrite one, one
//! executor runs it on the tape. An integer network is the same graph with integer numbers ([`deployed`]). Nothing else in the
//! project knows what a ResNet is.

mod blocks;
pub mod deployed;
mod exec;
mod forward;
mod fused;
mod head;
mod import;
mod network;
pub mod nodes;
pub mod passes;
mod quantized;
mod run;
mod shapes;
mod statistics;
mod store;

pub use blocks::Block;
pub use forward::{BnStatistics, Drop, Forward, Mode, Outputs, RangeMode, STREAMS, Swing, Taps};
pub use head::{Head, HeadForm};
pub use network::{Network, QuantizerInfo};
pub use nodes::{Node, NodeKind, WeightQuant};
pub use run::Run;
pub use store::ParamStore;

use crate::tensor::Shape;
use crate::{Error, Result};
use nodes::{Input, Linear, Outcome};
use passes::Fused;
use std::sync::OnceLock;

/// Index of a node in its graph.
pub type NodeId = usize;

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// Uniform in `[-bound, bound)`.
    Uniform {
        bound: f32,
    },
    Normal {
        std: f32,
    },
}

/// A trainable tensor.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    pub name: String,
    pub shape: Shape,
    pub init: Init,
}

/// A tensor that is state, not trained (running statistics).
#[derive(Clone, Debug)]
pub struct BufferSpec {
    pub name: String,
    pub shape: Shape,
    pub value: f32,
}

/// What an input of the network is.
#[derive(Clone, Debug, PartialEq)]
pub enum InputKind {
    /// f32 with this per-sample shape.
    Real(Vec<usize>),
    /// One I32 label per sample, in `0..classes`.
    Label { classes: usize },
}

/// A network: structure only. Values live in [`Network`].
#[derive(Debug)]
pub struct Graph {
    pub name: String,
    pub inputs: Vec<InputKind>,
    pub nodes: Vec<Node>,
    pub params: Vec<ParamSpec>,
    pub buffers: Vec<BufferSpec>,
    /// The last node is the output.
    pub classes: usize,
    fused: OnceLock<Fused>,
}

/// A copy finds its fused layers anew, since its nodes may be changed.
impl Clone for Graph {
    fn clone(&self) -> Self {
        Self {
            name: self.name.clone(),
            inputs: self.inputs.clone(),
            nodes: self.nodes.clone(),
            params: self.params.clone(),
            buffers: self.buffers.clone(),
            classes: self.classes,
            fused: OnceLock::new(),
        }
    }
}

impl Graph {
    pub fn new(name: impl Into<String>, classes: usize) -> Self {
        Self {
            name: name.into(),
            inputs: Vec::new(),
            nodes: Vec::new(),
            params: Vec::new(),
            buffers: Vec::new(),
            classes,
            fused: OnceLock::new(),
        }
    }

    /// Returns a graph of the same name, inputs, parameters and buffers without nodes, for a pass to fill.
    pub(crate) fn without_nodes(&self) -> Self {
        Self { nodes: Vec::new(), fused: OnceLock::new(), ..self.clone() }
    }

    /// Returns the fused layers of the finished graph. They are found once.
    pub fn fused(&self) -> &Fused {
        self.fused.get_or_init(|| Fused::of(self))
    }

    /// The smallest network that can be quantized, to check settings without a real one.
    pub(crate) fn probe() -> Self {
        let mut g = Self::new("probe", 2);
        let x = g.input("x", InputKind::Real(vec![2]));
        let weight = g.param("weight", &[2, 2], Init::Zeros);
        g.push("linear", Linear { weight, bias: None, quant: None }, &[x]);
        g
    }

    /// Appends a node; its inputs must exist already, which keeps the order topological.
    pub fn push(&mut self, name: impl Into<String>, kind: impl Into<NodeKind>, inputs: &[NodeId]) -> NodeId {
        assert!(inputs.iter().all(|&i| i < self.nodes.len()), "a node's inputs come before it");
        self.fused.take();
        self.nodes.push(Node { name: name.into(), kind: kind.into(), inputs: inputs.to_vec() });
        self.nodes.len() - 1
    }

    /// Appends an input node.
    pub fn input(&mut self, name: impl Into<String>, kind: InputKind) -> NodeId {
        self.inputs.push(kind);
        let index = self.inputs.len() - 1;
        self.push(name, Input { index }, &[])
    }

    /// Buffers `(mean, var)` of every batch norm, fused ones included, in order.
    pub fn running_statistics(&self) -> Vec<(&String, &String)> {
        self.nodes.iter().filter_map(|n| n.kind.batch_norm()).map(|norm| (&norm.mean, &norm.var)).collect()
    }

    /// Declares a parameter and returns its name.
    pub fn param(&mut self, name: impl Into<String>, shape: &[usize], init: Init) -> String {
        let name = name.into();
        self.params.push(ParamSpec { name: name.clone(), shape: shape.into(), init });
        name
    }

    /// Declares a buffer and returns its name.
    pub fn buffer(&mut self, name: impl Into<String>, shape: &[usize], value: f32) -> String {
        let name = name.into();
        self.buffers.push(BufferSpec { name: name.clone(), shape: shape.into(), value });
        name
    }

    /// Node of that name, or an error naming the graph and the closest node.
    pub fn node(&self, name: &str) -> Result<NodeId> {
        self.nodes
            .iter()
            .position(|n| n.name == name)
            .ok_or_else(|| Error::network(&self.name, format!("no node '{name}'; see `ghostbit inspect`")))
    }

    /// Returns the shape of a parameter or buffer.
    pub fn tensor(&self, name: &str) -> Outcome<Shape> {
        let param = self.params.iter().rev().find(|p| p.name == name).map(|p| p.shape);
        let found = param.or_else(|| self.buffers.iter().rev().find(|b| b.name == name).map(|b| b.shape));
        found.ok_or_else(|| format!("unknown parameter '{name}'"))
    }

    /// Returns whether a convolution or linear layer reads node `id`, directly or behind nodes that only move codes.
    pub fn feeds_layer(&self, id: NodeId) -> bool {
        self.nodes.iter().enumerate().skip(id + 1).any(|(reader, n)| {
            let layer = n.kind.layer().is_some();
            n.inputs.first() == Some(&id) && (layer || n.kind.moves_codes() && self.feeds_layer(reader))
        })
    }

    /// Returns whether a quantized layer reads node `id`, directly or behind nodes that only move codes. Then the codes of a
    /// quantizer there are of use.
    pub fn computes_with_codes(&self, id: NodeId) -> bool {
        self.nodes.iter().enumerate().skip(id + 1).any(|(reader, n)| {
            let quantized = n.kind.weight_bits().is_some();
            n.inputs.first() == Some(&id) && (quantized || n.kind.moves_codes() && self.computes_with_codes(reader))
        })
    }
}
