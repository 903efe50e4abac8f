//! What a run shows: sample grids, curves, tables. Computes nothing.

mod curves;
mod lettering;
mod png;
mod table;

pub use curves::{Series, curves};
pub use png::{grid, save_grid};
pub use table::Table;
