//! The training loop and what it writes.

pub mod log;
