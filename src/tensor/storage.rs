//! The buffer behind a tensor, and the only place that turns its address into Rust slices.

use super::{DType, Element, Tensor};
use crate::device::{GpuBuffer, HostBuffer};

/// A device's memory block.
pub enum Storage {
    Host(HostBuffer),
    Gpu(GpuBuffer),
}

impl Storage {
    pub(super) fn address(&self) -> u64 {
        match self {
            Self::Host(b) => b.address(),
            Self::Gpu(b) => b.address(),
        }
    }
}

/// Host access. Contract: an op writes only to tensors it has just allocated, to gradient targets handed to it by the
/// tape, or to state buffers it owns, and holds no other slice of the same range while it does. Nothing else hands out
/// `&mut` slices, and one tape is driven by one thread.
impl Tensor {
    /// The elements of a CPU tensor.
    ///
    /// # Panics
    /// If the tensor is on a GPU or of another dtype: ops check both before they get here.
    pub fn host<T: Element>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype(), "host: dtype");
        // SAFETY: the block holds at least offset + len elements, is 256-byte aligned, always initialised, and lives as
        // long as `self`; exclusivity by the contract above.
        unsafe { std::slice::from_raw_parts(self.host_pointer().cast(), self.len()) }
    }

    /// The elements of a CPU tensor, for writing.
    pub fn host_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(T::DTYPE, self.dtype(), "host_mut: dtype");
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.host_pointer().cast(), self.len()) }
    }

    pub(super) fn host_bytes(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.host_pointer(), self.len() * self.dtype().size()) }
    }

    pub(super) fn host_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.host_pointer(), self.len() * self.dtype().size()) }
    }

    fn host_pointer(&self) -> *mut u8 {
        assert!(self.gpu().is_none(), "host: the tensor lies on a GPU");
        self.address() as *mut u8
    }
}

// `DType` sizes and `Element` types must agree, or the casts above would be wrong.
const _: () = assert!(DType::F32.size() == 4 && DType::Bf16.size() == 2 && DType::F64.size() == 8);
