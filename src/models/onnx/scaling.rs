//! Batch norms, and constants that channels are multiplied by or that are added to them.

use super::Outcome;
use super::attributes::Attributes;
use super::build::{Build, Flow};
use super::emit::{self, Absorbs};
use super::host::Host;
use super::layout::Axis;
use crate::tensor::io::HostTensor;
use crate::tensor::onnx::NodeProto;

/// `x * scale + shift`, each absent, one number, or one per channel in our order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Affine {
    pub scale: Option<Vec<f32>>,
    pub shift: Option<Vec<f32>>,
}

/// `a[i] op b[i]` for `c` channels, either of one number or of one per channel.
fn each(a: &[f32], b: &[f32], c: usize, op: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let at = |v: &[f32], i: usize| if v.len() == 1 { v[0] } else { v[i] };
    (0..c).map(|i| op(at(a, i), at(b, i))).collect()
}

impl Affine {
    pub fn scale(v: Vec<f32>) -> Self {
        Self { scale: Some(v), shift: None }
    }
    pub fn shift(v: Vec<f32>) -> Self {
        Self { scale: None, shift: Some(v) }
    }
    /// Without products by 1 and sums with 0.
    fn reduced(self) -> Self {
        let unless = |v: Option<Vec<f32>>, none: f32| v.filter(|v| v.iter().any(|v| *v != none));
        Self { scale: unless(self.scale, 1.0), shift: unless(self.shift, 0.0) }
    }
}

impl Build<'_> {
    /// Takes in a batch norm in its inference form, also where the file is one for training.
    pub(super) fn batch_norm(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        attributes.only("spatial", 1)?;
        let x = self.flow(node, 0)?;
        let x = self.rows_if_flat(node, x)?;
        if x.layout.rank() < 2 || !x.layout.is(1, Axis::Channel) || x.layout.channel_axis(1) != Some(1) {
            return Err(format!("its input {} has no axis 1 of channels", x.layout.shape()));
        }
        let c = self.channels(x.node);
        let eps = attributes.float("epsilon", 1e-5);
        if !(eps.is_finite() && eps > 0.0) {
            return Err(format!("epsilon = {eps} is not above 0"));
        }
        let at = x.layout.positions(1);
        let mut all = Vec::with_capacity(4);
        for i in 1..5 {
            let mut t = self.vector(node, i, c)?;
            let mut values = vec![0.0; c];
            at.iter().zip(&t.values).for_each(|(&j, v)| values[j] = *v);
            t.values = values;
            all.push(t);
        }
        let [gamma, beta, mean, var]: [HostTensor; 4] = all.try_into().map_err(|_| "has not four parameters")?;
        if let Some(v) = var.values.iter().find(|v| **v < 0.0) {
            return Err(format!("'{}' holds a negative variance ({v})", node.input[4]));
        }
        let kind = emit::batch_norm(
            self.param(&node.input[1], &[c], gamma)?,
            self.param(&node.input[2], &[c], beta)?,
            self.buffer(&node.input[3], mean)?,
            self.buffer(&node.input[4], var)?,
            eps,
        )?;
        let layout = x.layout;
        Ok(Flow::new(self.push(node, "", kind, &[x.node])?, layout))
    }

    /// Multiplies or adds constants. The layer before takes them in if nothing else reads what lies between.
    pub(super) fn affine(&mut self, node: &NodeProto, x: Flow, alone: bool, names: &str, by: Affine) -> Outcome<Flow> {
        let by = by.reduced();
        if let Some(v) = by.scale.iter().chain(&by.shift).flatten().find(|v| !v.is_finite()) {
            return Err(format!("'{names}' holds {v}; constants must be finite"));
        }
        if by == Affine::default() {
            return Ok(x);
        }
        let c = self.channels(x.node);
        if alone && self.absorbed(x.node, c, names, &by)? {
            return Ok(x);
        }
        let mut param = |end: &str, v: Option<Vec<f32>>| {
            let v = v.map(|v| each(&v, &[0.0], c, |v, _| v));
            v.map(|values| self.made_param(&format!("{names}{end}"), &[c], HostTensor { shape: vec![c], values }))
                .transpose()
        };
        let both = by.scale.is_some() && by.shift.is_some();
        let ends = if both { [".scale", ".shift"] } else { ["", ""] };
        let (scale, shift) = (param(ends[0], by.scale)?, param(ends[1], by.shift)?);
        let kind = emit::channel_affine(scale, shift)?;
        let id = self.push(node, "", kind, &[x.node])?;
        Ok(Flow { node: id, shared: false, ..x })
    }

    /// Lets node `id` of `c` channels take in `by`, if it can.
    fn absorbed(&mut self, id: usize, c: usize, names: &str, by: &Affine) -> Outcome<bool> {
        let mut kind = self.graph.nodes[id].kind.clone();
        let (one, zero) = (&[1.0][..], &[0.0][..]);
        let (scale, shift) = (by.scale.as_deref().unwrap_or(one), by.shift.as_deref().unwrap_or(zero));
        let tensor = |values: Vec<f32>| HostTensor { shape: vec![c], values };
        match emit::absorbs(&mut kind) {
            None => return Ok(false),
            Some(Absorbs::Layer { weight, bias }) => {
                if by.scale.is_some() {
                    let values = self.stored_values(weight)?;
                    let row = values.len() / c;
                    for (i, v) in values.iter_mut().enumerate() {
                        *v *= if scale.len() == 1 { scale[0] } else { scale[i / row] };
                    }
                }
                match bias {
                    Some(bias) => {
                        let values = self.stored_values(bias)?;
                        *values = each(&each(values, scale, c, |a, b| a * b), shift, c, |a, b| a + b);
                    }
                    None if by.shift.is_some() => {
                        *bias = Some(self.made_param(names, &[c], tensor(each(shift, zero, c, |v, _| v)))?);
                    }
                    None => {}
                }
            }
            Some(Absorbs::Norm { gamma, beta }) => {
                let values = self.stored_values(gamma)?;
                *values = each(values, scale, c, |a, b| a * b);
                let values = self.stored_values(beta)?;
                *values = each(&each(values, scale, c, |a, b| a * b), shift, c, |a, b| a + b);
            }
            Some(Absorbs::Affine { scale: own, shift: moved }) => {
                if by.scale.is_some() {
                    match own {
                        Some(own) => {
                            let values = self.stored_values(own)?;
                            *values = each(values, scale, c, |a, b| a * b);
                        }
                        None => *own = Some(self.made_param(names, &[c], tensor(each(scale, zero, c, |v, _| v)))?),
                    }
                }
                match moved {
                    Some(moved) => {
                        let values = self.stored_values(moved)?;
                        *values = each(&each(values, scale, c, |a, b| a * b), shift, c, |a, b| a + b);
                    }
                    None if by.shift.is_some() => {
                        *moved = Some(self.made_param(names, &[c], tensor(each(shift, zero, c, |v, _| v)))?);
                    }
                    None => {}
                }
            }
        }
        self.graph.nodes[id].kind = kind;
        // A sum with numbers below 0 may be below 0.
        self.nonnegative[id] = false;
        Ok(true)
    }

    /// The activation `i` and the constant `other` that `node` joins by `op`.
    pub(super) fn with_constant(&mut self, node: &NodeProto, i: usize, other: usize) -> Outcome<Flow> {
        let x = self.flow(node, i)?;
        let alone = self.alone(node, i, &x);
        let x = self.rows_if_flat(node, x)?;
        let t: std::rc::Rc<Host> = self.host(node, other)?;
        let v = self.per_channel(&x, &t).map_err(|e| format!("{e} ('{}')", node.input[other]))?;
        let negative = |v: Vec<f32>| v.into_iter().map(|v| -v).collect();
        let by = match (&node.op_type[..], i) {
            ("Add" | "Sum", _) => Affine::shift(v),
            ("Sub", 0) => Affine::shift(negative(v)),
            ("Sub", _) => Affine { scale: Some(vec![-1.0]), shift: Some(v) },
            ("Mul", _) => Affine::scale(v),
            ("Div", 0) => Affine::scale(v.into_iter().map(|v| 1.0 / v).collect()),
            _ => {
                let name = node.input[other].clone();
                return self.divided(node, x, v, &name);
            }
        };
        let name = node.input[other].clone();
        self.affine(node, x, alone, &name, by)
    }

    pub(super) fn reciprocal(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        self.divided(node, x, vec![1.0], "one")
    }

    /// Constants divided by `x`: a value of constants, made of `x` times 0, divided by it.
    fn divided(&mut self, node: &NodeProto, x: Flow, v: Vec<f32>, names: &str) -> Outcome<Flow> {
        let by = Affine { scale: Some(vec![0.0]), shift: Some(v) };
        let shared = Flow { shared: true, ..x.clone() };
        let above = self.affine(node, shared, false, names, by)?;
        let id = self.push(node, ".quotient", emit::div()?, &[above.node, x.node])?;
        Ok(Flow::new(id, x.layout))
    }

    pub(super) fn negated(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let x = self.flow(node, 0)?;
        let alone = self.alone(node, 0, &x);
        self.affine(node, x, alone, "negative", Affine::scale(vec![-1.0]))
    }
}
