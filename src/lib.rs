//! ghostbit: data-free INT4/INT8 quantization of CNNs. See `docs/architecture.md` for the layout.

pub mod autograd;
pub mod cli;
pub mod data;
pub mod deploy;
pub mod device;
pub mod error;
pub mod graph;
pub mod methods;
pub mod models;
pub mod ops;
pub mod optim;
pub mod quant;
pub mod report;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};
