//! Pooling, reductions over height and width, normalization across channels.

use super::Outcome;
use super::attributes::Attributes;
use super::build::{Build, Flow, Padding};
use super::emit;
use super::host::axes;
use super::layout::{Axis, Layout};
use super::scaling::Affine;
use super::window::Window;
use crate::tensor::onnx::NodeProto;

impl Build<'_> {
    pub(super) fn global_pool(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let (x, [_, _, c]) = self.as_map(node, x)?;
        let kind = if node.op_type == "GlobalMaxPool" { emit::global_max()? } else { emit::global_avg()? };
        Ok(Flow::new(self.push(node, "", kind, &[x])?, Layout::channels_first([1, 1, c])))
    }

    /// ReduceMean, ReduceSum and ReduceMax over height and width.
    pub(super) fn reduce(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let list = match attributes.ints("axes") {
            Some(list) => list.to_vec(),
            None if self.has(node, 1) => self.integers(node, 1)?,
            None => Vec::new(),
        };
        let x = self.flow(node, 0)?;
        if list.is_empty() {
            if attributes.int("noop_with_empty_axes", 0) != 0 {
                return Ok(x);
            }
            return Err("over all axes is not supported: over height and width is".into());
        }
        let over = axes(&list, x.layout.rank())?;
        let pixels = |a: &usize| x.layout.0[*a].iter().all(|d| matches!(d.axis, Axis::Height | Axis::Width));
        if !over.iter().all(pixels) {
            let layer_norm = if over.iter().any(|&a| x.layout.is(a, Axis::Channel)) && node.op_type == "ReduceMean" {
                "; a mean over channels is how layer norms begin, which fold into no layer"
            } else {
                ""
            };
            let shape = x.layout.shape();
            return Err(format!(
                "over axes {list:?} of {shape} is not supported: over height and width is{layer_norm}"
            ));
        }
        if let Some(y) = self.along_one_axis(node, &x, &over)? {
            return self.reduced(node, y, &over, 1);
        }
        let left =
            |axis| (0..x.layout.rank()).any(|a| !over.contains(&a) && x.layout.0[a].iter().any(|d| d.axis == axis));
        if left(Axis::Height) || left(Axis::Width) {
            let shape = x.layout.shape();
            return Err(format!("over axes {list:?} of {shape} is not supported: over both height and width is"));
        }
        let &[_, h, w, _] = &self.shapes[x.node][..] else { return self.reduced(node, x, &over, 1) };
        let kind = if node.op_type == "ReduceMax" { emit::global_max()? } else { emit::global_avg()? };
        let id = self.push(node, "", kind, &[x.node])?;
        self.reduced(node, Flow::new(id, x.layout), &over, h * w)
    }

    /// `x`, whose node is reduced already, as the file sees it; sums are means times `pixels`.
    fn reduced(&mut self, node: &NodeProto, x: Flow, over: &[usize], pixels: usize) -> Outcome<Flow> {
        let mut layout = x.layout.clone();
        over.iter().for_each(|&a| layout.0[a].clear());
        if Attributes(node).int("keepdims", 1) == 0 {
            layout = layout.squeezed(over)?;
        }
        let flow = Flow { layout, ..x };
        if node.op_type == "ReduceSum" {
            return self.affine(node, flow, false, "pixels", Affine::scale(vec![pixels as f32]));
        }
        Ok(flow)
    }

    /// Reduces height or width alone: pools in a window as long as the map.
    fn along_one_axis(&mut self, node: &NodeProto, x: &Flow, over: &[usize]) -> Outcome<Option<Flow>> {
        let &[_, h, w, _] = &self.shapes[x.node][..] else { return Ok(None) };
        let gone = |axis| over.iter().any(|&a| x.layout.0[a].iter().any(|d| d.axis == axis));
        let kernel = match [gone(Axis::Height), gone(Axis::Width)] {
            [true, false] if w > 1 => [h, 1],
            [false, true] if h > 1 => [1, w],
            _ => return Ok(None),
        };
        let whole =
            |axis, size| x.layout.0.iter().flatten().filter(|d| d.axis == axis).all(|d| (d.len, d.stride) == (size, 1));
        if node.op_type == "ReduceSum" || !whole(Axis::Height, h) || !whole(Axis::Width, w) {
            return Ok(None);
        }
        let window = Window { kernel, stride: [1, 1], pad: [0; 4], dilation: [1, 1], ceil: false };
        let kind = if node.op_type == "ReduceMax" { emit::max_pool(&window)? } else { emit::avg_pool(&window, false)? };
        Ok(Some(Flow::new(self.push(node, "", kind, &[x.node])?, x.layout.clone())))
    }

    /// MaxPool and AveragePool. An average over the whole map is a global one.
    pub(super) fn pool(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let mut x = self.raw_flow(node, 0)?;
        // Zeros count for the largest value, unless there is none below them.
        let counted = |p: &Padding| p.lowest || self.nonnegative[x.node];
        if node.op_type == "MaxPool" && !x.pad.is_none_or(|p| counted(&p)) {
            x = self.flow(node, 0)?;
        }
        let pad = x.pad.take();
        let x = self.settled(node, x)?;
        let (x, [h, w, c]) = self.as_map(node, x)?;
        let average = node.op_type == "AveragePool";
        let sides = pad.map_or([0; 4], |p| p.sides);
        let padded = [h + sides[0] + sides[2], w + sides[1] + sides[3]];
        let own = attributes.window(attributes.kernel()?, padded)?;
        let counts = attributes.int("count_include_pad", 0) != 0;
        if let Some(pad) = pad {
            check_padding(pad, average && own.pad != [0; 4] && !counts, average)?;
        }
        let window = own.padded(sides);
        if window.dilation != [1, 1] {
            return Err(format!("dilations = {:?} are not supported in pooling", window.dilation));
        }
        let Window { kernel, stride, pad: [top, left, bottom, right], .. } = window;
        if top.max(bottom) >= kernel[0] || left.max(right) >= kernel[1] {
            return Err(format!(
                "a window {kernel:?} with padding {:?}: padding must be smaller than the window",
                window.pad
            ));
        }
        let layout = Layout::channels_first([h, w, c]);
        if kernel == [1, 1] && stride == [1, 1] {
            return Ok(Flow { shared: true, ..Flow::new(x, layout) });
        }
        if kernel == [h, w] && window.pad == [0; 4] && !window.ceil {
            let kind = if average { emit::global_avg()? } else { emit::max_pool(&window)? };
            let id = self.push(node, "", kind, &[x])?;
            return Ok(Flow::new(id, Layout::channels_first([1, 1, c])));
        }
        // Padding that the file writes as a node of its own is part of the map.
        let counts = counts || pad.is_some();
        let kind =
            if average { emit::avg_pool(&window, counts && window.pad != [0; 4])? } else { emit::max_pool(&window)? };
        let id = self.push(node, "", kind, &[x])?;
        match self.shapes[id][..] {
            [_, h, w, c] => Ok(Flow::new(id, Layout::channels_first([h, w, c]))),
            _ => Err("has no map as output".into()),
        }
    }

    /// Local response normalization across channels.
    pub(super) fn lrn(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let (x, [h, w, c]) = self.map(node, 0)?;
        let size = attributes.int("size", 0);
        let size = usize::try_from(size).ok().filter(|s| (1..=super::MAX_SIZE).contains(s));
        let size = size.ok_or_else(|| format!("size = {} is not above 0", attributes.int("size", 0)))?;
        let (alpha, beta) = (attributes.finite("alpha", 1e-4)?, attributes.finite("beta", 0.75)?);
        let bias = attributes.finite("bias", 1.0)?;
        if alpha < 0.0 || beta < 0.0 || bias <= 0.0 {
            return Err(format!("alpha = {alpha}, beta = {beta}, bias = {bias} are not what a normalization takes"));
        }
        let id = self.push(node, "", emit::lrn(size, alpha, beta, bias)?, &[x])?;
        Ok(Flow::new(id, Layout::channels_first([h, w, c])))
    }
}

/// Errors unless pooling can take in the padding before it.
fn check_padding(pad: Padding, mixed: bool, average: bool) -> Outcome<()> {
    if pad.axes != [2, 3] {
        return Err("reads padding of other dimensions than height and width".into());
    }
    if average && (pad.lowest || mixed) {
        return Err("averages over padding of two kinds, which is not supported".into());
    }
    Ok(())
}
