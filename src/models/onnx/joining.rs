//! Sums, products and other joins of activations.

use super::Outcome;
use super::attributes::Attributes;
use super::build::{Build, Flow, Value};
use super::emit;
use super::host::{Size, axis};
use super::layout::{Axis, Digit, Layout};
use super::scaling::Affine;
use crate::graph::NodeId;
use crate::tensor::onnx::NodeProto;

impl<'a> Build<'a> {
    /// Add, Sub, Mul, Div of two values; Sum and Mean of any number, added up from the left.
    pub(super) fn arithmetic(&mut self, node: &NodeProto) -> Outcome<Flow> {
        if let Some(flow) = self.by_parts(node)? {
            return Ok(flow);
        }
        let n = node.input.len();
        let many = ["Sum", "Mean"].contains(&&node.op_type[..]);
        if n == 1 && many {
            return self.flow(node, 0);
        }
        if n != 2 && !many {
            return Err(format!("has {n} inputs, two are expected"));
        }
        match [self.is_constant(node, 0), self.is_constant(node, 1)] {
            [false, true] if n == 2 && node.op_type != "Mean" => return self.with_constant(node, 0, 1),
            [true, false] if n == 2 && node.op_type != "Mean" => return self.with_constant(node, 1, 0),
            _ => {}
        }
        let mut sum = self.flow(node, 0)?;
        for i in 1..n {
            let x = self.flow(node, i)?;
            sum = self.joined(node, if i + 1 < n { ".part" } else { "" }, sum, x)?;
        }
        if node.op_type == "Mean" {
            return self.affine(node, sum, false, "mean", Affine::scale(vec![1.0 / n as f32]));
        }
        Ok(sum)
    }

    /// Two activations, element by element.
    fn joined(&mut self, node: &NodeProto, suffix: &str, a: Flow, b: Flow) -> Outcome<Flow> {
        let op = &node.op_type[..];
        if a.layout.rank() != b.layout.rank() {
            return Err(format!(
                "joins {} and {}; the same number of dimensions is expected",
                a.layout.shape(),
                b.layout.shape()
            ));
        }
        let (sizes, others) = (a.layout.sizes(), b.layout.sizes());
        if sizes != others {
            return self.gated(node, suffix, a, b);
        }
        let [a, b] = self.alike(node, [a, b])?;
        let kind = match op {
            "Add" | "Sum" | "Mean" => emit::add()?,
            "Sub" => emit::sub()?,
            "Mul" => emit::mul()?,
            _ => emit::div()?,
        };
        let id = self.push(node, suffix, kind, &[a.node, b.node])?;
        Ok(Flow::new(id, a.layout))
    }

    /// A map and one number per image and channel.
    fn gated(&mut self, node: &NodeProto, suffix: &str, a: Flow, b: Flow) -> Outcome<Flow> {
        let wrong = |a: &Flow, b: &Flow| {
            format!(
                "joins {} and {}; the same shape is supported, and with Mul a map and one number per image and channel",
                a.layout.shape(),
                b.layout.shape()
            )
        };
        let spatial = |f: &Flow| f.layout.has(Axis::Height) || f.layout.has(Axis::Width);
        let (map, gate) = if spatial(&a) { (a, b) } else { (b, a) };
        if node.op_type != "Mul" || !spatial(&map) || spatial(&gate) || !map.layout.has(Axis::Batch) {
            return Err(wrong(&map, &gate));
        }
        let map = self.ordered(node, map)?;
        let gate = self.ordered(node, gate)?;
        // The gate's axes are the map's without height and width.
        let pixel = |d: &&Digit| matches!(d.axis, Axis::Batch | Axis::Channel);
        let bare = Layout(map.layout.0.iter().map(|a| a.iter().filter(pixel).copied().collect()).collect());
        if bare.normal() != gate.layout {
            return Err(wrong(&map, &gate));
        }
        let gate = self.of_rank_2(node, gate)?;
        let id = self.push(node, suffix, emit::gate()?, &[map.node, gate.node])?;
        Ok(Flow::new(id, map.layout))
    }

    /// Gives them equal axes, and nodes of equal rank.
    fn alike<const N: usize>(&mut self, node: &NodeProto, flows: [Flow; N]) -> Outcome<[Flow; N]> {
        let list = self.all_alike(node, flows.to_vec())?;
        list.try_into().map_err(|_| "has lost an input".to_string())
    }

    fn all_alike(&mut self, node: &NodeProto, mut flows: Vec<Flow>) -> Outcome<Vec<Flow>> {
        if flows.iter().any(|f| f.layout != flows[0].layout) {
            for f in &mut flows {
                *f = self.ordered(node, f.clone())?;
            }
        }
        let ranks: Vec<usize> = flows.iter().map(|f| self.shapes[f.node].len()).collect();
        if ranks.iter().any(|r| *r != ranks[0]) {
            for f in &mut flows {
                *f = self.of_rank_4(node, f.clone())?;
            }
        }
        match flows.iter().find(|f| f.layout != flows[0].layout) {
            None => Ok(flows),
            Some(f) => Err(format!(
                "joins {} and {}, whose pixels lie in another order",
                flows[0].layout.shape(),
                f.layout.shape()
            )),
        }
    }

    /// Channels side by side.
    pub(super) fn concat(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let mut flows = Vec::new();
        if node.op_type == "ConcatFromSequence" {
            attributes.only("new_axis", 0)?;
            let Value::Sequence(all) = self.value(node, 0)?.clone() else {
                return Err("its input is no sequence".into());
            };
            for value in all {
                match value {
                    Value::Flow(flow) if flow.pad.is_none() => flows.push(self.settled(node, flow)?),
                    _ => return Err("joins constants and activations".into()),
                }
            }
        } else {
            for i in 0..node.input.len() {
                flows.push(self.flow(node, i)?);
            }
        }
        let first = flows.first().ok_or("has no inputs")?;
        let at = axis(attributes.int("axis", 0), first.layout.rank())?;
        if flows.len() == 1 {
            return Ok(flows.remove(0));
        }
        self.side_by_side(node, "", flows, at)
    }

    /// The channels of all `flows` along axis `at`.
    fn side_by_side(&mut self, node: &NodeProto, suffix: &str, mut flows: Vec<Flow>, at: usize) -> Outcome<Flow> {
        let rank = flows[0].layout.rank();
        let shapes: Vec<String> = flows.iter().take(8).map(|f| f.layout.shape()).collect();
        let wrong = |why: &str| Err(format!("joins {} along axis {at}{why}", shapes.join(" and ")));
        let channels = |f: &Flow| {
            f.layout.rank() == rank && f.layout.channel_axis(at) == Some(at) && f.layout.is(at, Axis::Channel)
        };
        if flows.iter().any(|f| f.layout.rank() != rank) {
            return wrong(": the same number of dimensions is expected");
        }
        // Flattened maps are rows of channels.
        for f in &mut flows {
            *f = self.rows_if_flat(node, f.clone())?;
        }
        if flows.iter().any(|f| !channels(f)) {
            return wrong(": that of channels alone is supported");
        }
        for f in &mut flows {
            *f = self.ordered(node, f.clone())?;
        }
        if flows.iter().any(|f| self.shapes[f.node].len() != self.shapes[flows[0].node].len()) {
            for f in &mut flows {
                *f = self.of_rank_4(node, f.clone())?;
            }
        }
        let rest = |f: &Flow| (0..rank).filter(|&i| i != at).map(|i| f.layout.0[i].clone()).collect::<Vec<_>>();
        if flows.iter().any(|f| rest(f) != rest(&flows[0])) {
            return wrong(": the other dimensions differ");
        }
        let inputs: Vec<NodeId> = flows.iter().map(|f| f.node).collect();
        let id = self.push(node, suffix, emit::concat()?, &inputs)?;
        let mut layout = flows.swap_remove(0).layout;
        let c = self.channels(id);
        layout.0[at] = Layout::rows(c).0.remove(1);
        Ok(Flow::new(id, layout))
    }

    /// Channels that others take the place of, as exporters write `x[:, a:b] = y`: along the first axis, behind a Transpose.
    pub(super) fn scatter(&mut self, node: &NodeProto) -> Outcome<Flow> {
        if Attributes(node).text("reduction", "none") != "none" {
            return Err("adds to channels, which is not supported: taking their place is".into());
        }
        let (x, new) = (self.flow(node, 0)?, self.flow(node, 2)?);
        let indices = self.host(node, 1)?;
        let Size::Fixed(c) = x.layout.size(0) else { return Err("changes some images of a batch".into()) };
        let along_first = matches!(indices.dims[..], [_, 1]) && x.layout.is(0, Axis::Channel);
        if !along_first || x.layout.channel_axis(0) != Some(0) {
            let shape = x.layout.shape();
            return Err(format!("changes elements of {shape} other than whole channels, which is not supported"));
        }
        let index = |i: i64| axis(i, c as usize).map_err(|_| format!("changes channel {i} of {c}"));
        let places: Vec<usize> = indices.numbers()?.into_iter().map(index).collect::<Outcome<_>>()?;
        if new.layout.rank() != x.layout.rank() || new.layout.size(0) != Size::Fixed(places.len() as i64) {
            return Err(format!("puts {} in the place of {} channels", new.layout.shape(), places.len()));
        }
        let mut order: Vec<usize> = (0..c as usize).collect();
        for (i, place) in places.into_iter().enumerate() {
            order[place] = c as usize + i;
        }
        let both = self.side_by_side(node, ".both", vec![x, new], 0)?;
        self.chosen(node, both, 0, &order)
    }

    /// Expand and Tile to the shape that the activation has already.
    pub(super) fn expand(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let wanted = self.host(node, 1)?.sizes()?;
        let own = x.layout.sizes();
        let kept = |(have, want): (&Size, &Size)| match (node.op_type == "Tile", want) {
            (true, want) => *want == Size::Fixed(1),
            (false, Size::Fixed(1)) => true,
            (false, Size::Fixed(n)) => have == want || matches!(have, Size::Batch(1)) && self.batch == Some(*n),
            (false, want) => have == want,
        };
        let missing = own.len().checked_sub(wanted.len()).unwrap_or(usize::MAX);
        if missing == usize::MAX || !own.iter().skip(missing).zip(&wanted).all(kept) {
            return Err(format!(
                "makes {} larger ({}), which is not supported",
                x.layout.shape(),
                super::host::listed(&wanted)
            ));
        }
        Ok(x)
    }
}
