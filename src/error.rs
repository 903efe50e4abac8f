//! The one error type. Every message says what was wrong, where, and what to do.

use std::path::{Path, PathBuf};

/// Result of everything fallible in ghostbit.
pub type Result<T> = std::result::Result<T, Error>;

/// All failures of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation was given tensors or parameters it cannot take.
    #[error("{op}: {detail}")]
    Op { op: &'static str, detail: String },
    /// The device or its driver refused something that is not one kernel's fault.
    #[error("device {device}: {detail}")]
    Device { device: String, detail: String },
    /// A kernel could not be loaded, launched, or failed while running.
    #[error("kernel {kernel} (grid {grid:?}, block {block:?}): {detail}")]
    Kernel { kernel: String, grid: [u32; 3], block: [u32; 3], detail: String },
    /// Not enough memory.
    #[error(
        "{device}: out of memory: asked for {asked} bytes, {held} held; lower --batch or the number of stored images"
    )]
    OutOfMemory { device: String, asked: usize, held: usize },
    /// A file that cannot be read, parsed or written.
    #[error("{}: {detail}", path.display())]
    File { path: PathBuf, detail: String },
    /// A setting (command line or recipe key) that makes no sense.
    #[error("{key}: {detail}")]
    Config { key: String, detail: String },
    /// A network that cannot serve what was asked of it.
    #[error("network {network}: {detail}")]
    Network { network: String, detail: String },
    /// A loss or statistic stopped being finite.
    #[error("step {step}: {term} is not finite ({value}); last good checkpoint kept{hint}")]
    NonFinite { step: u64, term: String, value: f32, hint: &'static str },
    /// Ctrl-C (the checkpoint is already written when this surfaces).
    #[error("interrupted at step {step}; continue with --resume {}", run.display())]
    Interrupted { step: u64, run: PathBuf },
}

impl Error {
    /// A shape or parameter error of `op`.
    pub fn op(op: &'static str, detail: impl Into<String>) -> Self {
        Self::Op { op, detail: detail.into() }
    }
    /// A file error, naming the path.
    pub fn file(path: impl AsRef<Path>, detail: impl std::fmt::Display) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), detail: detail.to_string() }
    }
    /// A configuration error, naming the key.
    pub fn config(key: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Config { key: key.into(), detail: detail.into() }
    }
    /// The same configuration error with its key inside `section`.
    pub fn within(self, section: &str) -> Self {
        match self {
            Self::Config { key, detail } => Self::Config { key: format!("{section}.{key}"), detail },
            other => other,
        }
    }
    /// An error of a network as data, naming it.
    pub fn network(network: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Network { network: network.into(), detail: detail.into() }
    }
}

/// `Err(Error::Op)` with a formatted message unless the condition holds.
#[macro_export]
macro_rules! ensure_op {
    ($cond:expr, $op:expr, $($fmt:tt)+) => {
        if !$cond {
            return Err($crate::Error::op($op, format!($($fmt)+)));
        }
    };
}
