//! Input and output of a file.

use super::build::{Build, Flow, Value};
use super::emit;
use super::layout::{Axis, Layout};
use super::{MAX_CLASSES, MAX_SIZE, MAX_VALUE, Outcome};
use crate::graph::NodeId;
use crate::tensor::onnx::{DataType, GraphProto, ValueInfoProto};
use std::collections::{HashMap, HashSet};

/// The input of a file.
pub struct Input<'a> {
    pub name: &'a str,
    /// How many images, if that is fixed.
    pub batch: Option<i64>,
    /// `[h, w, c]`.
    pub sample: [usize; 3],
    pub layout: Layout,
}

/// The one input of images. `size`: `[c, h, w]` where the file leaves them open; `c = 0`: as the file says.
pub fn input(file: &GraphProto, size: Option<[usize; 3]>) -> Outcome<Input<'_>> {
    let all: Vec<&ValueInfoProto> = file.inputs().collect();
    let [input] = all[..] else {
        let names: Vec<&str> = all.iter().take(8).map(|i| &i.name[..]).collect();
        return Err(format!("takes {} inputs ({}); one of images is expected", all.len(), names.join(", ")));
    };
    let name = &input.name;
    let tensor = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let Some(tensor) = tensor else { return Err(format!("input '{name}' is no tensor")) };
    if tensor.elem_type == DataType::Uint8 as i32 {
        return Err(format!(
            "input '{name}' takes bytes (u8), which are normalized inside the graph; f32 is expected: export the model without \
             that Cast, with an f32 image as example"
        ));
    }
    if tensor.elem_type != DataType::Float as i32 {
        return Err(format!(
            "input '{name}' is of type {}; f32 (1) is expected: export the model in float32",
            tensor.elem_type
        ));
    }
    let dims: Vec<Option<i64>> =
        tensor.shape.iter().flat_map(|s| &s.dim).map(|d| d.dim_value.filter(|v| *v > 0)).collect();
    let &[batch, d1, d2, d3] = &dims[..] else {
        return Err(format!(
            "input '{name}' has {} dimensions; images have 4 (batch, channels, height, width)",
            dims.len()
        ));
    };
    let last = channels_last(file, name);
    let found = if last { [d3, d1, d2] } else { [d1, d2, d3] };
    let mut sizes = [0; 3];
    for (i, (what, dim)) in [("channels", found[0]), ("height", found[1]), ("width", found[2])].into_iter().enumerate()
    {
        let given = size.map(|s| s[i]).filter(|s| *s > 0);
        let fixed = dim.map(|d| usize::try_from(d).unwrap_or(usize::MAX));
        sizes[i] = match (fixed, given) {
            (Some(d), Some(g)) if d != g => {
                return Err(format!("input '{name}' takes {what} of {d}, not of {g} as --input-size says"));
            }
            (Some(d), _) | (None, Some(d)) => d,
            (None, None) => {
                let form = if i == 0 { "CHANNELS,HEIGHT,WIDTH" } else { "HEIGHT,WIDTH" };
                return Err(format!(
                    "input '{name}' leaves its {what} open: give --input-size {form}, or export the model with an example \
                     image and only the batch free (PyTorch: dynamic_axes with dynamo=False, dynamic_shapes with dynamo=True)"
                ));
            }
        };
    }
    let [c, h, w] = sizes;
    let fits = sizes.iter().all(|s| (1..=MAX_SIZE).contains(s)) && c * h * w <= MAX_VALUE;
    if !fits {
        return Err(format!(
            "input '{name}': channels, height and width of {c}, {h}, {w}; each 1 to {MAX_SIZE}, and {MAX_VALUE} numbers at most \
             are possible"
        ));
    }
    let sample = [h, w, c];
    let layout = if last { Layout::channels_last(sample) } else { Layout::channels_first(sample) };
    Ok(Input { name, batch, sample, layout })
}

/// Whether images lie as `n h w c`: a Transpose to `n c h w` reads them, or what is computed element by element from them.
fn channels_last(file: &GraphProto, input: &str) -> bool {
    const ELEMENTWISE: [&str; 7] = ["Add", "Sub", "Mul", "Div", "Cast", "Identity", "Pad"];
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, node) in file.node.iter().enumerate() {
        node.input.iter().for_each(|name| readers.entry(name).or_default().push(i));
    }
    let (mut open, mut seen) = (vec![input], HashSet::new());
    while let Some(name) = open.pop() {
        for &i in readers.get(name).into_iter().flatten() {
            let node = &file.node[i];
            let perm = node.attribute.iter().find(|a| a.name == "perm").map(|a| &a.ints[..]);
            if node.op_type == "Transpose" && perm == Some(&[0, 3, 1, 2]) {
                return true;
            }
            if ELEMENTWISE.contains(&&node.op_type[..]) && seen.insert(i) {
                open.extend(node.output.first().map(|o| &o[..]));
            }
        }
    }
    false
}

/// Dimensions that a file declares for a value; `None` if it does not.
fn declared_rank(value: &ValueInfoProto) -> Option<usize> {
    let shape = value.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
    Some(shape.dim.len()).filter(|n| *n > 0)
}

/// Values that may be the logits: the one called `wanted`, else the only output that can be a row per image, else all.
pub fn outputs<'a>(file: &'a GraphProto, wanted: Option<&'a str>) -> Outcome<Vec<&'a str>> {
    let all: Vec<&str> = file.output.iter().map(|o| &o.name[..]).collect();
    if let Some(wanted) = wanted {
        let known = all.contains(&wanted) || file.node.iter().any(|n| n.output.iter().any(|o| o == wanted));
        return if known {
            Ok(vec![wanted])
        } else {
            Err(format!(
                "has no output '{wanted}'; it has {}",
                all.iter().take(8).copied().collect::<Vec<_>>().join(", ")
            ))
        };
    }
    if all.is_empty() {
        return Err("has no output".into());
    }
    let rows: Vec<&str> =
        file.output.iter().filter(|o| declared_rank(o).is_none_or(|r| r == 2)).map(|o| &o.name[..]).collect();
    Ok(if rows.is_empty() { all } else { rows })
}

impl Build<'_> {
    /// The node of the logits, among the values `outputs`.
    pub fn logits(&mut self, outputs: &[&str]) -> Outcome<NodeId> {
        let mut fit = Vec::new();
        for name in outputs {
            if let Some(Value::Flow(flow)) = self.named(name) {
                let flow = flow.clone();
                let row = flow.layout.rank() == 2 && self.classes(&flow).is_some();
                if row {
                    fit.push(*name);
                }
            }
        }
        let missing = outputs.iter().any(|o| matches!(self.named(o), Some(Value::Missing)));
        let output = match (outputs, &fit[..]) {
            (&[one], _) => one,
            (_, &[one]) if !missing => one,
            _ if missing && fit.len() < 2 => return Err(self.report(outputs)),
            _ => {
                let shape = |name: &&str| match self.named(name) {
                    Some(Value::Flow(flow)) => format!("'{name}' {}", flow.layout.shape()),
                    _ => format!("'{name}'"),
                };
                let all: Vec<String> = outputs.iter().take(8).map(shape).collect();
                return Err(format!(
                    "has {} outputs that may be the logits: {}; choose one with --output NAME",
                    outputs.len(),
                    all.join(", ")
                ));
            }
        };
        let flow = match self.named(output) {
            Some(Value::Flow(flow)) => flow.clone(),
            Some(Value::Missing) => return Err(self.report(outputs)),
            _ => return Err(format!("output '{output}' does not depend on the input")),
        };
        let shape = flow.layout.shape();
        let Some(classes) = self.classes(&flow) else {
            return Err(format!("output '{output}' is {shape} and not a row of logits per image"));
        };
        if !(2..=MAX_CLASSES).contains(&classes) {
            return Err(format!("output '{output}' has {classes} logits; 2 to {MAX_CLASSES} are possible"));
        }
        self.as_row(flow)
    }

    /// How many logits a value has, if it is a row of them per image.
    fn classes(&self, flow: &Flow) -> Option<usize> {
        let layout = &flow.layout;
        let axes = layout.channel_axis(1)?;
        let others = (1..layout.rank()).filter(|&i| i != axes).all(|i| layout.0[i].is_empty());
        let row = layout.rank() >= 2 && axes >= 1 && layout.is(0, Axis::Batch) && !layout.0[0].is_empty() && others;
        (row && flow.pad.is_none()).then(|| self.channels(flow.node))
    }

    fn as_row(&mut self, flow: Flow) -> Outcome<NodeId> {
        let mut id = flow.node;
        let c = self.channels(id);
        if self.shapes[id].len() == 4 {
            id = self.push_named("logits", emit::reshape(vec![c])?, &[id])?;
        }
        let at = flow.layout.channel_axis(1).unwrap_or(1);
        let order = flow.layout.positions(at);
        if order.iter().enumerate().any(|(i, &j)| i != j) {
            id = self.push_named("logits.order", emit::gather_channels(order)?, &[id])?;
        }
        Ok(id)
    }
}
