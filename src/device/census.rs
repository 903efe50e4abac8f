//! Work by kernel, counted only where somebody asks: launches, bytes of the tensors that they are given, operations.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// What one kernel was asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct KernelWork {
    pub launches: u64,
    /// Bytes of the tensors behind its pointers, each once per launch: what it moves at least, unless it skips some.
    pub bytes: u64,
    /// Operations, of those launches that say so: products of convolutions and linear layers, borders included.
    pub flops: f64,
}

/// The counts of a device.
#[derive(Default)]
pub(super) struct Census {
    /// Bytes of the tensor that an address was last asked of.
    tensors: Mutex<HashMap<u64, usize>>,
    work: Mutex<BTreeMap<&'static str, KernelWork>>,
}

impl Census {
    pub fn asked(&self, address: u64, bytes: usize) {
        self.tensors.lock().unwrap().insert(address, bytes);
    }

    pub fn launched(&self, kernel: &'static str, pointers: impl Iterator<Item = u64>, flops: f64) {
        let tensors = self.tensors.lock().unwrap();
        let bytes: usize = pointers.filter_map(|p| tensors.get(&p)).sum();
        self.add(kernel, bytes, flops);
    }

    /// One more of `kernel`.
    pub fn add(&self, kernel: &'static str, bytes: usize, flops: f64) {
        let mut work = self.work.lock().unwrap();
        let w = work.entry(kernel).or_default();
        (w.launches, w.bytes, w.flops) = (w.launches + 1, w.bytes + bytes as u64, w.flops + flops);
    }

    pub fn take(&self) -> BTreeMap<&'static str, KernelWork> {
        std::mem::take(&mut self.work.lock().unwrap())
    }
}
