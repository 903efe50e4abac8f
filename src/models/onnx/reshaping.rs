//! What moves values without changing them: flattening, and the subsampling shortcut of CIFAR ResNets.

use super::attributes::Attributes;
use super::build::{Build, Flow, Form, Value};
use super::order::label;
use super::sizes::Size;
use super::{MAX_SIZE, Outcome, constant};
use crate::graph::nodes::{Reshape, ShortcutA};
use crate::tensor::onnx::NodeProto;

impl Build<'_> {
    pub(super) fn flatten(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let rank = if matches!(x.form, Form::Map | Form::Pooled) { 4 } else { 2 };
        match Attributes(node).int("axis", 1) {
            1 => self.row(node, x),
            axis if axis == 1 - rank => self.row(node, x),
            axis => Err(format!("axis = {axis} is not supported, only 1")),
        }
    }

    /// One row per image.
    fn row(&mut self, node: &NodeProto, x: Flow) -> Outcome<Flow> {
        match (x.form, &self.shapes[x.node][..]) {
            (Form::Map, &[_, h, w, c]) => {
                let kind = Reshape { shape: vec![h * w * c] };
                let form = if h * w == 1 { Form::Rows } else { Form::Flat([h, w, c]) };
                Ok(Flow { node: self.push(label(node), "", kind, &[x.node])?, form })
            }
            (Form::Pooled, _) => Ok(Flow { form: Form::Rows, ..x }),
            _ => Ok(x),
        }
    }

    /// To one row per image, or to what it is already.
    pub(super) fn reshape(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        Attributes(node).only("allowzero", 0)?;
        let mut sizes = self.sizes_in(node, 1)?.ok_or("its shape is no list of integers")?.values;
        let wanted = format!("{sizes:?}");
        let fail = || Err(format!("to {wanted} is not supported: to one row per image is"));
        let all: i64 = self.shapes[x.node][1..].iter().map(|&d| d as i64).product();
        let first = match sizes.first() {
            Some(Size::Fixed(n)) => [Some(0), Some(-1), self.batch].contains(&Some(*n)),
            Some(Size::Batch) => true,
            None => false,
        };
        if !first {
            return fail();
        }
        let theirs: Vec<i64> = match (x.form, &self.shapes[x.node][..]) {
            (Form::Map, &[_, h, w, c]) => [c, h, w].map(|d| d as i64).to_vec(),
            (Form::Pooled, &[_, c]) => vec![c as i64, 1, 1],
            _ => vec![all],
        };
        for (i, size) in sizes.iter_mut().enumerate().skip(1) {
            if *size == Size::Fixed(0) {
                *size = theirs.get(i - 1).map_or(Size::Batch, |d| Size::Fixed(*d));
            }
        }
        match sizes[1..] {
            [Size::Fixed(n)] if n == all || (n == -1 && sizes[0] != Size::Fixed(-1)) => self.row(node, x),
            [Size::Fixed(c), Size::Fixed(1), Size::Fixed(1)] if c == all && x.form == Form::Rows => {
                Ok(Flow { form: Form::Pooled, ..x })
            }
            [Size::Fixed(c), Size::Fixed(h), Size::Fixed(w)] if [c, h, w] == theirs[..] => Ok(x),
            _ => fail(),
        }
    }

    /// Of height and width, both 1.
    pub(super) fn squeeze(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let mut axes = match Attributes(node).ints("axes") {
            Some(axes) => axes.to_vec(),
            None if self.has(node, 1) => self.integers(node, 1)?,
            None => vec![2, 3],
        };
        axes.iter_mut().filter(|a| **a < 0).for_each(|a| *a = a.saturating_add(4));
        axes.sort_unstable();
        let x = self.flow(node, 0)?;
        let small = match (x.form, &self.shapes[x.node][..]) {
            (Form::Map, &[_, h, w, _]) => h * w == 1,
            (form, _) => form == Form::Pooled,
        };
        if axes != [2, 3] || !small {
            return Err(format!("of axes {axes:?} is not supported: of height and width is, where both are 1"));
        }
        self.row(node, x)
    }

    /// Every so many pixels of a map, from the first one on.
    pub(super) fn slice(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let list = |i: usize, name: &str| -> Outcome<Option<Vec<i64>>> {
            if self.opset < 10 {
                return Ok(attributes.ints(name).map(<[i64]>::to_vec));
            }
            if self.has(node, i) { self.integers(node, i).map(Some) } else { Ok(None) }
        };
        let (starts, ends) = (list(1, "starts")?.unwrap_or_default(), list(2, "ends")?.unwrap_or_default());
        let axes = list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
        let x = self.raw_flow(node, 0)?;
        let (mut by, [h, w]) = match (x.form, &self.shapes[x.node][..]) {
            (Form::Map, &[_, h, w, _]) => ([1, 1], [h, w]),
            (Form::Sliced(by), &[_, h, w, _]) => (by, [h, w]),
            _ => return Err("its input is no map of images".into()),
        };
        if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
            return Err(format!("{} starts, {} ends, {} axes", starts.len(), ends.len(), axes.len()));
        }
        for (((start, end), axis), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
            let pick = match if *axis < 0 { axis.saturating_add(4) } else { *axis } {
                2 => (0, h),
                3 => (1, w),
                // All images, all channels.
                0 | 1 if (*start, *step) == (0, 1) && *end >= MAX_SIZE as i64 => continue,
                _ => return Err(format!("of axis {axis} is not supported: of height and width is")),
            };
            let (axis, size) = pick;
            let step = usize::try_from(*step).ok().filter(|s| (1..=MAX_SIZE).contains(s));
            let (Some(step), 0, true) = (step, *start, *end >= size.div_ceil(by[axis]) as i64) else {
                return Err(format!("of {start}..{end} is not supported: of all rows and columns, every so many, is"));
            };
            by[axis] = (by[axis] * step).min(MAX_SIZE);
        }
        Ok(Flow { form: if by == [1, 1] { Form::Map } else { Form::Sliced(by) }, ..x })
    }

    /// With channels of zeros on both sides: with Slice before it the shortcut of CIFAR ResNets.
    pub(super) fn pad(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        if let Some(mode) = attributes.get("mode").filter(|m| m.s != b"constant" && !m.s.is_empty()) {
            return Err(format!("mode = {} is not supported", String::from_utf8_lossy(&mode.s)));
        }
        let pads = match attributes.ints("pads") {
            Some(pads) => pads.to_vec(),
            None => self.integers(node, 1)?,
        };
        if self.has(node, 2) {
            if let Value::Constant(t) = self.value(node, 2)? {
                if constant::floats(t)?.values.iter().any(|v| *v != 0.0) {
                    return Err("padding with other values than 0 is not supported".into());
                }
            }
        }
        if self.has(node, 3) {
            return Err("axes are not supported: give paddings of all four".into());
        }
        let x = self.raw_flow(node, 0)?;
        let (stride, c) = match (x.form, &self.shapes[x.node][..]) {
            (Form::Map, &[.., c]) => (1, c),
            (Form::Sliced([h, w]), &[.., c]) if h == w => (h, c),
            _ => return Err("its input is no map of images, or not sliced alike along height and width".into()),
        };
        let size = |v: i64| usize::try_from(v).ok().filter(|v| *v <= MAX_SIZE);
        let (before, after) = match pads[..] {
            [0, before, 0, 0, 0, after, 0, 0] => (size(before), size(after)),
            _ => (None, None),
        };
        let (Some(before), Some(after)) = (before, after) else {
            return Err(format!(
                "pads = {pads:?} are not supported: of channels alone are; give Conv and pooling their own"
            ));
        };
        if before != (before + after) / 2 {
            return Err(format!(
                "{before} channels before and {after} behind are not supported: half of them each are"
            ));
        }
        let kind = ShortcutA { stride, c_out: c + before + after };
        Ok(Flow { node: self.push(label(node), "", kind, &[x.node])?, form: Form::Map })
    }
}
