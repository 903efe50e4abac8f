//! Convolutions and matrix products.

use super::attributes::Attributes;
use super::build::{Build, Flow};
use super::emit;
use super::layout::{Axis, Layout};
use super::window::Window;
use super::{MAX_SIZE, Outcome};
use crate::graph::NodeId;
use crate::tensor::io::HostTensor;
use crate::tensor::onnx::NodeProto;

impl Build<'_> {
    pub(super) fn conv(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let mut x = self.raw_flow(node, 0)?;
        let pad = x.pad.take();
        let x = self.settled(node, x)?;
        if x.layout.rank() == 3 || x.layout.rank() == 5 {
            return Err(format!(
                "its input {} is no map; convolutions of two dimensions are supported",
                x.layout.shape()
            ));
        }
        let (x, [h, w, c]) = self.as_map(node, x)?;
        let shape = self.dims(node, 1)?;
        let &[k, per_group, r, s] = &shape[..] else {
            return Err(format!("its weight has shape {shape:?}; convolutions of two dimensions are supported"));
        };
        if shape.iter().any(|d| !(1..=MAX_SIZE).contains(d)) {
            return Err(format!(
                "its weight '{}' has shape {shape:?}; dimensions of 1 to {MAX_SIZE} are supported",
                node.input[1]
            ));
        }
        if attributes.get("kernel_shape").is_some() && attributes.kernel()? != [r, s] {
            return Err(format!("kernel_shape does not fit the weight's shape {shape:?}"));
        }
        let group = attributes.int("group", 1);
        let groups = usize::try_from(group).ok().filter(|g| *g > 0 && c % g == 0 && k % g == 0);
        let groups = groups.ok_or_else(|| format!("{group} groups do not divide {c} channels to {k}"))?;
        if per_group != c / groups {
            return Err(format!("its weight of shape {shape:?} does not fit {c} channels in {groups} groups"));
        }
        let sides = match pad {
            None => [0; 4],
            Some(pad) if pad.axes == [2, 3] && !pad.lowest => pad.sides,
            Some(_) => return Err("reads a map padded by something else than zeros around height and width".into()),
        };
        let padded = [h + sides[0] + sides[2], w + sides[1] + sides[3]];
        let window = attributes.window([r, s], padded)?.padded(sides);
        let weight = self.floats(node, 1)?;
        let bias = if self.has(node, 2) { Some(self.vector(node, 2, k)?) } else { None };
        self.layer(node, x, [k, r, s, per_group], groups, (weight, bias), &window)
    }

    /// A convolution of node `x` with a weight `k c r s`.
    fn layer(
        &mut self,
        node: &NodeProto,
        x: NodeId,
        shape: [usize; 4],
        groups: usize,
        (weight, bias): (HostTensor, Option<HostTensor>),
        window: &Window,
    ) -> Outcome<Flow> {
        let [k, _, _, per_group] = shape;
        let weight = self.param(&node.input[1], &shape, weight)?;
        // A bias of zeros, which some exporters write for every convolution, is none.
        let bias = bias.filter(|b| b.values.iter().any(|v| *v != 0.0));
        let bias = bias.map(|b| self.param(&node.input[2], &[k], b)).transpose()?;
        let kind = match (groups, per_group) {
            (1, _) => emit::conv(weight, bias, window)?,
            (g, 1) if g == k => emit::depthwise(weight, bias, window)?,
            (g, _) => emit::grouped(weight, bias, g, window)?,
        };
        let id = self.push(node, "", kind, &[x])?;
        match self.shapes[id][..] {
            [_, h, w, c] => Ok(Flow::new(id, Layout::channels_first([h, w, c]))),
            _ => Err("has no map as output".into()),
        }
    }

    /// The `i`-th input, a constant with one value for each of `c` channels.
    pub(super) fn vector(&mut self, node: &NodeProto, i: usize, c: usize) -> Outcome<HostTensor> {
        let shape = self.dims(node, i)?;
        if shape != [c] {
            return Err(format!("input {i} ('{}') has shape {shape:?}, expected [{c}]", node.input[i]));
        }
        self.floats(node, i)
    }

    pub(super) fn gemm(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        attributes.only("transA", 0)?;
        let (alpha, beta) = (attributes.finite("alpha", 1.0)?, attributes.finite("beta", 1.0)?);
        let bias = if self.has(node, 2) { Some(self.floats(node, 2)?) } else { None };
        let bias = bias.map(|mut b| {
            b.values.iter_mut().for_each(|v| *v *= beta);
            b
        });
        self.linear(node, attributes.int("transB", 0) == 0, alpha, bias)
    }

    pub(super) fn mat_mul(&mut self, node: &NodeProto) -> Outcome<Flow> {
        if self.is_constant(node, 0) {
            return Err("multiplies a constant matrix by an activation; activations come first".into());
        }
        if !self.is_constant(node, 1) {
            return Err("multiplies two activations, as attention does; a constant weight is supported".into());
        }
        self.linear(node, true, 1.0, None)
    }

    /// `turned`: the weight is `[c, k]`. It is multiplied by `alpha`.
    fn linear(&mut self, node: &NodeProto, turned: bool, alpha: f32, bias: Option<HostTensor>) -> Outcome<Flow> {
        let shape = self.dims(node, 1)?;
        let &[rows, columns] = &shape[..] else {
            return Err(format!("its weight has shape {shape:?}; two dimensions are expected"));
        };
        let (k, width) = if turned { (columns, rows) } else { (rows, columns) };
        let x = self.flow(node, 0)?;
        let last = x.layout.rank().saturating_sub(1);
        let per_pixel = x.layout.rank() == 4
            && x.layout.is(last, Axis::Channel)
            && (x.layout.has(Axis::Height) || x.layout.has(Axis::Width));
        if x.layout.size(last) != super::host::Size::Fixed(width as i64) {
            return Err(format!("its weight of shape {shape:?} does not fit {}", x.layout.shape()));
        }
        let mut weight = self.floats(node, 1)?;
        if turned {
            weight.values = (0..k * width).map(|i| weight.values[i % width * k + i / width]).collect();
        }
        if alpha != 1.0 {
            weight.values.iter_mut().for_each(|v| *v *= alpha);
        }
        let bias = bias.map(|b| row_of(b, k)).transpose()?;
        if per_pixel {
            return self.per_pixel(node, x, [k, width], weight, bias);
        }
        let x = self.of_rank_2(node, x)?;
        let alone = (0..last).all(|i| if i == 0 { x.layout.is(0, Axis::Batch) } else { x.layout.0[i].is_empty() });
        if !alone {
            return Err(format!("its input {} is no row per image; flatten it before", x.layout.shape()));
        }
        // A column of ours is where the file's axis has its element.
        let at = x.layout.positions(last);
        if at.iter().enumerate().any(|(i, &j)| i != j) {
            let mut moved = vec![0.0; weight.values.len()];
            for (to, from) in moved.chunks_exact_mut(width).zip(weight.values.chunks_exact(width)) {
                at.iter().zip(from).for_each(|(&j, v)| to[j] = *v);
            }
            weight.values = moved;
        }
        weight.shape = vec![k, width];
        let weight = self.param(&node.input[1], &[k, width], weight)?;
        let bias = bias.map(|b| self.param(&node.input[2], &[k], b)).transpose()?;
        let id = self.push(node, "", emit::linear(weight, bias)?, &[x.node])?;
        let mut layout = x.layout;
        layout.0[last] = Layout::rows(k).0.remove(1);
        Ok(Flow::new(id, layout))
    }

    /// A matrix product at every pixel of `n h w c`: a convolution with one pixel.
    fn per_pixel(
        &mut self,
        node: &NodeProto,
        x: Flow,
        [k, c]: [usize; 2],
        mut weight: HostTensor,
        bias: Option<HostTensor>,
    ) -> Outcome<Flow> {
        let back = [0, 3, 1, 2];
        let x = Flow { layout: x.layout.transposed(&back), ..x };
        let (x, _) = self.as_map(node, x)?;
        weight.shape = vec![k, c, 1, 1];
        let window = Window { kernel: [1, 1], stride: [1, 1], pad: [0; 4], dilation: [1, 1], ceil: false };
        let flow = self.layer(node, x, [k, 1, 1, c], 1, (weight, bias), &window)?;
        Ok(Flow { layout: flow.layout.transposed(&[0, 2, 3, 1]), ..flow })
    }
}

/// A bias of `k` values: `[k]`, `[1, k]`, or one value for all.
fn row_of(t: HostTensor, k: usize) -> Outcome<HostTensor> {
    let rest = &t.shape[..t.shape.len().saturating_sub(1)];
    match (t.values.len(), t.shape.last()) {
        (n, Some(&last)) if n == k && last == k && rest.iter().all(|d| *d == 1) => {
            Ok(HostTensor { shape: vec![k], values: t.values })
        }
        (1, _) => Ok(HostTensor { shape: vec![k], values: vec![t.values[0]; k] }),
        _ => Err(format!("its bias has shape {:?}, expected [{k}]", t.shape)),
    }
}
