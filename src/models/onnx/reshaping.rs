//! Operators that change how the file sees a value and not the value: reshaping, transposing, flattening.

use super::Outcome;
use super::attributes::Attributes;
use super::build::{Build, Flow, Padding};
use super::fold::permutation;
use super::host::{axes, axis};
use crate::tensor::onnx::NodeProto;

impl Build<'_> {
    pub(super) fn flatten(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let (at, rank) = (Attributes(node).int("axis", 1), x.layout.rank());
        let at = if at == rank as i64 { rank } else { axis(at, rank)? };
        Ok(Flow { layout: x.layout.flattened(at), ..x })
    }

    pub(super) fn reshape(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let zero = Attributes(node).int("allowzero", 0) != 0;
        let wanted = match Attributes(node).ints("shape") {
            Some(list) => super::host::Host::fixed(list).sizes()?,
            None => self.host(node, 1)?.sizes()?,
        };
        Ok(Flow { layout: x.layout.reshaped(&wanted, zero, self.batch)?, ..x })
    }

    fn axes_of(&self, node: &NodeProto) -> Outcome<Option<Vec<i64>>> {
        match Attributes(node).ints("axes") {
            Some(list) => Ok(Some(list.to_vec())),
            None if self.has(node, 1) => self.integers(node, 1).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn squeeze(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let gone = match self.axes_of(node)? {
            Some(list) => axes(&list, x.layout.rank())?,
            None => (0..x.layout.rank()).filter(|&i| x.layout.0[i].is_empty()).collect(),
        };
        Ok(Flow { layout: x.layout.squeezed(&gone)?, ..x })
    }

    pub(super) fn unsqueeze(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let list = self.axes_of(node)?.ok_or("has no axes")?;
        let new = axes(&list, x.layout.rank() + list.len().min(8))?;
        Ok(Flow { layout: x.layout.unsqueezed(&new)?, ..x })
    }

    pub(super) fn transpose(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.raw_flow(node, 0)?;
        let perm = permutation(Attributes(node).ints("perm"), x.layout.rank())?;
        let moved = |axis: usize| perm.iter().position(|&p| p == axis).unwrap_or(axis);
        let pad = x.pad.map(|p| Padding { axes: p.axes.map(moved), ..p });
        Ok(Flow { layout: x.layout.transposed(&perm), pad, ..x })
    }
}
