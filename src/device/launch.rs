//! One kernel launch: name, grid, block, arguments.

use super::Gpu;
use crate::Result;
use std::ffi::c_void;

/// Builder of a kernel launch. Arguments are packed in call order and must match the kernel's parameters: pointers as
/// [`Launch::ptr`], scalars and `#[repr(C)]` parameter structs (by value) as [`Launch::val`].
pub struct Launch {
    kernel: &'static str,
    grid: [u32; 3],
    block: [u32; 3],
    smem: u32,
    bytes: Vec<u64>,
    starts: Vec<usize>,
    /// Which of them are addresses, by bit.
    pointers: u64,
    /// Addresses inside parameter structs.
    behind: Vec<u64>,
    flops: f64,
}

impl Launch {
    /// A launch of `kernel` with one block of one thread, to be set by the methods below.
    pub fn new(kernel: &'static str) -> Self {
        Self {
            kernel,
            grid: [1; 3],
            block: [1; 3],
            smem: 0,
            bytes: Vec::with_capacity(32),
            starts: Vec::with_capacity(8),
            pointers: 0,
            behind: Vec::new(),
            flops: 0.0,
        }
    }
    /// One thread per element: `ceil(n / block)` blocks of `block` threads.
    pub fn over(kernel: &'static str, n: usize, block: u32) -> Self {
        Self::new(kernel).grid([(n.div_ceil(block as usize)).max(1) as u32, 1, 1]).block([block, 1, 1])
    }
    /// [`Self::over`] for kernels of which a thread takes four neighbours (`kernels/include/quads.cuh`).
    pub fn over_quads(kernel: &'static str, n: usize, block: u32) -> Self {
        Self::over(kernel, n.div_ceil(4), block)
    }
    pub fn grid(mut self, grid: [u32; 3]) -> Self {
        self.grid = grid;
        self
    }
    pub fn block(mut self, block: [u32; 3]) -> Self {
        self.block = block;
        self
    }
    /// Dynamic shared memory, bytes per block.
    pub fn smem(mut self, bytes: u32) -> Self {
        self.smem = bytes;
        self
    }
    /// A device address (see `Tensor::address`); 0 is the null pointer.
    pub fn ptr(mut self, address: u64) -> Self {
        self.pointers |= 1 << self.starts.len();
        self.starts.push(self.bytes.len());
        self.bytes.push(address);
        self
    }
    /// A scalar or parameter struct, by value.
    pub fn val<T: bytemuck::NoUninit>(mut self, value: T) -> Self {
        self.starts.push(self.bytes.len());
        let start = self.bytes.len();
        self.bytes.resize(start + size_of::<T>().div_ceil(8), 0);
        bytemuck::cast_slice_mut(&mut self.bytes[start..])[..size_of::<T>()]
            .copy_from_slice(bytemuck::bytes_of(&value));
        self
    }
    /// Says which addresses (0: none) lie inside a parameter struct, for those who count bytes.
    pub fn behind(mut self, addresses: &[u64]) -> Self {
        self.behind.extend_from_slice(addresses);
        self
    }
    /// Says how many operations it is, for those who count ([`Gpu::open_counting`]).
    pub fn flops(mut self, flops: f64) -> Self {
        self.flops = flops;
        self
    }
    /// Queues the kernel on the device's stream.
    pub fn run(mut self, gpu: &Gpu) -> Result<()> {
        if let Some(census) = gpu.census() {
            let pointer = |(i, s): (usize, &usize)| (self.pointers >> i & 1 == 1).then(|| self.bytes[*s]);
            let pointers = self.starts.iter().enumerate().filter_map(pointer);
            census.launched(self.kernel, pointers.chain(self.behind.iter().copied()), self.flops);
        }
        let base = self.bytes.as_mut_ptr();
        let mut args: Vec<*mut c_void> = self.starts.iter().map(|&s| base.wrapping_add(s).cast()).collect();
        gpu.launch(self.kernel, self.grid, self.block, self.smem, &mut args)
    }
}
