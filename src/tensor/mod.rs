//! Contiguous tensors: a dtype, a shape of up to four dimensions, and a range of a shared buffer on one device.
//!
//! Activations are NHWC, filters KRSC. There are no strides; a tensor may be a sub-range of a flat buffer
//! ([`Tensor::view`]), which is how parameters and their gradients lie side by side for the optimizers.

mod dtype;
pub mod init;
pub mod io;
pub mod onnx;
pub mod pack;
mod shape;
mod storage;

pub use dtype::{DType, Element, Real};
pub use shape::Shape;
pub use storage::Storage;

use crate::device::Device;
use crate::{Error, Result};
use std::sync::Arc;

/// A contiguous tensor. Clones share the buffer.
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    /// In elements.
    offset: usize,
    shape: Shape,
    dtype: DType,
}

impl Tensor {
    /// Uninitialised (stale or poisoned) tensor: for outputs that will be written whole.
    pub fn empty(device: &Device, shape: impl Into<Shape>, dtype: DType) -> Result<Self> {
        let shape = shape.into();
        let bytes = shape.elements() * dtype.size();
        let storage = match device {
            Device::Cpu(c) => Storage::Host(c.alloc(bytes)),
            Device::Gpu(g) => Storage::Gpu(g.alloc(bytes)?),
        };
        Ok(Self { storage: Arc::new(storage), offset: 0, shape, dtype })
    }

    pub fn zeros(device: &Device, shape: impl Into<Shape>, dtype: DType) -> Result<Self> {
        let mut t = Self::empty(device, shape, dtype)?;
        t.fill_zero()?;
        Ok(t)
    }

    /// Like `other` in device and dtype, with another shape; uninitialised.
    pub fn empty_like(other: &Self, shape: impl Into<Shape>) -> Result<Self> {
        Self::empty(&other.device(), shape, other.dtype)
    }

    /// From host values.
    pub fn from_slice<T: Element>(device: &Device, shape: impl Into<Shape>, values: &[T]) -> Result<Self> {
        let shape = shape.into();
        crate::ensure_op!(
            values.len() == shape.elements(),
            "tensor",
            "{} values do not fill shape {shape} ({} elements)",
            values.len(),
            shape.elements()
        );
        let mut t = Self::empty(device, shape, T::DTYPE)?;
        t.write(values)?;
        Ok(t)
    }

    /// One f32 value as a tensor of one element.
    pub fn scalar(device: &Device, value: f32) -> Result<Self> {
        Self::from_slice(device, [1], &[value])
    }

    /// Overwrites all elements with host values.
    pub fn write<T: Element>(&mut self, values: &[T]) -> Result<()> {
        assert_eq!(T::DTYPE, self.dtype, "write: dtype");
        assert_eq!(values.len(), self.len(), "write: length");
        match &*self.storage {
            Storage::Host(_) => {
                self.host_mut::<T>().copy_from_slice(values);
                Ok(())
            }
            Storage::Gpu(b) => b.device().upload(self.address(), bytemuck::cast_slice(values)),
        }
    }

    /// All elements as host values (waits for the device).
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        assert_eq!(T::DTYPE, self.dtype, "to_vec: dtype");
        match &*self.storage {
            Storage::Host(_) => Ok(self.host::<T>().to_vec()),
            Storage::Gpu(b) => {
                let mut out = vec![T::zeroed(); self.len()];
                b.device().download(self.address(), bytemuck::cast_slice_mut(&mut out))?;
                Ok(out)
            }
        }
    }

    /// All elements as f64, whatever the float dtype.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        Ok(match self.dtype {
            DType::F32 => self.to_vec::<f32>()?.into_iter().map(f64::from).collect(),
            DType::F64 => self.to_vec::<f64>()?,
            DType::Bf16 => self.to_vec::<half::bf16>()?.into_iter().map(f64::from).collect(),
            DType::I32 => self.to_vec::<i32>()?.into_iter().map(f64::from).collect(),
            DType::U8 => self.to_vec::<u8>()?.into_iter().map(f64::from).collect(),
            DType::I8 => self.to_vec::<i8>()?.into_iter().map(f64::from).collect(),
        })
    }

    /// The single element of a one-element float tensor.
    pub fn item(&self) -> Result<f64> {
        assert_eq!(self.len(), 1, "item: one element");
        Ok(self.to_f64()?[0])
    }

    /// Sets every byte to zero.
    pub fn fill_zero(&mut self) -> Result<()> {
        let bytes = self.len() * self.dtype.size();
        match &*self.storage {
            Storage::Host(_) => {
                self.host_bytes_mut().fill(0);
                Ok(())
            }
            Storage::Gpu(b) => b.device().fill(self.address(), 0, bytes),
        }
    }

    /// Sets every element of an F32 tensor (F64 on the CPU) to `value`. Nothing is waited for.
    pub fn fill(&mut self, value: f32) -> Result<()> {
        if let (Storage::Gpu(b), DType::F32) = (&*self.storage, self.dtype) {
            return b.device().fill_words(self.address(), value.to_bits(), self.len());
        }
        crate::for_real!("fill", self.dtype, T => {
            self.host_mut::<T>().fill(T::of(f64::from(value)));
            Ok(())
        })
    }

    /// Overwrites all elements (of 4 bytes each) with host values, in order with queued work: nothing is waited for. For the
    /// few numbers of a step; a recorded graph cannot hold it.
    pub fn write_queued<T: Element>(&mut self, values: &[T]) -> Result<()> {
        assert_eq!((T::DTYPE, T::DTYPE.size()), (self.dtype, 4), "write_queued: dtype");
        assert_eq!(values.len(), self.len(), "write_queued: length");
        match &*self.storage {
            Storage::Host(_) => self.write(values),
            Storage::Gpu(b) => b.device().write_queued(self.address(), bytemuck::cast_slice(values)),
        }
    }

    /// The same bytes read as another dtype of the same size: labels gathered as if they were numbers, say.
    pub fn reinterpret(&self, dtype: DType) -> Self {
        assert_eq!(self.dtype.size(), dtype.size(), "reinterpret: sizes");
        Self { dtype, ..self.clone() }
    }

    /// Copies all elements of `from` (same dtype, length and device kind).
    pub fn copy_from(&mut self, from: &Tensor) -> Result<()> {
        assert_eq!((self.dtype, self.len()), (from.dtype, from.len()), "copy_from: dtype and length");
        match (&*self.storage, &*from.storage) {
            (Storage::Host(_), Storage::Host(_)) => {
                self.host_bytes_mut().copy_from_slice(from.host_bytes());
                Ok(())
            }
            (Storage::Gpu(b), Storage::Gpu(_)) => {
                b.device().copy(self.address(), from.address(), self.len() * self.dtype.size())
            }
            _ => Err(Error::op("copy", "tensors lie on different devices")),
        }
    }

    /// A new buffer with the same contents.
    pub fn duplicate(&self) -> Result<Self> {
        let mut t = Self::empty_like(self, self.shape)?;
        t.copy_from(self)?;
        Ok(t)
    }

    /// The same values on another device.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        match self.dtype {
            DType::F32 => Self::from_slice(device, self.shape, &self.to_vec::<f32>()?),
            DType::F64 => Self::from_slice(device, self.shape, &self.to_vec::<f64>()?),
            DType::Bf16 => Self::from_slice(device, self.shape, &self.to_vec::<half::bf16>()?),
            DType::I32 => Self::from_slice(device, self.shape, &self.to_vec::<i32>()?),
            DType::U8 => Self::from_slice(device, self.shape, &self.to_vec::<u8>()?),
            DType::I8 => Self::from_slice(device, self.shape, &self.to_vec::<i8>()?),
        }
    }

    /// The same buffer under another shape of equal size.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        crate::ensure_op!(
            shape.elements() == self.len(),
            "reshape",
            "{} has {} elements, {shape} has {}",
            self.shape,
            self.len(),
            shape.elements()
        );
        Ok(Self { shape, ..self.clone() })
    }

    /// `shape` elements from element `start` on, sharing the buffer.
    pub fn view(&self, start: usize, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        crate::ensure_op!(
            start + shape.elements() <= self.len(),
            "view",
            "{} elements from {start} on do not fit in {} elements",
            shape.elements(),
            self.len()
        );
        Ok(Self { offset: self.offset + start, shape, ..self.clone() })
    }

    /// The same memory as a tensor of `device`, which is another stream on the GPU it lies on ([`Gpu::borrow`]), or any CPU
    /// device for a tensor on the CPU. Nobody may write to it from then on. Errors if it lies elsewhere.
    ///
    /// [`Gpu::borrow`]: crate::device::Gpu::borrow
    pub fn lent(&self, device: &Device) -> Result<Self> {
        let storage = match (&*self.storage, device) {
            (Storage::Host(_), Device::Cpu(_)) => return Ok(self.clone()),
            (Storage::Gpu(b), Device::Gpu(g)) if Arc::ptr_eq(b.device(), g) => return Ok(self.clone()),
            (Storage::Gpu(b), Device::Gpu(g)) => Storage::Gpu(g.borrow(b, self.storage.clone())?),
            _ => return Err(Error::op("lent", format!("{self:?} cannot be read by {}", device.name()))),
        };
        Ok(Self { storage: Arc::new(storage), ..self.clone() })
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }
    /// Dimension `i`.
    pub fn dim(&self, i: usize) -> usize {
        self.shape[i]
    }
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.elements()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn device(&self) -> Device {
        match &*self.storage {
            Storage::Host(b) => Device::Cpu(b.device().clone()),
            Storage::Gpu(b) => Device::Gpu(b.device().clone()),
        }
    }
    /// The GPU this tensor lies on, or `None` on the CPU: the branch every op takes.
    pub fn gpu(&self) -> Option<&Arc<crate::device::Gpu>> {
        match &*self.storage {
            Storage::Host(_) => None,
            Storage::Gpu(b) => Some(b.device()),
        }
    }
    /// Address of the first element, for [`crate::device::Launch::ptr`].
    pub fn address(&self) -> u64 {
        let address = self.storage.address() + (self.offset * self.dtype.size()) as u64;
        if let Storage::Gpu(b) = &*self.storage {
            b.asked(address, self.len() * self.dtype.size());
        }
        address
    }
    /// Whether no other tensor shares the buffer (so that it may be updated in place).
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({} {:?} on {:?})", self.shape, self.dtype, self.device())
    }
}
