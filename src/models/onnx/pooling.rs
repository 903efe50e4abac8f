//! Pooling.

use super::Outcome;
use super::attributes::{Attributes, Window};
use super::build::{Build, Flow, Form};
use super::order::label;
use crate::graph::NodeKind;
use crate::graph::nodes::{AvgPool, GlobalAvgPool, MaxPool};
use crate::ops::pool::PoolParams;
use crate::tensor::onnx::NodeProto;

impl Build<'_> {
    pub(super) fn global_average(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let (x, _) = self.map(node, 0)?;
        Ok(Flow { node: self.push(label(node), "", GlobalAvgPool {}, &[x])?, form: Form::Pooled })
    }

    /// Over height and width.
    pub(super) fn reduce_mean(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let mut axes = match Attributes(node).ints("axes") {
            Some(axes) => axes.to_vec(),
            None if self.has(node, 1) => self.integers(node, 1)?,
            None => Vec::new(),
        };
        axes.iter_mut().filter(|a| **a < 0).for_each(|a| *a = a.saturating_add(4));
        axes.sort_unstable();
        if axes != [2, 3] {
            return Err(format!("over axes {axes:?} is not supported: over 2 and 3 (height and width) is"));
        }
        let x = self.global_average(node)?;
        let form = if Attributes(node).int("keepdims", 1) == 0 { Form::Rows } else { Form::Pooled };
        Ok(Flow { form, ..x })
    }

    /// MaxPool and AveragePool. An average over the whole map is a global one.
    pub(super) fn pool(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let (x, [h, w, _]) = self.map(node, 0)?;
        let kernel = attributes.kernel()?;
        let window = attributes.window(kernel, [h, w])?;
        let average = node.op_type == "AveragePool";
        if average && kernel == [h, w] && window.pad == 0 {
            return self.global_average(node);
        }
        let (k, pad) = (kernel[0], window.pad);
        if kernel[1] != k || window.dilation != 1 || 2 * pad > k {
            let Window { pad, dilation, .. } = window;
            return Err(format!(
                "a window {kernel:?} with dilation {dilation} and padding {pad} is not supported: square ones are, without \
                 dilation, padded by half a window at most"
            ));
        }
        if average && pad > 0 && attributes.int("count_include_pad", 0) == 0 {
            return Err("padding that averages do not count (count_include_pad = 0) is not supported".into());
        }
        let stride = window.stride;
        let p = PoolParams::square(k, stride, pad);
        let kind = if average { NodeKind::from(AvgPool { params: p }) } else { MaxPool { params: p }.into() };
        Ok(Flow { node: self.push(label(node), "", kind, &[x])?, form: Form::Map })
    }
}
