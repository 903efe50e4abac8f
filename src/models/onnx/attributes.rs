//! Attributes of a node, with ONNX's defaults.

use super::Outcome;
use crate::tensor::onnx::{AttributeProto, NodeProto};

#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub &'a NodeProto);

impl<'a> Attributes<'a> {
    pub fn get(self, name: &str) -> Option<&'a AttributeProto> {
        self.0.attribute.iter().find(|a| a.name == name)
    }
    pub fn int(self, name: &str, default: i64) -> i64 {
        self.get(name).map_or(default, |a| a.i)
    }
    pub fn float(self, name: &str, default: f32) -> f32 {
        self.get(name).map_or(default, |a| a.f)
    }
    pub fn ints(self, name: &str) -> Option<&'a [i64]> {
        self.get(name).map(|a| &a.ints[..])
    }
    /// The text of an attribute; `default` if it is absent or empty.
    pub fn text(self, name: &str, default: &'static str) -> std::borrow::Cow<'a, str> {
        match self.get(name).filter(|a| !a.s.is_empty()) {
            Some(a) => String::from_utf8_lossy(&a.s),
            None => default.into(),
        }
    }
    /// Errors unless the attribute is absent or `wanted`.
    pub fn only(self, name: &str, wanted: i64) -> Outcome<()> {
        match self.int(name, wanted) {
            i if i == wanted => Ok(()),
            i => Err(format!("{name} = {i} is not supported, only {wanted}")),
        }
    }
    /// A finite number.
    pub fn finite(self, name: &str, default: f32) -> Outcome<f32> {
        let v = self.float(name, default);
        if v.is_finite() { Ok(v) } else { Err(format!("{name} = {v} is no number to compute with")) }
    }
}
