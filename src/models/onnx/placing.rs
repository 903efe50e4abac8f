//! Brings activations into the forms that our nodes compute with: maps, rows, channels in order.

use super::Outcome;
use super::build::{Build, Flow};
use super::emit;
use super::host::{Host, Size, Values, strides};
use super::layout::{Axis, Digit, Layout, positions};
use super::window::Window;
use crate::graph::NodeId;
use crate::tensor::onnx::NodeProto;

/// Which axes of a value of rank 4 are channels, height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapAxes {
    pub channel: usize,
    pub spatial: [usize; 2],
}

/// The axes of a map; `None` if they are mixed, or width comes before height. Where sizes are 1, channels come first.
pub fn map_axes(layout: &Layout) -> Option<MapAxes> {
    let of = |axis| (1..4).find(|&i| !layout.0[i].is_empty() && layout.is(i, axis));
    if layout.rank() != 4 || layout.0[0].len() != 1 || !layout.is(0, Axis::Batch) {
        return None;
    }
    let pure = |i: usize| [Axis::Channel, Axis::Height, Axis::Width].into_iter().any(|axis| layout.is(i, axis));
    if !(1..4).all(pure) {
        return None;
    }
    let channel = match (of(Axis::Channel), of(Axis::Height), of(Axis::Width)) {
        (Some(c), ..) => c,
        (None, Some(h), Some(w)) => 6 - h - w,
        (None, Some(1), _) => 3,
        _ => 1,
    };
    let spatial = if channel == 1 {
        [2, 3]
    } else if channel == 3 {
        [1, 2]
    } else {
        return None;
    };
    let fits = |axis, at| of(axis).is_none_or(|found| found == at);
    (fits(Axis::Channel, channel) && fits(Axis::Height, spatial[0]) && fits(Axis::Width, spatial[1]))
        .then_some(MapAxes { channel, spatial })
}

impl Build<'_> {
    /// The `i`-th input, an activation whose pixels are those of its node.
    pub fn flow(&mut self, node: &NodeProto, i: usize) -> Outcome<Flow> {
        let flow = self.raw_flow(node, i)?;
        let flow = self.settled(node, flow)?;
        self.padded(node, flow)
    }

    /// Computes every so many rows and columns, where a slice took some.
    pub fn settled(&mut self, node: &NodeProto, flow: Flow) -> Outcome<Flow> {
        let &[_, h, w, c] = &self.shapes[flow.node][..] else { return Ok(flow) };
        let step = |axis: Axis, size: usize| {
            let all = || flow.layout.0.iter().flatten().filter(|d| d.axis == axis);
            let covered: usize = all().map(|d| d.len).product();
            if covered == size { 1 } else { all().map(|d| d.stride).min().unwrap_or(size) }
        };
        let by = [step(Axis::Height, h), step(Axis::Width, w)];
        if by == [1, 1] {
            return Ok(flow);
        }
        let kind = if by[0] == by[1] {
            emit::shortcut_a(by[0], c)?
        } else {
            emit::max_pool(&Window { kernel: [1, 1], stride: by, pad: [0; 4], dilation: [1, 1], ceil: false })?
        };
        let id = self.push(node, ".slice", kind, &[flow.node])?;
        let mut layout = flow.layout;
        for d in layout.0.iter_mut().flatten() {
            match d.axis {
                Axis::Height => d.stride /= by[0],
                Axis::Width => d.stride /= by[1],
                _ => {}
            }
        }
        Ok(Flow { pad: flow.pad, ..Flow::new(id, layout) })
    }

    /// Puts all channels on our axis in the order in which the file counts them.
    pub fn ordered(&mut self, node: &NodeProto, flow: Flow) -> Outcome<Flow> {
        let none: [usize; 0] = [];
        self.chosen(node, flow, usize::MAX, &none)
    }

    /// The elements `picked` of the file's axis `at`, which is one of channels, in this order.
    pub fn chosen(&mut self, node: &NodeProto, flow: Flow, at: usize, picked: &[usize]) -> Outcome<Flow> {
        let Flow { node: source, layout, shared, pad } = flow;
        let own =
            |digits: &[Digit]| -> Vec<Digit> { digits.iter().copied().filter(|d| d.axis == Axis::Channel).collect() };
        // Each axis adds its part of the channel's index.
        let mut index = vec![0usize];
        let mut lens: Vec<Vec<usize>> = Vec::new();
        for (i, digits) in layout.0.iter().enumerate() {
            let all = positions(&own(digits));
            let part: Vec<usize> = if i == at { picked.iter().map(|&p| all[p]).collect() } else { all };
            lens.push(if i == at { vec![part.len()] } else { own(digits).iter().map(|d| d.len).collect() });
            index = index.iter().flat_map(|&a| part.iter().map(move |&b| a + b)).collect();
        }
        let c = self.channels(source);
        let kept = index.len() == c && index.iter().enumerate().all(|(i, &j)| i == j);
        let mut stride = index.len();
        let (id, shared) = if kept {
            (source, shared)
        } else {
            (self.push(node, ".channels", emit::gather_channels(index)?, &[source])?, false)
        };
        let mut axes = Vec::with_capacity(layout.rank());
        for (i, digits) in layout.0.iter().enumerate() {
            let mut new = Vec::new();
            let mut lens = lens[i].iter();
            let others = digits.iter().filter(|d| i != at || d.axis != Axis::Channel);
            let place = |len: usize, stride: &mut usize| {
                *stride /= len.max(1);
                Digit { axis: Axis::Channel, len, stride: *stride }
            };
            for d in others {
                new.push(if d.axis == Axis::Channel {
                    place(lens.next().copied().unwrap_or(1), &mut stride)
                } else {
                    *d
                });
            }
            new.extend(lens.map(|&len| place(len, &mut stride)));
            axes.push(new);
        }
        Ok(Flow { node: id, layout: Layout(axes).normal(), pad, shared })
    }

    /// Makes it a map `n h w c` whose file form is `n c h w`. Returns its node and its sizes `[h, w, c]`.
    pub fn as_map(&mut self, node: &NodeProto, flow: Flow) -> Outcome<(NodeId, [usize; 3])> {
        let wrong =
            |l: &Layout| format!("its input {} is no map of images (batch, channels, height, width)", l.shape());
        if map_axes(&flow.layout).is_none_or(|axes| axes.channel != 1) {
            return Err(wrong(&flow.layout));
        }
        let flow = self.ordered(node, flow)?;
        let flow = self.of_rank_4(node, flow)?;
        match self.shapes[flow.node][..] {
            [_, h, w, c] if flow.layout == Layout::channels_first([h, w, c]) => Ok((flow.node, [h, w, c])),
            _ => Err(wrong(&flow.layout)),
        }
    }

    /// The `i`-th input as a map.
    pub fn map(&mut self, node: &NodeProto, i: usize) -> Outcome<(NodeId, [usize; 3])> {
        let flow = self.flow(node, i)?;
        self.as_map(node, flow)
    }

    /// Gives it a node `n h w c`. A row becomes a map of one pixel.
    pub fn of_rank_4(&mut self, node: &NodeProto, flow: Flow) -> Outcome<Flow> {
        if self.shapes[flow.node].len() == 4 {
            return Ok(flow);
        }
        let kind = emit::reshape(vec![1, 1, self.channels(flow.node)])?;
        let id = self.push(node, ".map", kind, &[flow.node])?;
        Ok(Flow { node: id, ..flow })
    }

    /// Gives it a node `n c`. Pixels become channels, in our order.
    pub fn of_rank_2(&mut self, node: &NodeProto, flow: Flow) -> Outcome<Flow> {
        let &[_, h, w, c] = &self.shapes[flow.node][..] else { return Ok(flow) };
        let id = self.push(node, ".row", emit::reshape(vec![h * w * c])?, &[flow.node])?;
        let turn = |d: &Digit| match d.axis {
            Axis::Height => Digit { axis: Axis::Channel, stride: d.stride * w * c, ..*d },
            Axis::Width => Digit { axis: Axis::Channel, stride: d.stride * c, ..*d },
            _ => *d,
        };
        let axes = flow.layout.0.iter().map(|a| a.iter().map(turn).collect()).collect();
        Ok(Flow { node: id, layout: Layout(axes).normal(), ..flow })
    }

    /// Gives it a node `n c` if the file sees a row per image of what is a map.
    pub fn rows_if_flat(&mut self, node: &NodeProto, flow: Flow) -> Outcome<Flow> {
        let flat = flow.layout.rank() == 2 && (flow.layout.has(Axis::Height) || flow.layout.has(Axis::Width));
        if flat { self.of_rank_2(node, flow) } else { Ok(flow) }
    }

    /// Returns the constant `t`, broadcast with `flow`, per channel: one number for all, or one per channel in our order.
    pub fn per_channel(&self, flow: &Flow, t: &Host) -> Outcome<Vec<f32>> {
        let layout = &flow.layout;
        let wrong = || {
            format!(
                "a constant of shape {:?} beside {}: one number, or one per channel, is supported",
                t.dims,
                layout.shape()
            )
        };
        let Values::Floats(values) = &t.values else { return Err("joins floats and integers".into()) };
        let missing = layout.rank().checked_sub(t.dims.len()).ok_or_else(wrong)?;
        let wide: Vec<usize> = (0..t.dims.len()).filter(|&i| t.dims[i] != 1).collect();
        // A constant must not make the activation larger.
        if wide.iter().any(|&i| layout.size(i + missing) != Size::Fixed(t.dims[i] as i64)) {
            return Err(wrong());
        }
        let Some(&first) = values.first() else { return Err(wrong()) };
        if values.iter().all(|v| v.to_bits() == first.to_bits()) {
            return Ok(vec![first]);
        }
        if wide.iter().any(|&i| !layout.is(i + missing, Axis::Channel)) {
            return Err(wrong());
        }
        let own = strides(&t.dims);
        let value = |c: usize| {
            let place = |&i: &usize| {
                let at = layout.0[i + missing].iter().fold(0, |at, d| at * d.len + c / d.stride % d.len);
                at * own[i] as usize
            };
            values[wide.iter().map(place).sum::<usize>()]
        };
        Ok((0..self.channels(flow.node)).map(value).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_of_maps_are_found() {
        let first = |s| map_axes(&Layout::channels_first(s)).map(|a| (a.channel, a.spatial));
        let last = |s| map_axes(&Layout::channels_last(s)).map(|a| (a.channel, a.spatial));
        assert_eq!(first([5, 7, 3]), Some((1, [2, 3])));
        assert_eq!(first([1, 1, 3]), Some((1, [2, 3])));
        assert_eq!(first([5, 1, 1]), Some((1, [2, 3])));
        assert_eq!(last([5, 7, 3]), Some((3, [1, 2])));
        assert_eq!(last([5, 7, 1]), Some((3, [1, 2])));
        assert_eq!(last([5, 1, 1]), Some((3, [1, 2])));
        assert_eq!(last([1, 1, 3]), Some((3, [1, 2])));
        assert_eq!(map_axes(&Layout::channels_first([5, 7, 3]).transposed(&[0, 1, 3, 2])), None);
        assert_eq!(map_axes(&Layout::rows(3)), None);
    }
}
