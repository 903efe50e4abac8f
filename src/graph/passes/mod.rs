//! Passes: plain functions from graph to graph.

mod fold_bn;
mod fuse;
mod math;
mod quantize;
mod tune_bn;

pub use fold_bn::fold_bn;
pub use fuse::Fused;
pub use math::with_math;
pub use quantize::{QuantizeSpec, quantize};
pub use tune_bn::{tune_bn, untune_bn};
