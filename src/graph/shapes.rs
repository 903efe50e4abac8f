//! Shapes and costs of a graph's values.

use super::{Graph, InputKind, NodeId, NodeKind};
use crate::ops::conv2d::Conv2dParams;
use crate::tensor::Shape;
use crate::{Error, Result};

impl Graph {
    /// Shape of every node's output for a batch of `n`, by the ops' own rules.
    pub fn shapes(&self, n: usize) -> Result<Vec<Shape>> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        for id in 0..self.nodes.len() {
            shapes.push(self.shape(id, &shapes, n)?);
        }
        Ok(shapes)
    }

    /// Shape of node `id`'s output for a batch of `n`, given those of the nodes before it.
    pub fn shape(&self, id: NodeId, shapes: &[Shape], n: usize) -> Result<Shape> {
        let node = &self.nodes[id];
        let x = node.inputs.first().map(|&i| shapes[i]);
        let wrong =
            |what: &str| Error::network(&self.name, format!("node '{}' ({}): {what}", node.name, node.kind.op()));
        let of = |name: &String| {
            self.params.iter().find(|p| &p.name == name).map(|p| p.shape).ok_or_else(|| wrong("unknown parameter"))
        };
        let image = |x: Option<Shape>| match x {
            Some(s) if s.len() == 4 => Ok([s[0], s[1], s[2], s[3]]),
            _ => Err(wrong("expects an n h w c input")),
        };
        let window = |d: usize, k: usize, stride: usize, pad: usize| match (d + 2 * pad).checked_sub(k) {
            Some(rest) if stride > 0 => Ok(rest / stride + 1),
            _ => Err(wrong(&format!("a window of {k} does not fit in {d} with padding {pad}"))),
        };
        let convolved = |p: &Conv2dParams, axis: usize, d: usize, taps: usize| {
            let reach = taps.saturating_sub(1) * p.dilation[axis] + 1;
            let padded = d + p.pad[axis] + p.pad[axis + 2];
            match padded.checked_sub(reach) {
                Some(rest) if p.stride[axis] > 0 => Ok(rest / p.stride[axis] + 1),
                _ => Err(wrong(&format!("a window of {reach} does not fit in {padded}, padding included"))),
            }
        };
        Ok(match &node.kind {
            NodeKind::Input { index } => match &self.inputs[*index] {
                InputKind::Real(s) => Shape::new(&[&[n], &s[..]].concat()),
                InputKind::Label { .. } => Shape::new(&[n]),
            },
            NodeKind::Conv2d { weight, params, .. } | NodeKind::ConvBn { weight, params, .. } => {
                let ([n, h, w, c], f) = (image(x)?, of(weight)?);
                if f.len() != 4 || f[3] != c {
                    return Err(wrong(&format!("filter {f} does not fit {c} input channels")));
                }
                [n, convolved(params, 0, h, f[1])?, convolved(params, 1, w, f[2])?, f[0]].into()
            }
            NodeKind::Conv2dDepthwise { weight, params, .. } => {
                let ([n, h, w, c], f) = (image(x)?, of(weight)?);
                if f.len() != 4 || f[0] != c || f[3] != 1 {
                    return Err(wrong(&format!("filter {f} does not fit {c} channels")));
                }
                [n, convolved(params, 0, h, f[1])?, convolved(params, 1, w, f[2])?, c].into()
            }
            NodeKind::UpsampleConv2d { weight, .. } => {
                let [n, h, w, _] = image(x)?;
                [n, 2 * h, 2 * w, of(weight)?[0]].into()
            }
            NodeKind::MaxPool { k, stride, pad } | NodeKind::AvgPool { k, stride, pad } => {
                let [n, h, w, c] = image(x)?;
                [n, window(h, *k, *stride, *pad)?, window(w, *k, *stride, *pad)?, c].into()
            }
            NodeKind::ShortcutA { stride, c_out } => {
                let [n, h, w, _] = image(x)?;
                [n, h.div_ceil(*stride), w.div_ceil(*stride), *c_out].into()
            }
            NodeKind::GlobalAvgPool => {
                let [n, _, _, c] = image(x)?;
                [n, c].into()
            }
            NodeKind::Linear { weight, .. } => {
                let f = of(weight)?;
                match x {
                    Some(x) if x.len() == 2 && f.len() == 2 && x[1] == f[1] => [n, f[0]].into(),
                    Some(x) => return Err(wrong(&format!("weight {f} does not fit {x}"))),
                    None => return Err(wrong("has no input")),
                }
            }
            NodeKind::Embedding { table } => [n, of(table)?[1]].into(),
            NodeKind::Reshape { shape } => Shape::new(&[&[n], &shape[..]].concat()),
            NodeKind::Add | NodeKind::Mul => match node.inputs[..] {
                [a, b] if shapes[a] == shapes[b] => shapes[a],
                [a, b] => return Err(wrong(&format!("{} and {} differ in shape", shapes[a], shapes[b]))),
                _ => return Err(wrong("has not two inputs")),
            },
            NodeKind::Concat => {
                let all: Vec<Shape> = node.inputs.iter().map(|&i| shapes[i]).collect();
                let Some(outer) = x.and_then(|x| x.split_last().map(|(_, outer)| outer.to_vec())) else {
                    return Err(wrong("has no input"));
                };
                if let Some(s) = all.iter().find(|s| s.split_last().is_none_or(|(_, o)| *o != outer[..])) {
                    return Err(wrong(&format!("{s} does not fit beside {}", all[0])));
                }
                let channels = all.iter().map(|s| s[outer.len()]).sum();
                Shape::new(&[&outer[..], &[channels]].concat())
            }
            NodeKind::BatchNorm { .. } | NodeKind::Activation(_) | NodeKind::FakeQuant { .. } => {
                x.ok_or_else(|| wrong("has no input"))?
            }
        })
    }

    /// Multiply-adds of one sample's forward pass in node `id`, given all `shapes` for batch 1.
    pub fn macs(&self, id: NodeId, shapes: &[Shape]) -> f64 {
        let weight =
            |name: &String| self.params.iter().find(|p| &p.name == name).map_or(0.0, |p| p.shape.elements() as f64);
        match &self.nodes[id].kind {
            NodeKind::Conv2d { weight: w, .. }
            | NodeKind::ConvBn { weight: w, .. }
            | NodeKind::Conv2dDepthwise { weight: w, .. } => weight(w) * (shapes[id][1] * shapes[id][2]) as f64,
            // Four of nine taps remain per output pixel.
            NodeKind::UpsampleConv2d { weight: w, .. } => {
                weight(w) * 4.0 / 9.0 * (shapes[id][1] * shapes[id][2]) as f64
            }
            NodeKind::Linear { weight: w, .. } => weight(w),
            _ => 0.0,
        }
    }
}
