//! What quantization means: the one rounding rule, settings, scale and zero point, packing. No tensors, no devices:
//! the ops build on this floor.

mod codes;
mod qparams;
mod rule;
mod spec;

pub use crate::tensor::pack::{pack_int4, unpack_int4};
pub use codes::{MAX_REDUCTION, MAX_ZERO, Quantizer, WeightCodes};
pub use qparams::QParams;
pub use rule::{Affine, RoundEven};
pub use spec::QuantSpec;

/// What shares one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// The whole tensor.
    Tensor,
    /// Each index of the outermost dimension: an output channel of a `k r s c` filter or a `k c` matrix.
    Outer,
}

impl Axis {
    /// `[rows, elements per row]` of a shape: one range per row.
    pub fn rows(self, shape: &[usize]) -> [usize; 2] {
        let all: usize = shape.iter().product();
        match self {
            Self::Tensor => [1, all],
            Self::Outer => {
                let rows = shape.first().copied().unwrap_or(1);
                [rows, all / rows.max(1)]
            }
        }
    }
}
