//! Padding and cropping of height and width as nodes of their own: filters of one 1 per channel, which are exact.

use super::Outcome;
use super::build::{Build, Flow, Padding};
use super::emit;
use super::layout::{Axis, Layout};
use super::window::Window;
use crate::graph::NodeId;
use crate::tensor::io::HostTensor;
use crate::tensor::onnx::NodeProto;

/// Rows or columns that a filter which crops may reach over.
const REACH: usize = 64;

impl Build<'_> {
    /// Makes pending padding a node of zeros around the map. Layers and pooling take it in instead.
    pub fn padded(&mut self, node: &NodeProto, flow: Flow) -> Outcome<Flow> {
        let Some(Padding { axes, sides, lowest }) = flow.pad else { return Ok(flow) };
        if lowest {
            return Err("reads a map padded by the lowest number, which is supported in front of MaxPool only".into());
        }
        let flow = self.of_rank_4(node, flow)?;
        let window = Window { kernel: [1, 1], stride: [1, 1], pad: sides, dilation: [1, 1], ceil: false };
        let id = self.picking(node, ".pad", flow.node, &window, 0)?;
        self.moved(flow.layout, axes, id)
    }

    /// Rows or columns of the file's axis `at`: so many from `first` on, in steps.
    pub fn cropped(&mut self, node: &NodeProto, flow: Flow, at: usize, run: (usize, usize, usize)) -> Outcome<Flow> {
        let (first, many, step) = run;
        let flow = self.of_rank_4(node, flow)?;
        let &[_, h, w, _] = &self.shapes[flow.node][..] else { return Err("crops what is no map".into()) };
        let high = flow.layout.is(at, Axis::Height);
        let size = if high { h } else { w };
        let whole = matches!(flow.layout.0[at][..], [d] if d.len == size && d.stride == 1);
        let reach = size.saturating_sub((many - 1) * step);
        if !whole || first >= reach {
            return Err(format!(
                "takes rows or columns of {} in another order, which is not supported",
                flow.layout.shape()
            ));
        }
        if reach > REACH {
            return Err(format!(
                "takes a part of axis {at} of {}: crops of {REACH} pixels at most are supported",
                flow.layout.shape()
            ));
        }
        let (kernel, stride, place) =
            if high { ([reach, 1], [step, 1], first) } else { ([1, reach], [1, step], first) };
        let window = Window { kernel, stride, pad: [0; 4], dilation: [1, 1], ceil: false };
        let id = self.picking(node, ".crop", flow.node, &window, place)?;
        let spatial = |axis| (0..flow.layout.rank()).find(|&i| flow.layout.0[i].iter().any(|d| d.axis == axis));
        let axes = [spatial(Axis::Height).unwrap_or(usize::MAX), spatial(Axis::Width).unwrap_or(usize::MAX)];
        self.moved(flow.layout, axes, id)
    }

    /// A filter per channel that is 1 at `place` of its pixels and 0 elsewhere.
    fn picking(&mut self, node: &NodeProto, suffix: &str, x: NodeId, window: &Window, place: usize) -> Outcome<NodeId> {
        let c = self.channels(x);
        let [r, s] = window.kernel;
        let values = (0..c * r * s).map(|i| if i % (r * s) == place { 1.0 } else { 0.0 }).collect();
        let weight = HostTensor { shape: vec![c, 1, r, s], values };
        let name = format!("{}{suffix}.weight", super::order::label(node));
        let weight = self.made_param(&name, &[c, r, s, 1], weight)?;
        let kind = if c == 1 { emit::conv(weight, None, window)? } else { emit::depthwise(weight, None, window)? };
        self.push(node, suffix, kind, &[x])
    }

    /// `layout` with the height and width of node `id` on the file's `axes`.
    fn moved(&self, mut layout: Layout, axes: [usize; 2], id: NodeId) -> Outcome<Flow> {
        let &[_, h, w, _] = &self.shapes[id][..] else { return Err("makes what is no map".into()) };
        let new = Layout::channels_first([h, w, 1]);
        for (i, &axis) in axes.iter().enumerate() {
            if let Some(digits) = layout.0.get_mut(axis) {
                digits.clone_from(&new.0[2 + i]);
            }
        }
        Ok(Flow::new(id, layout))
    }
}
