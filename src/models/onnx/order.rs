//! Which nodes the output depends on, in an order in which each comes behind what it reads. Files are not trusted to be in
//! such an order.

use super::Outcome;
use crate::tensor::onnx::{GraphProto, NodeProto};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// Nodes in the file, at most.
const MAX_NODES: usize = 20_000;

pub struct Order {
    /// Indices of nodes; as in the file where that is possible.
    pub values: Vec<usize>,
    /// Indices of nodes behind which values are only seen otherwise on their way to an output: Softmax is left out there.
    pub last: HashSet<usize>,
}

/// Operators that may stand between Softmax and the output.
const BEHIND: [&str; 9] =
    ["Cast", "Dropout", "Flatten", "Identity", "LogSoftmax", "Reshape", "Softmax", "Squeeze", "Unsqueeze"];

/// How errors call a node.
pub fn label(node: &NodeProto) -> &str {
    if node.name.is_empty() { node.output.first().map_or("(unnamed)", |o| &o[..]) } else { &node.name }
}

impl Order {
    /// The nodes that `outputs` depend on.
    pub fn new(file: &GraphProto, input: &str, outputs: &[&str]) -> Outcome<Self> {
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
        let mut last = HashSet::new();
        let mut open = Vec::new();
        for output in outputs {
            let Some(&from) = maker.get(output) else {
                return Err(format!("output '{output}' is computed by no node"));
            };
            open.push(from);
            let mut at = Some(from);
            while let Some(i) = at.filter(|&i| BEHIND.contains(&&file.node[i].op_type[..]) && last.insert(i)) {
                at = file.node[i].input.first().and_then(|name| maker.get(&name[..])).copied();
            }
        }
        let mut needed = vec![false; file.node.len()];
        let mut readers = vec![Vec::new(); file.node.len()];
        let mut waits_for = vec![0; file.node.len()];
        open.iter().for_each(|&i| needed[i] = true);
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
            None => Ok(Self { values, last }),
        }
    }
}
