//! Passes: plain functions from graph to graph.

mod fold_bn;
mod quantize;
mod tune_bn;

pub use fold_bn::fold_bn;
pub use quantize::{QuantizeSpec, quantize};
pub use tune_bn::tune_bn;
