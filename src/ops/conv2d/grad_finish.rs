//! What a data gradient's kernel does with the sums that it has in registers (`kernels/include/grad_output.cuh`).

use crate::autograd::Finishing;
use crate::device::Launch;
use crate::tensor::Tensor;

/// Mirrors `GradFinish` of the kernels. Null: not to be done.
#[repr(C)]
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    mask: u64,
    stats: [u64; 4],
    kept: u64,
    inverse_rows: f32,
    flags: i32,
}

/// The launch with these as its next argument; `dx[.. c]`.
pub(super) fn given_to(launch: Launch, finishing: Option<&Finishing>, dx: &Tensor, c: usize) -> Launch {
    let Some(f) = finishing else { return launch.val(Params::default()) };
    let address = |t: Option<&Tensor>| t.map_or(0, Tensor::address);
    let stats = f.stats.as_ref().map_or([0; 4], |s| s.each_ref().map(Tensor::address));
    let (mask, kept) = (address(f.mask.as_ref()), address(f.kept.as_ref()));
    let params = Params { mask, stats, kept, inverse_rows: c as f32 / dx.len() as f32, flags: 1 };
    launch.val(params).behind(&[mask, stats[0], kept])
}
