//! Passes: plain functions from graph to graph.

mod quantize;

pub use quantize::{QuantizeSpec, quantize};
