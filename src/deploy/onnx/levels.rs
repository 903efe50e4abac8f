//! Layers whose sums meet too many edges for a shift or an integer bias between them, most of all sums with a residual of 8-bit codes:
//! written step by step, each one an f32 operation of the engine. Codes less zero point are integers in f32, whose sums a runtime adds
//! exactly in any order, as long as they stay below 2^24.

use super::{Export, operation};
use crate::Result;
use crate::graph::deployed::{LoweredLayer, OnnxNode};
use crate::graph::nodes::NodeKind;
use crate::quant::Quantizer;

impl Export<'_> {
    /// The node whose codes layer `id` reads, if the layer goes from codes to codes.
    pub(super) fn level(&self, id: usize, layer: &LoweredLayer) -> Option<usize> {
        let input = self.units[id].inputs[0];
        (layer.then.quantizer.is_some() && self.codes[input].is_some()).then_some(input)
    }

    /// The integers of quantized node `id`, in f32.
    fn integers(&mut self, id: usize, reader: &str) -> Option<String> {
        let [codes, zero_point] = self.codes[id].clone()?;
        let name = |part: &str| format!("{reader}/{part}");
        let one = self.writer.floats(name("integers.one"), &[], &[1.0]);
        Some(self.writer.node("DequantizeLinear", &[&codes, &one, &zero_point], name("integers"), &[]))
    }

    /// What node `id` gives, if that is integers by a scale, or a shortcut's choice of such: divided as the engine divides, since
    /// DequantizeLinear multiplies.
    fn divided(&mut self, id: usize, of: &str) -> Option<String> {
        if let NodeKind::ShortcutA(shortcut) = &self.head(id).kind {
            let from = self.units[id].inputs[0];
            let x = self.divided(from, &format!("{of}/input"))?;
            let (output, shapes) = (&self.values[id].shape[..], vec![&self.values[from].shape[..]]);
            let tensors = &self.network.tensors;
            let mut at = OnnxNode { writer: &mut self.writer, name: of, inputs: &[], shapes, output, tensors };
            return Some(shortcut.write(&mut at, &x, of));
        }
        let integers = self.integers(id, of)?;
        let q = self.values[id].codes.expect("quantized by itself");
        let scale = self.writer.floats(format!("{of}.scale"), &[], &[q.scale]);
        Some(self.writer.node("Div", &[&integers, &scale], of.into(), &[]))
    }

    /// Layer `id` from the integers of node `input`.
    pub(super) fn step_by_step(
        &mut self,
        id: usize,
        layer: &LoweredLayer,
        input: usize,
        inputs: &[String],
    ) -> Result<String> {
        let node = self.head(id);
        let name = |part: &str| format!("{}/{part}", node.name);
        let dims = |k: usize| match self.values[id].shape.len() {
            3 => vec![k, 1, 1],
            _ => vec![k],
        };
        let dims = dims(layer.weight.shape[0]);
        let x = self.integers(input, &node.name).expect("the input was quantized by itself");
        // Codes times a power of two, and its inverse as the step: integers again.
        let stored = self.stored(layer, None).map(|mut stored| {
            stored.step = vec![1.0 / stored.finer as f32; stored.step.len()];
            stored
        });
        let w = self.weight(id, layer, stored)?;
        let (op, attributes) = operation(&node.kind, layer);
        let mut v = self.writer.node(op, &[&x, &w], name("sums"), &attributes);
        let read = self.values[input].codes.expect("codes are read");
        let ranges = layer.ranges(&read);
        let units: Vec<f32> = ranges.w.iter().map(|w| ranges.unit(w)).collect();
        let mut steps: Vec<(&str, &str, &[f32])> = vec![("Mul", "unit", &units)];
        if let Some(bias) = &layer.bias {
            steps.push(("Add", "bias", bias));
        }
        if let Some(norm) = &layer.then.norm {
            steps.extend([
                ("Sub", "norm.mean", &norm.mean[..]),
                ("Mul", "norm.scale", &norm.scale),
                ("Add", "norm.shift", &norm.shift),
            ]);
        }
        for (op, what, values) in steps {
            let operand = self.writer.floats(name(what), &dims, values);
            v = self.writer.node(op, &[&v, &operand], name(&format!("{what}.applied")), &[]);
        }
        if layer.then.residual {
            let other = self.divided(self.units[id].inputs[1], &name("residual")).unwrap_or_else(|| inputs[1].clone());
            v = self.writer.node("Add", &[&v, &other], name("sum"), &[]);
        }
        if layer.then.relu {
            v = self.writer.node("Relu", &[&v], name("relu"), &[]);
        }
        let q: Quantizer = layer.then.quantizer.expect("only layers that give codes");
        self.quantize(id, v, &q, false)
    }
}
