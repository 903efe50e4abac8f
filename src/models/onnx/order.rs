//! Which nodes the output depends on, in an order in which each comes behind what it reads. Files are not trusted to be in
//! such an order.

use super::Outcome;
use crate::tensor::onnx::{GraphProto, NodeProto};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// Nodes in the file, at most.
const MAX_NODES: usize = 20_000;

pub struct Order<'a> {
    /// Indices of nodes; as in the file where that is possible.
    pub values: Vec<usize>,
    /// The value that is the logits: the file's output without Softmax and Identity at its end.
    pub output: &'a str,
}

/// How errors call a node.
pub fn label(node: &NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().map_or("(unnamed)", |o| &o[..]) } else { &node.name }
}

impl<'a> Order<'a> {
    pub fn new(file: &'a GraphProto, input: &'a str, output: &'a str) -> Outcome<Self> {
        if file.node.len() > MAX_NODES {
            return Err(format!("has {} nodes; at most {MAX_NODES} are read", file.node.len()));
        }
        let mut constants = HashSet::new();
        if let Some(twice) = file.initializer.iter().find(|t| !constants.insert(&t.name[..])) {
            return Err(format!("initializer '{}' appears twice", twice.name));
        }
        let mut maker: HashMap<&str, usize> = HashMap::new();
        for (i, node) in file.node.iter().enumerate() {
            for value in node.output.iter().filter(|o| !o.is_empty()) {
                if maker.insert(value, i).is_some() || constants.contains(&value[..]) || value == input {
                    return Err(format!("value '{value}' is defined twice, again by node '{}'", label(node)));
                }
            }
        }
        // Softmax changes no order of classes; training and distillation want what goes into it.
        let mut logits = output;
        for _ in 0..file.node.len() {
            match maker.get(logits).map(|&i| &file.node[i]) {
                Some(n) if ["Softmax", "LogSoftmax", "Identity"].contains(&&n.op_type[..]) && !n.input.is_empty() => {
                    logits = &n.input[0];
                }
                _ => break,
            }
        }
        let Some(&last) = maker.get(logits) else {
            return Err(format!("output '{logits}' is computed by no node"));
        };
        let mut needed = vec![false; file.node.len()];
        let (mut open, mut readers) = (vec![last], vec![Vec::new(); file.node.len()]);
        let mut waits_for = vec![0; file.node.len()];
        needed[last] = true;
        while let Some(i) = open.pop() {
            for value in file.node[i].input.iter().filter(|v| !v.is_empty()) {
                let Some(&from) = maker.get(&value[..]) else {
                    if value == input || constants.contains(&value[..]) {
                        continue;
                    }
                    return Err(format!("node '{}' reads '{value}', which nothing defines", label(&file.node[i])));
                };
                readers[from].push(i);
                waits_for[i] += 1;
                if !std::mem::replace(&mut needed[from], true) {
                    open.push(from);
                }
            }
        }
        let ready = |waits_for: &[usize], i: usize| needed[i] && waits_for[i] == 0;
        let mut next: BinaryHeap<Reverse<usize>> =
            (0..file.node.len()).filter(|&i| ready(&waits_for, i)).map(Reverse).collect();
        let mut values = Vec::new();
        while let Some(Reverse(i)) = next.pop() {
            values.push(i);
            for &reader in &readers[i] {
                waits_for[reader] -= 1;
                if ready(&waits_for, reader) {
                    next.push(Reverse(reader));
                }
            }
        }
        match (0..file.node.len()).find(|&i| needed[i] && waits_for[i] > 0) {
            Some(i) => Err(format!("node '{}' depends on its own output: the graph has a cycle", label(&file.node[i]))),
            None => Ok(Self { values, output: logits }),
        }
    }
}
