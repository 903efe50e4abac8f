//! ONNX files of an integer network, with QuantizeLinear and DequantizeLinear around operations of floats, as runtimes that
//! know integers want them (opset 21, NCHW, input normalized).
//!
//! Two forms, both with the network's arithmetic up to f32 rounding:
//!
//! - [`Form::Qdq`] stores weights of up to 4 bits as INT4. Normalization stays a product and a sum *behind* the convolution: ONNX
//!   Runtime rounds a bias within a quantized convolution to steps of `s_x s_w`, which at 4 bits moves logits by whole units.
//! - [`Form::Int8`] stores weights as INT8, what runtimes compute with. Normalization is folded into the weights' scales (a
//!   negative one into the codes' signs) and a bias, so that a convolution between codes becomes one integer operation
//!   (QLinearConv). Codes of few bits, of weights and of activations, are multiplied as far as a byte reaches, and the scale
//!   divided by it: a bias is then as many times finer, and is chosen so that rounding it changes no code (`rounding`).
//!
//! Activations are UINT8 in both, those of fewer bits clipped as codes: ONNX Runtime 1.31 moves quantizers past pooling, slices
//! and clips of floats, and then refuses its own graph if they are INT4 or INT8.

mod levels;
mod rounding;
mod settle;

pub use settle::settle;

use super::network::{IntegerNetwork, Unit};
use crate::graph::deployed::{LoweredLayer, OnnxNode, Value};
use crate::graph::nodes::{Node, NodeKind};
use crate::quant::Quantizer;
use crate::tensor::onnx::{Attribute, DataType, Writer};
use crate::{Error, Result};

/// How codes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Qdq,
    Int8,
}

/// Returns the ONNX file of `network`. The input is f32 NCHW, normalized as the metadata `ghostbit.normalization` says. The output
/// are logits. Errors on a network that is not consistent, on a zero point that the stored type does not hold, and on a node
/// without ONNX form.
pub fn onnx(network: &IntegerNetwork, form: Form) -> Result<Vec<u8>> {
    let mut export = Export::new(network, form)?;
    for id in 0..export.units.len() {
        let name = export.unit(id)?;
        export.real.push(name);
    }
    let input = export.real.first().cloned().unwrap_or_default();
    let last = export.real.last().cloned().unwrap_or_default();
    let output = export.writer.node("Identity", &[&last], "logits".into(), &[]);
    let metadata = serde_json::to_string(&network.normalization).expect("plain data");
    let sample = channels_first(network.input());
    let ends = [(&input[..], &sample[..]), (&output[..], &[network.graph.classes][..])];
    Ok(export.writer.finish(&network.graph.name, ends, vec![("ghostbit.normalization", metadata)]))
}

struct Export<'a> {
    network: &'a IntegerNetwork,
    form: Form,
    units: Vec<Unit>,
    /// Output of each unit.
    values: Vec<Value>,
    writer: Writer,
    /// Name of each unit's output in f32, NCHW.
    real: Vec<String>,
    /// Names of codes and their zero point, where a unit's output was quantized by itself.
    codes: Vec<Option<[String; 2]>>,
}

fn channels_first(shape: &[usize]) -> Vec<usize> {
    match shape {
        [h, w, c] => vec![*c, *h, *w],
        other => other.to_vec(),
    }
}

/// A weight on its way: codes less zero point, or the codes with it, in `k c r s` order.
struct Stored {
    data: DataType,
    codes: Vec<i32>,
    /// Units per code.
    step: Vec<f32>,
    zero_point: Option<Vec<i32>>,
    /// What a code less zero point was multiplied by.
    finer: i32,
}

impl<'a> Export<'a> {
    fn new(network: &'a IntegerNetwork, form: Form) -> Result<Self> {
        let all = network.values()?;
        let units = network.units()?;
        let values = units.iter().map(|u| all[u.end].clone()).collect();
        let codes = vec![None; units.len()];
        Ok(Self { network, form, units, values, writer: Writer::default(), real: Vec::new(), codes })
    }

    /// Returns the first node of unit `id`.
    fn head(&self, id: usize) -> &'a Node {
        &self.network.graph.nodes[self.units[id].head]
    }

    fn fail(&self, id: usize, what: String) -> Error {
        let detail = format!("node '{}' cannot be written to ONNX: {what}", self.head(id).name);
        Error::network(&self.network.graph.name, detail)
    }

    fn unit(&mut self, id: usize) -> Result<String> {
        let node = self.head(id);
        let unit = self.units[id].clone();
        let inputs: Vec<String> = unit.inputs.iter().map(|&i| self.real[i].clone()).collect();
        if let Some(layer) = &unit.layer {
            return self.layer(id, layer, &inputs);
        }
        if let NodeKind::FakeQuant(_) = node.kind {
            let q = self.network.tensors.quantizer(&node.name)?;
            let x = inputs.first().cloned().unwrap_or_default();
            return self.quantize(id, x, &q, false);
        }
        self.written(id, node, &inputs).map_err(|what| self.fail(id, what))
    }

    /// Writes a node that is no layer and no quantizer by its own rule.
    fn written(&mut self, id: usize, node: &Node, inputs: &[String]) -> std::result::Result<String, String> {
        let shapes = self.units[id].inputs.iter().map(|&i| &self.values[i].shape[..]).collect();
        let (output, tensors) = (&self.values[id].shape[..], &self.network.tensors);
        let mut at = OnnxNode { writer: &mut self.writer, name: &node.name, inputs, shapes, output, tensors };
        node.kind.rules().onnx(&mut at)
    }

    /// Sums, then what is fused behind them.
    fn layer(&mut self, id: usize, layer: &LoweredLayer, inputs: &[String]) -> Result<String> {
        let node = self.head(id);
        let name = |part: &str| format!("{}/{part}", node.name);
        let fold = self.form == Form::Int8;
        let k = layer.weight.shape[0];
        let (scale, shift) = behind(layer);
        let mut stored = self.stored(layer, fold.then_some(&scale[..]));
        let centred = self.centred(id, layer, [&scale, &shift]);
        let mut agrees = centred.is_some();
        let mut shift = centred.unwrap_or(shift);
        if let (true, Some(stored)) = (fold, &mut stored) {
            agrees = self.round_as_the_engine(id, layer, &scale, stored, &mut shift).unwrap_or(agrees);
        }
        if let (false, Some(read)) = (agrees, self.level(id, layer)) {
            return self.step_by_step(id, layer, read, inputs);
        }
        let weight = self.weight(id, layer, stored)?;
        let bias = (fold && shift.iter().any(|b| *b != 0.0)).then(|| self.writer.floats(name("bias"), &[k], &shift));
        let operands: Vec<&str> = [&inputs[0], &weight].into_iter().chain(&bias).map(|s| &s[..]).collect();
        let (op, attributes) = operation(&node.kind, layer);
        let mut v = self.writer.node(op, &operands, name("sums"), &attributes);
        if !fold {
            v = self.scale_and_shift(id, v, &scale, &shift);
        }
        let then = &layer.then;
        if then.residual {
            v = self.writer.node("Add", &[&v, &inputs[1]], name("sum"), &[]);
        }
        // Codes that begin at 0 cut off what is negative by themselves.
        let cut = |q: &Quantizer| q.zero == 1 << (q.bits - 1);
        if then.relu && !then.quantizer.as_ref().is_some_and(cut) {
            v = self.writer.node("Relu", &[&v], name("relu"), &[]);
        }
        match &then.quantizer {
            Some(q) => self.quantize(id, v, q, true),
            None => Ok(v),
        }
    }

    /// Writes `scale x + shift` per channel.
    fn scale_and_shift(&mut self, id: usize, x: String, scale: &[f32], shift: &[f32]) -> String {
        let (name, output, tensors) = (&self.head(id).name[..], &self.values[id].shape[..], &self.network.tensors);
        let mut at = OnnxNode { writer: &mut self.writer, name, inputs: &[], shapes: Vec::new(), output, tensors };
        at.scale_and_shift(x, scale, shift)
    }

    /// How the weight is stored, its output channels multiplied by `factors` where given; `None` if integers do not hold it.
    fn stored(&self, layer: &LoweredLayer, factors: Option<&[f32]>) -> Option<Stored> {
        let w = &layer.weight;
        let row = w.codes.len() / w.scale.len();
        let ones = vec![1.0; w.scale.len()];
        let factors = factors.unwrap_or(&ones[..]);
        let sign = |k: usize| if factors[k] < 0.0 { -1 } else { 1 };
        let mut step: Vec<f32> = w.scale.iter().zip(factors).map(|(s, f)| f.abs() / s).collect();
        if !step.iter().all(|s| s.is_normal()) {
            return None;
        }
        let codes = kcrs(&w.codes, &w.shape);
        let fits = |lo: i32, hi: i32| w.zero.iter().all(|z| (lo..=hi).contains(&-z));
        if self.form == Form::Qdq && (w.bits > 4 && fits(-128, 127) || w.bits <= 4 && fits(-8, 7)) {
            let data = if w.bits <= 4 { DataType::Int4 } else { DataType::Int8 };
            let zero_point = Some(w.zero.iter().map(|z| -z).collect());
            return Some(Stored {
                data,
                codes: codes.iter().map(|q| i32::from(*q)).collect(),
                step,
                zero_point,
                finer: 1,
            });
        }
        // Zero points of 0: codes of values.
        let at = |i: usize, q: i8| (i32::from(q) + w.zero[i / row]).saturating_mul(sign(i / row));
        let mut codes: Vec<i32> = codes.iter().enumerate().map(|(i, q)| at(i, *q)).collect();
        let reach = codes.iter().fold(0, |m, q| m.max(q.saturating_abs()));
        if reach > 127 {
            // -(q + z) = (-q - 1) - (z - 1)
            let turned = |k: usize| factors[k] < 0.0;
            let zero_point: Vec<i32> =
                w.zero.iter().enumerate().map(|(k, z)| if turned(k) { z - 1 } else { -z }).collect();
            let own = kcrs(&w.codes, &w.shape).into_iter().map(i32::from).enumerate();
            let codes = own.map(|(i, q)| if turned(i / row) { -q - 1 } else { q }).collect();
            let fits = zero_point.iter().all(|z| (-128..=127).contains(z));
            return fits.then_some(Stored {
                data: DataType::Int8,
                codes,
                step,
                zero_point: Some(zero_point),
                finer: 1,
            });
        }
        let finer = if reach > 0 { 1 << (127 / reach).ilog2() } else { 1 };
        codes.iter_mut().for_each(|q| *q *= finer);
        step.iter_mut().for_each(|s| *s /= finer as f32);
        Some(Stored { data: DataType::Int8, codes, step, zero_point: None, finer })
    }

    /// The name of the weight's values.
    fn weight(&mut self, id: usize, layer: &LoweredLayer, stored: Option<Stored>) -> Result<String> {
        let node = self.head(id);
        let name = |part: &str| format!("{}/{part}", node.name);
        let w = &layer.weight;
        let dims = match w.shape[..] {
            [k, r, s, c] => vec![k, c, r, s],
            _ => w.shape.clone(),
        };
        let Some(stored) = stored else {
            let what = "its weights have a zero point beyond INT8: their range does not hold 0".into();
            return Err(self.fail(id, what));
        };
        let codes = self.writer.codes(name("weight.codes"), &dims, stored.data, &stored.codes)?;
        let step = self.writer.floats(name("weight.scale"), &[stored.step.len()], &stored.step);
        let zero_point = stored.zero_point.unwrap_or_else(|| vec![0; stored.step.len()]);
        let zero_point = self.writer.codes(name("weight.zero_point"), &[zero_point.len()], stored.data, &zero_point)?;
        let axis = [("axis", Attribute::Int(0))];
        Ok(self.writer.node("DequantizeLinear", &[&codes, &step, &zero_point], name("weight"), &axis))
    }

    /// UINT8 codes of `v` and back; the name of the values. `fused`: behind a layer.
    fn quantize(&mut self, id: usize, v: String, q: &Quantizer, fused: bool) -> Result<String> {
        let node = self.head(id);
        let name = |part: &str| format!("{}/{part}", node.name);
        let half = 1 << (q.bits - 1);
        let zero = half - q.zero;
        if !(0..=255).contains(&zero) {
            return Ok(self.quantize_in_floats(id, v, q, fused));
        }
        let mut step = self.writer.floats(name("step"), &[], &[1.0 / q.scale]);
        let mut zero_point = self.writer.codes(name("zero_point"), &[], DataType::Uint8, &[zero])?;
        let mut codes = if fused {
            self.writer.node("QuantizeLinear", &[&v, &step, &zero_point], name("codes"), &[])
        } else {
            // Pixels have few values, and all of one value may lie at an edge: rounded from the engine's own product and difference.
            let scale = self.writer.floats(name("scale"), &[], &[q.scale]);
            let shift = self.writer.floats(name("zero"), &[], &[q.zero as f32]);
            let one = self.writer.floats(name("one"), &[], &[1.0]);
            let middle = self.writer.codes(name("middle"), &[], DataType::Uint8, &[half])?;
            let scaled = self.writer.node("Mul", &[&v, &scale], name("scaled"), &[]);
            let level = self.writer.node("Sub", &[&scaled, &shift], name("level"), &[]);
            self.writer.node("QuantizeLinear", &[&level, &one, &middle], name("codes"), &[])
        };
        if q.bits < 8 {
            let ends = [("low", 0), ("high", 2 * half - 1)];
            let [low, high] = ends.map(|(n, code)| self.writer.codes(name(n), &[], DataType::Uint8, &[code]));
            codes = self.writer.node("Clip", &[&codes, &low?, &high?], name("clipped"), &[]);
        }
        self.codes[id] = Some([codes.clone(), zero_point.clone()]);
        // The same values as codes of a finer step, for the sake of the bias of the layers that read them.
        let finer = self.finer(q);
        if finer > 1 {
            let values = self.writer.node("DequantizeLinear", &[&codes, &step, &zero_point], name("coarse"), &[]);
            step = self.writer.floats(name("fine.step"), &[], &[1.0 / q.scale / finer as f32]);
            zero_point = self.writer.codes(name("fine.zero_point"), &[], DataType::Uint8, &[zero * finer])?;
            codes = self.writer.node("QuantizeLinear", &[&values, &step, &zero_point], name("fine"), &[]);
        }
        let output = if fused { name("out") } else { node.name.clone() };
        Ok(self.writer.node("DequantizeLinear", &[&codes, &step, &zero_point], output, &[]))
    }
}

impl Export<'_> {
    /// Rounds `v` to the values of codes in f32, by the engine's own operations one by one, and returns the values' name. For
    /// ranges that do not hold 0, whose zero point no type of codes holds.
    fn quantize_in_floats(&mut self, id: usize, v: String, q: &Quantizer, fused: bool) -> String {
        let node = self.head(id);
        let output = if fused { format!("{}/out", node.name) } else { node.name.clone() };
        let name = |part: &str| format!("{}/out.{part}", node.name);
        let a = q.affine();
        let numbers = [("scale", a.scale), ("zero", a.zero), ("low", a.low), ("high", a.high)];
        let [scale, zero, low, high] = numbers.map(|(part, v)| self.writer.floats(name(part), &[], &[v]));
        let scaled = self.writer.node("Mul", &[&v, &scale], name("scaled"), &[]);
        let level = self.writer.node("Sub", &[&scaled, &zero], name("level"), &[]);
        let rounded = self.writer.node("Round", &[&level], name("rounded"), &[]);
        let code = self.writer.node("Clip", &[&rounded, &low, &high], name("clipped"), &[]);
        let sum = self.writer.node("Add", &[&code, &zero], name("integers"), &[]);
        self.writer.node("Div", &[&sum, &scale], output, &[])
    }
}

/// The operator of a layer, with its attributes.
fn operation(kind: &NodeKind, layer: &LoweredLayer) -> (&'static str, Vec<(&'static str, Attribute)>) {
    let (params, group) = match kind {
        NodeKind::Conv2d(conv) => (conv.params, 1),
        NodeKind::Conv2dDepthwise(conv) => (conv.params, layer.weight.shape[0]),
        NodeKind::Conv2dGrouped(conv) => (conv.params, conv.groups),
        _ => return ("Gemm", vec![("transB", Attribute::Int(1))]),
    };
    let ints = |v: &[usize]| Attribute::Ints(v.iter().map(|&v| v as i64).collect());
    let mut all =
        vec![("strides", ints(&params.stride)), ("pads", ints(&params.pad)), ("dilations", ints(&params.dilation))];
    if group > 1 {
        all.push(("group", Attribute::Int(group as i64)));
    }
    ("Conv", all)
}

/// Scale and shift of a layer's sums: `v = scale acc + shift`.
fn behind(layer: &LoweredLayer) -> (Vec<f32>, Vec<f32>) {
    let k = layer.weight.shape[0];
    match &layer.then.norm {
        Some(norm) => norm.affine(layer.bias.as_deref()),
        None => (vec![1.0; k], layer.bias.clone().unwrap_or_else(|| vec![0.0; k])),
    }
}

/// Codes of `k r s c` (or `k c`) in the order `k c r s`.
fn kcrs(codes: &[i8], shape: &[usize]) -> Vec<i8> {
    let &[k, r, s, c] = shape else { return codes.to_vec() };
    let at = |i: usize| {
        let (ki, ci, pixel) = (i / (c * r * s), i / (r * s) % c, i % (r * s));
        codes[(ki * r * s + pixel) * c + ci]
    };
    (0..k * r * s * c).map(at).collect()
}
