//! Passes: plain functions from graph to graph.

mod quantize;
mod tune_bn;

pub use quantize::{QuantizeSpec, quantize};
pub use tune_bn::tune_bn;
