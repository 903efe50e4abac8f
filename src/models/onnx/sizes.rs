//! Arithmetic of shapes, as exporters write `x.view(x.size(0), -1)`: Shape, Gather, Unsqueeze, Concat of integers.

use super::attributes::Attributes;
use super::build::{Build, Form, Value};
use super::{Outcome, constant};
use crate::tensor::onnx::NodeProto;

/// A number of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Fixed(i64),
    /// Whatever the batch is.
    Batch,
}

/// Numbers in one value, at most.
const MOST: usize = 16;

impl<'a> Build<'a> {
    /// The value of a node that computes with sizes; `None` if it does not.
    pub(super) fn sizes(&self, node: &NodeProto) -> Outcome<Option<Value<'a>>> {
        let attributes = Attributes(node);
        if node.op_type == "Shape" {
            let all = self.shape_of(node)?;
            let end = |name, default: i64| match attributes.int(name, default) {
                i if i < 0 => (i + all.len() as i64).max(0) as usize,
                i => (i as usize).min(all.len()),
            };
            let (start, end) = (end("start", 0), end("end", all.len() as i64));
            return Ok(Some(Value::Sizes(all.get(start..end).unwrap_or_default().to_vec())));
        }
        if !["Gather", "Unsqueeze", "Squeeze", "Concat", "Cast"].contains(&&node.op_type[..]) {
            return Ok(None);
        }
        let Some(first) = self.sizes_in(node, 0)? else { return Ok(None) };
        let sizes = match &node.op_type[..] {
            "Gather" => {
                let from = self.integers(node, 1)?;
                let pick = |i: &i64| {
                    let at = if *i < 0 { i + first.len() as i64 } else { *i };
                    usize::try_from(at).ok().and_then(|i| first.get(i)).copied()
                };
                from.iter().map(pick).collect::<Option<_>>().ok_or("takes a dimension that is not there")?
            }
            "Concat" => {
                let mut all = first;
                for i in 1..node.input.len() {
                    all.extend(self.sizes_in(node, i)?.ok_or("joins sizes and activations")?);
                    if all.len() > MOST {
                        return Err(format!("makes more than {MOST} sizes"));
                    }
                }
                all
            }
            _ => first,
        };
        Ok(Some(Value::Sizes(sizes)))
    }

    /// The `i`-th input if it is sizes: computed ones, or a constant of integers.
    pub(super) fn sizes_in(&self, node: &NodeProto, i: usize) -> Outcome<Option<Vec<Size>>> {
        Ok(match self.value(node, i)? {
            Value::Sizes(sizes) => Some(sizes.clone()),
            Value::Constant(t) => Some(constant::integers(t)?.into_iter().map(Size::Fixed).collect()),
            Value::Flow(_) => None,
        })
    }

    /// The shape of the first input as the file sees it.
    fn shape_of(&self, node: &NodeProto) -> Outcome<Vec<Size>> {
        let flow = self.raw_flow(node, 0)?;
        let shape = self.shapes[flow.node];
        let sizes: Vec<usize> = match (flow.form, &shape[..]) {
            (Form::Map, &[_, h, w, c]) => vec![c, h, w],
            (Form::Sliced([by_h, by_w]), &[_, h, w, c]) => vec![c, h.div_ceil(by_h), w.div_ceil(by_w)],
            (Form::Pooled, &[_, c]) => vec![c, 1, 1],
            (_, all) => all[1..].to_vec(),
        };
        Ok([Size::Batch].into_iter().chain(sizes.into_iter().map(|s| Size::Fixed(s as i64))).collect())
    }
}
