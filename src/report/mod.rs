//! What a run shows: sample grids, curves, tables. Computes nothing.

pub mod curves;
mod lettering;
pub mod png;
pub mod table;

pub use curves::{Series, curves};
pub use png::{grid, save_grid};
pub use table::Table;
