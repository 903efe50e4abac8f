//! From a trained fake-quantized network to an integer one: lowering, packing, inference.
//!
//! [`lower`] makes an [`IntegerNetwork`] of a [`crate::graph::Network`], which is the same graph with integer numbers. [`Engine`]
//! runs it. Its logits are bitwise those of the fake-quantized network's evaluation. Both compute each quantized layer as
//! [`crate::ops::conv2d_int`] does, and everything after it in f32 in one order ([`crate::ops::conv2d_int::epilogue`]).

mod engine;
mod file;
mod lower;
pub mod measure;
mod network;
mod onnx;
mod student;

pub use engine::Engine;
pub use file::KEY as INTEGER_KEY;
pub use lower::lower;
pub use network::{IntegerNetwork, Unit};
pub use onnx::{Form as OnnxForm, onnx, settle};
pub use student::float_student;
