//! Element types.

use num_traits::{Float, FromPrimitive, ToPrimitive};

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    /// CPU only: the oracle's type.
    F64,
    Bf16,
    I32,
    U8,
    I8,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::U8 | Self::I8 => 1,
        }
    }
}

/// Rust types that tensors hold.
pub trait Element: bytemuck::Pod + Send + Sync + 'static {
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for half::bf16 {
    const DTYPE: DType = DType::Bf16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
impl Element for i8 {
    const DTYPE: DType = DType::I8;
}

/// The float types that CPU ops are generic over: f32 to compute, f64 as the oracle.
pub trait Real:
    Element + Float + FromPrimitive + ToPrimitive + std::ops::AddAssign + std::iter::Sum + std::fmt::Debug
{
    /// From an f64 constant, rounded to this type.
    fn of(v: f64) -> Self {
        Self::from_f64(v).expect("every f64 converts to a float")
    }
    fn f64(self) -> f64 {
        self.to_f64().expect("every float converts to f64")
    }
}
impl Real for f32 {}
impl Real for f64 {}

/// Runs `$body` with the type alias `$T` = f32 or f64, as `$dtype` says; other dtypes are an error of `$op`.
#[macro_export]
macro_rules! for_real {
    ($op:expr, $dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err($crate::Error::op($op, format!("dtype {other:?} is not supported; use F32"))),
        }
    };
}
