//! Passes: plain functions from graph to graph.

mod chains;
mod fold_bn;
mod math;
mod quantize;
mod tune_bn;

pub use chains::Chains;
pub use fold_bn::fold_bn;
pub use math::with_math;
pub use quantize::{QuantizeSpec, quantize};
pub use tune_bn::tune_bn;
