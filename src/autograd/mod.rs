//! A tape per step: named op structs in push order, consumed in reverse.

mod accumulate;
mod tape;

pub use accumulate::accumulate;
pub use tape::{Backward, GradMode, Gradients, Op, Tape, Var};
