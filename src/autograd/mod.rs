//! A tape per step: named op structs in push order, consumed in reverse.

mod accumulate;
mod finish;
mod scale;
mod tape;

pub use accumulate::accumulate;
pub use finish::{Finish, Finished, Finishing};
pub use scale::Scale;
pub use tape::{Backward, GradMode, Gradients, Op, Tape, Var};
