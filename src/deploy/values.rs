//! What the nodes of an integer network give, and whether it is one at all: everything that a file may get wrong.

use super::network::{IntegerNetwork, Kind, Layer, Norm, Quantizer, Value, Weight};
use crate::ops::conv2d::{Conv2dParams, Geometry};
use crate::ops::conv2d_int::{MAX_REDUCTION, MAX_ZERO};
use crate::tensor::Shape;
use crate::{Error, Result};

/// Numbers of one sample's value between nodes, at most.
const MAX_VALUE: usize = 1 << 26;
/// Sizes of one dimension, window, stride, padding or dilation, at most.
const MAX_DIM: usize = 1 << 16;

impl IntegerNetwork {
    /// Checks everything and returns what each node gives. Errors name the node; nothing large is allocated.
    pub fn values(&self) -> Result<Vec<Value>> {
        let mut values: Vec<Value> = Vec::with_capacity(self.nodes.len());
        let mut names = std::collections::HashSet::new();
        let fail = |what: String| Error::network(&self.name, what);
        let norm = &self.normalization;
        if norm.mean.iter().chain(&norm.std).any(|v| !v.is_finite()) || norm.std.iter().any(|s| *s <= 0.0) {
            return Err(fail(format!("normalization {norm:?} is not finite, or divides by 0")));
        }
        for (id, node) in self.nodes.iter().enumerate() {
            let fail = |what: String| fail(format!("node {id} '{}' ({}): {what}", node.name, node.kind.op()));
            if !names.insert(&node.name) {
                return Err(fail("another node has this name".into()));
            }
            if let Some(&i) = node.inputs.iter().find(|&&i| i >= id) {
                return Err(fail(format!("reads node {i}, which does not come before it")));
            }
            let wanted = match &node.kind {
                Kind::Input => 0,
                Kind::Add => 2,
                Kind::Concat => node.inputs.len().max(1),
                kind => 1 + usize::from(kind.layer().is_some_and(|l| l.then.residual)),
            };
            if node.inputs.len() != wanted {
                return Err(fail(format!("{} inputs, expected {wanted}", node.inputs.len())));
            }
            let inputs: Vec<&Value> = node.inputs.iter().map(|&i| &values[i]).collect();
            let value = self.value(&node.kind, &inputs).map_err(fail)?;
            let elements = value.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
            if !elements.is_some_and(|e| (1..=MAX_VALUE).contains(&e)) {
                return Err(fail(format!(
                    "its output {:?} is empty or has more than {MAX_VALUE} numbers",
                    value.shape
                )));
            }
            values.push(value);
        }
        match values.last() {
            Some(last) if last.codes.is_none() && last.shape == [self.classes] => Ok(values),
            Some(last) => Err(fail(format!("gives {:?}, expected {} logits in f32", last, self.classes))),
            None => Err(fail("has no nodes".into())),
        }
    }

    fn value(&self, kind: &Kind, x: &[&Value]) -> std::result::Result<Value, String> {
        let image =
            |v: &Value| <[usize; 3]>::try_from(&v.shape[..]).map_err(|_| format!("input {:?} is not h w c", v.shape));
        let real = |shape: Vec<usize>| Value { shape, codes: None };
        let small = |sizes: &[usize]| match sizes.iter().find(|s| **s > MAX_DIM) {
            Some(s) => Err(format!("{s} is larger than {MAX_DIM}")),
            None => Ok(()),
        };
        let pooled = |k: usize, stride: usize, pad: usize| {
            let [h, w, c] = image(x[0])?;
            small(&[k, stride, pad])?;
            if k == 0 || stride == 0 || 2 * pad > k || h + 2 * pad < k || w + 2 * pad < k {
                return Err(format!("a window of {k} at stride {stride} with padding {pad} does not fit {h}x{w}"));
            }
            Ok(vec![(h + 2 * pad - k) / stride + 1, (w + 2 * pad - k) / stride + 1, c])
        };
        Ok(match kind {
            Kind::Input => {
                small(&self.input)?;
                if !(1..=3).contains(&self.input.len()) {
                    return Err(format!("samples of shape {:?}", self.input));
                }
                real(self.input.clone())
            }
            Kind::Conv { layer, stride, pad, dilation } => {
                layer.weight.check(4)?;
                small(&[*stride, *pad, *dilation])?;
                small(&layer.weight.shape)?;
                let [h, w, c] = image(x[0])?;
                let params = Conv2dParams::new(*stride, *pad).dilation(*dilation);
                let g = Geometry::new("conv", [1, h, w, c].into(), Shape::new(&layer.weight.shape), params)
                    .map_err(|e| e.to_string())?;
                Self::after(layer, vec![g.p, g.q, g.k], x)?
            }
            Kind::Depthwise { layer, stride, pad, dilation } => {
                layer.weight.check(4)?;
                small(&[*stride, *pad, *dilation])?;
                small(&layer.weight.shape)?;
                let [h, w, c] = image(x[0])?;
                if layer.weight.shape[0] != c {
                    return Err(format!("weight {:?} does not fit {c} channels", layer.weight.shape));
                }
                let params = Conv2dParams::new(*stride, *pad).dilation(*dilation);
                let g = Geometry::new("depthwise", [1, h, w, 1].into(), Shape::new(&layer.weight.shape), params)
                    .map_err(|e| e.to_string())?;
                Self::after(layer, vec![g.p, g.q, c], x)?
            }
            Kind::Linear { layer } => {
                layer.weight.check(2)?;
                if x[0].shape != [layer.weight.shape[1]] {
                    return Err(format!("weight {:?} does not fit {:?}", layer.weight.shape, x[0].shape));
                }
                Self::after(layer, vec![layer.weight.shape[0]], x)?
            }
            Kind::Quantize(q) => Self::quantized(x[0].shape.clone(), *q)?,
            Kind::Norm(norm) => {
                norm.check(x[0].shape.last().copied().unwrap_or(0))?;
                real(x[0].shape.clone())
            }
            Kind::LeakyRelu { slope } if !(slope.is_finite() && *slope > 0.0) => {
                return Err(format!("slope {slope}; it must be finite and above 0"));
            }
            Kind::Relu | Kind::Relu6 | Kind::LeakyRelu { .. } => real(x[0].shape.clone()),
            Kind::Add if x[0].shape != x[1].shape => {
                return Err(format!("{:?} and {:?} cannot be added", x[0].shape, x[1].shape));
            }
            Kind::Add => real(x[0].shape.clone()),
            Kind::Concat => {
                let [first, rest @ ..] = x else { unreachable!("has an input") };
                let Some((c, outer)) = first.shape.split_last() else { return Err("its input is empty".into()) };
                let mut channels = *c;
                for v in rest {
                    match v.shape.split_last() {
                        Some((c, o)) if o == outer => channels = channels.saturating_add(*c),
                        _ => return Err(format!("{:?} does not fit beside {:?}", v.shape, first.shape)),
                    }
                }
                real([outer, &[channels]].concat())
            }
            Kind::ShortcutA { stride, c_out } => {
                let [h, w, c] = image(x[0])?;
                small(&[*stride, *c_out])?;
                if *stride == 0 || *c_out < c {
                    return Err(format!("stride {stride}, {c} channels to {c_out}"));
                }
                real(vec![h.div_ceil(*stride), w.div_ceil(*stride), *c_out])
            }
            Kind::GlobalAvgPool => real(vec![image(x[0])?[2]]),
            Kind::MaxPool { k, stride, pad } => Value { shape: pooled(*k, *stride, *pad)?, codes: x[0].codes },
            Kind::AvgPool { k, stride, pad } => real(pooled(*k, *stride, *pad)?),
            Kind::Reshape { shape } => {
                let elements = shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
                if elements != Some(x[0].shape.iter().product()) || !(1..=3).contains(&shape.len()) {
                    return Err(format!("{:?} cannot become {shape:?}", x[0].shape));
                }
                Value { shape: shape.clone(), codes: x[0].codes }
            }
        })
    }

    /// The output of a layer whose sums have `shape`.
    fn after(layer: &Layer, shape: Vec<usize>, x: &[&Value]) -> std::result::Result<Value, String> {
        let k = layer.weight.shape[0];
        if let Some(b) = &layer.bias {
            check_values("bias", b, k)?;
        }
        if let Some(n) = &layer.then.norm {
            n.check(k)?;
        }
        if layer.then.residual && x[1].shape != shape {
            return Err(format!("residual {:?} cannot be added to {shape:?}", x[1].shape));
        }
        match layer.then.quantizer {
            Some(q) => Self::quantized(shape, q),
            None => Ok(Value { shape, codes: None }),
        }
    }

    fn quantized(shape: Vec<usize>, q: Quantizer) -> std::result::Result<Value, String> {
        if !(2..=8).contains(&q.bits) {
            return Err(format!("activations of {} bits; 2 to 8 are possible", q.bits));
        }
        check_pair(q.scale, q.zero, MAX_ZERO[0])?;
        Ok(Value { shape, codes: Some(q) })
    }
}

impl Weight {
    fn check(&self, rank: usize) -> std::result::Result<(), String> {
        let k = self.shape.first().copied().unwrap_or(0);
        if !(2..=8).contains(&self.bits) {
            return Err(format!("weights of {} bits; 2 to 8 are possible", self.bits));
        }
        let elements = self.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        if self.shape.len() != rank || elements != Some(self.codes.len()) || self.codes.is_empty() {
            return Err(format!("{} weights for shape {:?} of rank {rank}", self.codes.len(), self.shape));
        }
        if self.codes.len() / k > MAX_REDUCTION {
            return Err(format!("{} weights per output; at most {MAX_REDUCTION} are possible", self.codes.len() / k));
        }
        let half = 1i16 << (self.bits - 1);
        if let Some(i) = self.codes.iter().position(|q| !(-half..half).contains(&i16::from(*q))) {
            return Err(format!("weight {i} is {}, which {} bits do not hold", self.codes[i], self.bits));
        }
        if self.scale.len() != k || self.zero.len() != k {
            return Err(format!("{} scales and {} zero points for {k} outputs", self.scale.len(), self.zero.len()));
        }
        self.scale.iter().zip(&self.zero).try_for_each(|(s, z)| check_pair(*s, *z, MAX_ZERO[1]))
    }
}

impl Norm {
    fn check(&self, c: usize) -> std::result::Result<(), String> {
        check_values("mean", &self.mean, c)?;
        check_values("scale", &self.scale, c)?;
        check_values("shift", &self.shift, c)
    }
}

fn check_values(what: &str, v: &[f32], c: usize) -> std::result::Result<(), String> {
    match v.iter().find(|v| !v.is_finite()) {
        _ if v.len() != c => Err(format!("{} values of {what} for {c} channels", v.len())),
        Some(v) => Err(format!("{what} has {v}; it must be finite")),
        None => Ok(()),
    }
}

fn check_pair(scale: f32, zero: i32, limit: i64) -> std::result::Result<(), String> {
    if !(scale.is_finite() && scale > 0.0) {
        return Err(format!("scale {scale}; it must be finite and above 0"));
    }
    if i64::from(zero).abs() > limit {
        return Err(format!("zero point {zero} lies beyond {limit}: the range is far from 0 for its width"));
    }
    Ok(())
}
