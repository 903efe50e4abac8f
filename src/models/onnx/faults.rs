//! Faults of a file: all operators that are not understood are reported at once.

use super::operators;
use super::order::label;
use crate::tensor::onnx::NodeProto;
use std::collections::HashSet;

/// Operators, and nodes with other faults, that one message names.
const MOST: usize = 12;

/// Faults by node.
#[derive(Default)]
pub struct Faults<'a> {
    all: Vec<(&'a NodeProto, Option<String>)>,
}

impl<'a> Faults<'a> {
    fn put(&mut self, node: &'a NodeProto, detail: Option<String>) {
        self.all.push((node, detail));
    }

    /// Notes what is wrong with `node`.
    pub fn wrong(&mut self, node: &'a NodeProto, detail: String) {
        let known = operators::known(node);
        self.put(node, known.then_some(detail));
    }

    /// Notes a node that reads what another fault left missing.
    pub fn behind(&mut self, node: &'a NodeProto) {
        if !operators::known(node) {
            self.put(node, None);
        }
    }

    /// One message for the faults of the nodes in `counted`.
    pub fn report(&self, counted: &HashSet<*const NodeProto>) -> String {
        let found: Vec<_> = self.all.iter().filter(|(n, _)| counted.contains(&std::ptr::from_ref(*n))).collect();
        let mut unknown: Vec<(String, usize, &NodeProto)> = Vec::new();
        for (node, _) in found.iter().filter(|(_, d)| d.is_none()) {
            let op = operators::full_name(node);
            match unknown.iter_mut().find(|(o, ..)| *o == op) {
                Some((_, n, _)) => *n += 1,
                None => unknown.push((op, 1, node)),
            }
        }
        let mut lines: Vec<String> = Vec::new();
        if !unknown.is_empty() {
            let each = |(op, n, first): &(String, usize, &NodeProto)| {
                let why = operators::reason(first).map_or(String::new(), |r| format!("; {r}"));
                let times = if *n == 1 {
                    format!("node '{}'", label(first))
                } else {
                    format!("{n} nodes, first '{}'", label(first))
                };
                format!("{op} ({times}{why})")
            };
            let list: Vec<String> = unknown.iter().take(MOST).map(each).collect();
            let more = if unknown.len() > MOST { format!(" and {} more", unknown.len() - MOST) } else { String::new() };
            let (s, are) = if unknown.len() == 1 { ("", "is") } else { ("s", "are") };
            lines.push(format!(
                "operator{s} {}{more} {are} not supported; supported are {}. Replace such layers before the export, with either \
                 of PyTorch's exporters",
                list.join(", "),
                operators::listed()
            ));
        }
        let others: Vec<String> = found
            .iter()
            .filter_map(|(n, d)| d.as_ref().map(|d| format!("node '{}' ({}): {d}", label(n), n.op_type)))
            .collect();
        let more = others.len().saturating_sub(MOST);
        lines.extend(others.into_iter().take(MOST));
        if more > 0 {
            lines.push(format!("and {more} more nodes"));
        }
        lines.join("; ")
    }
}
