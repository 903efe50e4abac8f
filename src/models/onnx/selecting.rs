//! Operators that take a part of a value: slices, splits, gathers, elements of sequences. And padding.

use super::attributes::Attributes;
use super::build::{Build, Flow, Padding, Value};
use super::emit;
use super::fold::parts;
use super::host::{Size, axes, axis, slice};
use super::layout::{Axis, Layout};
use super::placing::map_axes;
use super::{MAX_SIZE, Outcome};
use crate::tensor::onnx::NodeProto;

impl<'a> Build<'a> {
    /// Elements `picked` of axis `at`.
    fn picked(&mut self, node: &NodeProto, x: Flow, at: usize, picked: &[usize]) -> Outcome<Flow> {
        let shape = x.layout.shape();
        if picked.is_empty() {
            return Err(format!("takes nothing of axis {at} of {shape}"));
        }
        let x = self.rows_if_flat(node, x)?;
        let x = if x.layout.is(at, Axis::Channel) { x } else { self.settled(node, x)? };
        let x = if x.layout.is(at, Axis::Channel) { x } else { self.padded(node, x)? };
        let Size::Fixed(size) = x.layout.size(at) else {
            return Err(format!("takes some images of a batch, axis {at} of {shape}; all are supported"));
        };
        if picked.len() as i64 == size && picked.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(x);
        }
        if x.layout.is(at, Axis::Channel) {
            return self.chosen(node, x, at, picked);
        }
        let step = if picked.len() > 1 { picked[1].wrapping_sub(picked[0]) } else { 1 };
        if step == 0 || step > MAX_SIZE || picked.windows(2).any(|w| w[1].wrapping_sub(w[0]) != step) {
            return Err(format!("takes rows or columns of {shape} in another order, which is not supported"));
        }
        self.cropped(node, x, at, (picked[0], picked.len(), step))
    }

    /// Channels, or every so many pixels of a map, from the first one on.
    pub(super) fn slice(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let list = |i: usize, name: &str| -> Outcome<Option<Vec<i64>>> {
            match attributes.ints(name) {
                Some(list) => Ok(Some(list.to_vec())),
                None if self.has(node, i) => self.integers(node, i).map(Some),
                None => Ok(None),
            }
        };
        let (starts, ends) = (list(1, "starts")?.ok_or("has no starts")?, list(2, "ends")?.ok_or("has no ends")?);
        let along = list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
        if [ends.len(), along.len(), steps.len()] != [starts.len(); 3] {
            return Err(format!("{} starts, {} ends, {} axes", starts.len(), ends.len(), along.len()));
        }
        let mut x = self.raw_flow(node, 0)?;
        axes(&along, x.layout.rank())?;
        let channels = |a: &i64| axis(*a, x.layout.rank()).is_ok_and(|a| x.layout.is(a, Axis::Channel));
        if x.pad.is_some() && !along.iter().all(channels) {
            x = self.settled(node, x)?;
            x = self.padded(node, x)?;
        }
        for (i, &a) in along.iter().enumerate() {
            let at = axis(a, x.layout.rank())?;
            let size = match x.layout.size(at) {
                Size::Fixed(size) => usize::try_from(size).unwrap_or(0),
                // All images of a batch that has any size.
                Size::Batch(_) if (starts[i], steps[i]) == (0, 1) && ends[i] >= MAX_SIZE as i64 => continue,
                Size::Batch(_) => return Err("takes some images of a batch; all are supported".into()),
            };
            let (first, many) = slice(size, starts[i], ends[i], steps[i])?;
            let pixels = x.layout.is(at, Axis::Height) || x.layout.is(at, Axis::Width);
            let step = usize::try_from(steps[i]).unwrap_or(0);
            if many == 0 {
                return Err(format!("takes nothing of axis {at} of {}", x.layout.shape()));
            }
            match &mut x.layout.0[at][..] {
                [d] if pixels && first == 0 && step > 1 && many == size.div_ceil(step) => {
                    (d.len, d.stride) = (many, d.stride * step);
                    x.layout = x.layout.normal();
                }
                _ => {
                    let indices: Vec<usize> =
                        (0..many as i64).map(|j| (first as i64 + j * steps[i]) as usize).collect();
                    x = self.picked(node, x, at, &indices)?;
                }
            }
        }
        Ok(x)
    }

    /// Elements along an axis; one number removes it.
    pub(super) fn gather(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.raw_flow(node, 0)?;
        let indices = self.host(node, 1)?;
        let at = axis(Attributes(node).int("axis", 0), x.layout.rank())?;
        if indices.dims.len() > 1 {
            return Err(format!("takes elements by a table of shape {:?}; a list is supported", indices.dims));
        }
        let Size::Fixed(size) = x.layout.size(at) else {
            return Err("takes some images of a batch; all are supported".into());
        };
        let index = |i: i64| axis(i, size as usize).map_err(|_| format!("takes element {i} of {size}"));
        let list: Vec<usize> = indices.numbers()?.into_iter().map(index).collect::<Outcome<_>>()?;
        let x = self.picked(node, x, at, &list)?;
        if indices.dims.is_empty() {
            let x = self.settled(node, x)?;
            let x = self.padded(node, x)?;
            let layout = x.layout.squeezed(&[at])?;
            return Ok(Flow { layout, ..x });
        }
        Ok(x)
    }

    /// Neighbouring parts of an axis.
    fn in_parts(&mut self, node: &NodeProto, at: usize, sizes: &[usize]) -> Outcome<Vec<Flow>> {
        let x = self.raw_flow(node, 0)?;
        let mut first = 0;
        let mut all = Vec::new();
        for &part in sizes {
            let indices: Vec<usize> = (first..first + part).collect();
            first += part;
            all.push(self.picked(node, x.clone(), at, &indices)?);
        }
        Ok(all)
    }

    /// The axis that `node` splits, and its size.
    fn split_axis(&mut self, node: &NodeProto) -> Outcome<(usize, usize)> {
        let x = self.raw_flow(node, 0)?;
        let at = axis(Attributes(node).int("axis", 0), x.layout.rank())?;
        match self.sizes(&x)[at] {
            Size::Fixed(size) => Ok((at, size as usize)),
            Size::Batch(_) => Err("splits a batch of images, which is not supported".into()),
        }
    }

    pub(super) fn split(&mut self, node: &NodeProto) -> Outcome<Vec<Value<'a>>> {
        let (at, size) = self.split_axis(node)?;
        let given = match Attributes(node).ints("split") {
            Some(list) => Some(list.to_vec()),
            None if self.has(node, 1) => Some(self.integers(node, 1)?),
            None => None,
        };
        let sizes = parts(node, self.opset, size, given)?;
        Ok(self.in_parts(node, at, &sizes)?.into_iter().map(Value::Flow).collect())
    }

    pub(super) fn split_to_sequence(&mut self, node: &NodeProto) -> Outcome<Vec<Value<'a>>> {
        let (at, size) = self.split_axis(node)?;
        Attributes(node).only("keepdims", 1)?;
        if !self.has(node, 1) {
            return Err("splits into single channels, which is not supported".into());
        }
        let split = self.host(node, 1)?;
        let list = split.numbers()?;
        let sizes: Vec<usize> = match (&split.dims[..], &list[..]) {
            ([], &[each]) if each > 0 => {
                let each = each as usize;
                (0..size.div_ceil(each)).map(|i| each.min(size - i * each)).collect()
            }
            (_, list) => list
                .iter()
                .map(|&v| usize::try_from(v).map_err(|_| format!("parts of {list:?}")))
                .collect::<Outcome<_>>()?,
        };
        let sum = sizes.iter().try_fold(0usize, |a, &s| a.checked_add(s));
        if sum != Some(size) {
            return Err(format!("splits {size} channels into {list:?}"));
        }
        Ok(self.in_parts(node, at, &sizes)?.into_iter().map(Value::Flow).collect())
    }

    pub(super) fn sequence_at(&mut self, node: &NodeProto) -> Outcome<Value<'a>> {
        let index = self.number(node, 1)? as i64;
        let Value::Sequence(all) = self.value(node, 0)? else { return Err("its input is no sequence".into()) };
        let at = axis(index, all.len()).map_err(|_| format!("takes element {index} of {}", all.len()))?;
        // Another node may take the same element.
        Ok(match &all[at] {
            Value::Flow(flow) => Value::Flow(Flow { shared: true, ..flow.clone() }),
            other => other.clone(),
        })
    }

    /// Height and width, which the next node takes in; or channels of zeros: with Slice before it the shortcut of CIFAR ResNets.
    pub(super) fn pad(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let mode = attributes.text("mode", "constant");
        if mode != "constant" {
            return Err(format!("mode = {mode} is not supported: zeros are"));
        }
        let pads = match attributes.ints("pads").or_else(|| attributes.ints("paddings")) {
            Some(pads) => pads.to_vec(),
            None => self.integers(node, 1)?,
        };
        let value = match attributes.get("value") {
            Some(a) => a.f.into(),
            None if self.has(node, 2) => self.number(node, 2)?,
            None => 0.0,
        };
        let x = self.raw_flow(node, 0)?;
        let rank = x.layout.rank();
        let along = if self.has(node, 3) { self.integers(node, 3)? } else { (0..rank as i64).collect() };
        axes(&along, rank)?;
        if pads.len() != 2 * along.len() {
            return Err(format!("pads = {pads:?} do not fit {} dimensions", along.len()));
        }
        let mut both = vec![[0usize; 2]; rank];
        for (i, &a) in along.iter().enumerate() {
            let side = |v: i64| usize::try_from(v).ok().filter(|v| *v <= MAX_SIZE);
            let (Some(before), Some(after)) = (side(pads[i]), side(pads[i + along.len()])) else {
                return Err(format!("pads = {pads:?} are not within 0 to {MAX_SIZE}"));
            };
            both[axis(a, rank)?] = [before, after];
        }
        if both.iter().all(|b| *b == [0, 0]) {
            return Ok(x);
        }
        let lowest = value <= f64::from(f32::MIN);
        if value != 0.0 && !lowest {
            return Err(format!("padding with {value} is not supported: zeros are"));
        }
        let Some(found) = map_axes(&x.layout) else {
            return Err(format!("its input {} is no map of images (batch, channels, height, width)", x.layout.shape()));
        };
        if both[0] != [0, 0] {
            return Err(format!("pads = {pads:?} add images to the batch"));
        }
        let mut x = x;
        if both[found.channel] != [0, 0] {
            if lowest || x.pad.is_some() {
                return Err("pads channels by something else than zeros".into());
            }
            x = self.pad_channels(node, x, found.channel, both[found.channel])?;
        }
        let [h, w] = found.spatial.map(|a| both[a]);
        if [h, w] == [[0, 0]; 2] {
            return Ok(x);
        }
        let sides = [h[0], w[0], h[1], w[1]];
        x.pad = Some(match x.pad {
            None => Padding { axes: found.spatial, sides, lowest },
            Some(p) if p.lowest == lowest && p.axes == found.spatial => {
                Padding { sides: [0, 1, 2, 3].map(|i| (p.sides[i] + sides[i]).min(MAX_SIZE)), ..p }
            }
            Some(_) => return Err("pads a map by two kinds of values, which is not supported".into()),
        });
        Ok(x)
    }

    /// Channels of zeros before and behind. Every so many pixels are taken on the way.
    fn pad_channels(&mut self, node: &NodeProto, x: Flow, at: usize, [before, after]: [usize; 2]) -> Outcome<Flow> {
        let x = self.ordered(node, x)?;
        let strides = [Axis::Height, Axis::Width]
            .map(|axis| x.layout.0.iter().flatten().filter(|d| d.axis == axis).map(|d| d.stride).min());
        let &[_, h, w, c] = &self.shapes[x.node][..] else {
            let x = self.of_rank_4(node, x)?;
            return self.pad_channels(node, x, at, [before, after]);
        };
        let by = [strides[0].unwrap_or(h), strides[1].unwrap_or(w)];
        let (x, stride) = if by[0] == by[1] { (x, by[0]) } else { (self.settled(node, x)?, 1) };
        let c_out = c + before + after;
        let id = self.push(node, "", emit::shortcut_a(stride, c_out)?, &[x.node])?;
        let mut layout = x.layout;
        for d in layout.0.iter_mut().flatten().filter(|d| matches!(d.axis, Axis::Height | Axis::Width)) {
            d.stride = 1;
        }
        layout.0[at] = Layout::rows(c_out).0.remove(1);
        let flow = Flow::new(id, layout);
        let first = (before + after) / 2;
        if before == first {
            return Ok(flow);
        }
        // Our node has half of the zeros in front.
        let zeros: Vec<usize> = (0..c_out).filter(|j| !(first..first + c).contains(j)).collect();
        let order: Vec<usize> =
            zeros[..before].iter().copied().chain(first..first + c).chain(zeros[before..].iter().copied()).collect();
        self.chosen(node, flow, at, &order)
    }
}
