//! A node as ONNX operators.

use super::IntegerTensors;
use crate::tensor::onnx::{Attribute, Writer};

/// What a node writes itself with. Values are f32, NCHW.
pub struct OnnxNode<'a> {
    pub writer: &'a mut Writer,
    /// Name of the node, which its output gets.
    pub name: &'a str,
    /// Names of the inputs.
    pub inputs: &'a [String],
    /// Per-sample shapes of the inputs, channels last.
    pub shapes: Vec<&'a [usize]>,
    /// Per-sample shape of the output, channels last.
    pub output: &'a [usize],
    pub tensors: &'a IntegerTensors,
}

impl OnnxNode<'_> {
    /// Writes the operator that gives the node's output.
    pub fn output(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        self.writer.node(op, inputs, self.name.into(), attributes)
    }

    /// Writes an operator on the way, named `NODE/part`.
    pub fn part(&mut self, op: &str, inputs: &[&str], part: &str, attributes: &[(&str, Attribute)]) -> String {
        self.writer.node(op, inputs, format!("{}/{part}", self.name), attributes)
    }

    /// Declares one number, named `NODE/part`.
    pub fn scalar(&mut self, part: &str, v: f32) -> String {
        self.writer.floats(format!("{}/{part}", self.name), &[], &[v])
    }

    /// Declares integers, named `NODE/part`.
    pub fn int64s(&mut self, part: &str, values: &[i64]) -> String {
        self.writer.int64s(format!("{}/{part}", self.name), values)
    }

    /// Declares a list of numbers, named `NODE/part`.
    pub fn floats(&mut self, part: &str, values: &[f32]) -> String {
        self.writer.floats(format!("{}/{part}", self.name), &[values.len()], values)
    }

    /// Declares a value per channel that broadcasts over the output, named `NODE/part`.
    pub fn per_channel(&mut self, part: &str, values: &[f32]) -> String {
        let dims = match self.output.len() {
            3 => vec![values.len(), 1, 1],
            _ => vec![values.len()],
        };
        self.writer.floats(format!("{}/{part}", self.name), &dims, values)
    }

    /// Writes `scale x + shift` per channel. Products by 1 and sums with 0 are left out.
    pub fn scale_and_shift(&mut self, mut x: String, scale: &[f32], shift: &[f32]) -> String {
        if scale.iter().any(|s| *s != 1.0) {
            let scale = self.per_channel("scale", scale);
            x = self.part("Mul", &[&x, &scale], "scaled", &[]);
        }
        if shift.iter().any(|s| *s != 0.0) {
            let shift = self.per_channel("shift", shift);
            x = self.part("Add", &[&x, &shift], "shifted", &[]);
        }
        x
    }
}
