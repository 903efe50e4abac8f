//! Builders of networks.

pub mod generator;
pub mod onnx;
pub mod resnet;
mod zoo;

pub use zoo::{ARCHITECTURES, Architecture, architecture};
