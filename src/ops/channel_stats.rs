//! Mean and biased variance per channel over all other dimensions.
//!
//! With `m` rows of `c` channels: `mean = sum(x) / m`, `var = sum((x - mean)^2) / m`, and backward
//! `dx = dmean / m + dvar * 2 (x - mean) / m`. The statistics that data-free quantization matches to the stored ones of
//! batch normalization (GDFQ, Xu et al. 2020, eq. 4).

use super::case::{Case, Fill, Input};
use super::columns::Columns;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::{Gpu, Launch};
use crate::tensor::{Real, Tensor};

/// Mean and biased variance `[c]` each of `x` (any rank, channels last). F32 (F64 on the CPU). Errors if `x` is empty.
pub fn channel_stats(tape: &mut Tape, x: &Var) -> Result<(Var, Var)> {
    let (mean, var) = statistics("channel_stats", &x.value)?;
    let op = ChannelStatsOp { x: x.value.clone(), mean: mean.clone() };
    let vars = tape.record(op, &[x], vec![mean, var]);
    let [mean, var]: [Var; 2] = vars.try_into().expect("two outputs were recorded");
    Ok((mean, var))
}

struct ChannelStatsOp {
    x: Tensor,
    mean: Tensor,
}

impl Op for ChannelStatsOp {
    fn name(&self) -> &'static str {
        "channel_stats"
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let (dmean, dvar) = (cx.grad(0), cx.grad(1));
        let x = &self.x;
        let [rows, c] = x.shape().rows_cols();
        let mut dx = Tensor::empty_like(x, x.shape())?;
        if let Some(gpu) = x.gpu() {
            Launch::over("channel_stats_bwd_f32", x.len(), 256)
                .ptr(x.address())
                .ptr(self.mean.address())
                .ptr(dmean.as_ref().map_or(0, Tensor::address))
                .ptr(dvar.as_ref().map_or(0, Tensor::address))
                .ptr(dx.address())
                .val(x.len() as i32)
                .val(c as i32)
                .val(1.0 / rows as f32)
                .run(gpu)?;
        } else {
            crate::for_real!("channel_stats", x.dtype(), T => {
                let columns = Columns::new(c);
                let m = T::of(rows as f64);
                let of = |t: &Option<Tensor>, i: usize| t.as_ref().map_or(T::of(0.0), |t| t.host::<T>()[i]);
                let mean = columns.table(|i| self.mean.host::<T>()[i]);
                let offset = columns.table(|i| of(&dmean, i) / m);
                let slope = columns.table(|i| T::of(2.0) * of(&dvar, i) / m);
                columns.map(dx.host_mut::<T>(), x.host(), x.host(), [&mean, &offset, &slope],
                    #[inline(always)] |x, _, [mean, offset, slope]| offset + slope * (x - mean));
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

/// Mean and biased variance of `x`, outside any tape. One pass over `x`.
pub(crate) fn statistics(op: &'static str, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let [rows, c] = x.shape().rows_cols();
    crate::ensure_op!(rows > 0 && c > 0, op, "statistics of an empty tensor of shape {}", x.shape());
    let mut mean = Tensor::empty_like(x, [c])?;
    let mut var = Tensor::empty_like(x, [c])?;
    if let Some(gpu) = x.gpu() {
        let plan = Stages::new(rows, c);
        let partial = Tensor::empty_like(x, [2, plan.chunks, c])?;
        plan.first("channel_stats_fwd_f32")
            .ptr(x.address())
            .ptr(partial.address())
            .ptr(mean.address())
            .ptr(var.address())
            .ptr(plan.arrivals(gpu)?)
            .val(plan.params())
            .run(gpu)?;
    } else {
        crate::for_real!(op, x.dtype(), T => {
            // In f64 the difference of the two moments loses nothing that f32 data could show.
            let [sum, square] = Columns::new(c).sums::<T>(x.host(), x.host(), #[inline(always)] |x, _| (x, x * x));
            from_moments::<T>(&[sum, square], rows as f64, [mean.host_mut(), var.host_mut()]);
            Ok(())
        })?;
    }
    Ok((mean, var))
}

/// Mean and biased variance of `m` values per channel from the sums of them and of their squares.
pub(crate) fn from_moments<T: Real>([sum, square]: &[Vec<f64>; 2], m: f64, [mean, var]: [&mut [T]; 2]) {
    for (i, (mean, var)) in mean.iter_mut().zip(var).enumerate() {
        let centre = sum[i] / m;
        *mean = T::of(centre);
        // Not `max`, which would turn NaN into 0.
        let v = square[i] / m - centre * centre;
        *var = T::of(if v < 0.0 { 0.0 } else { v });
    }
}

/// Geometry of a two-stage reduction over rows on the GPU: blocks of 256 threads as `lanes` channels times
/// `256 / lanes` rows reduce one chunk of rows each; the last block over some channels combines their chunks in a fixed order.
#[derive(Clone, Copy)]
pub(crate) struct Stages {
    rows: usize,
    c: usize,
    lanes: usize,
    pub chunks: usize,
    rows_per_chunk: usize,
}

/// Mirrors `RowStages` in `kernels/include/row_stages.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct StagesParams {
    rows: i32,
    c: i32,
    lanes: i32,
    chunks: i32,
    rows_per_chunk: i32,
}

impl Stages {
    pub fn new(rows: usize, c: usize) -> Self {
        let lanes = c.next_power_of_two().min(32);
        // About 16 rows per thread, but no more chunks than a warp combines quickly.
        let rows_per_chunk = rows.div_ceil(1024).max(16 * 256 / lanes);
        Self { rows, c, lanes, chunks: rows.div_ceil(rows_per_chunk), rows_per_chunk }
    }
    /// `chunks` runs of `rows` rows each, with a result of their own: stage 1 only.
    pub fn of_chunks(chunks: usize, rows: usize, c: usize) -> Self {
        Self { rows: chunks * rows, chunks, rows_per_chunk: rows, ..Self::new(rows, c) }
    }
    pub fn params(&self) -> StagesParams {
        StagesParams {
            rows: self.rows as i32,
            c: self.c as i32,
            lanes: self.lanes as i32,
            chunks: self.chunks as i32,
            rows_per_chunk: self.rows_per_chunk as i32,
        }
    }
    pub fn first(&self, kernel: &'static str) -> Launch {
        Launch::new(kernel).grid([self.c.div_ceil(self.lanes) as u32, self.chunks as u32, 1]).block([256, 1, 1])
    }
    /// Counters with which the last block over some channels finds itself.
    fn arrivals(&self, gpu: &Gpu) -> Result<u64> {
        gpu.arrivals(self.c.div_ceil(self.lanes))
    }
    /// Allocates the partial sums `[2, chunks, c]` and runs `first` (given the launch with its own arguments; partial sums, sums,
    /// counters and parameters follow them), which sums the chunks into `[2, c]`.
    pub fn sum_pairs(&self, like: &Tensor, gpu: &Gpu, first: Launch) -> Result<Tensor> {
        let partial = Tensor::empty_like(like, [2, self.chunks, self.c])?;
        let sums = Tensor::empty_like(like, [2, self.c])?;
        first.ptr(partial.address()).ptr(sums.address()).ptr(self.arrivals(gpu)?).val(self.params()).run(gpu)?;
        Ok(sums)
    }
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| {
        let (mean, var) = channel_stats(t, &v[0])?;
        Ok(vec![mean, var])
    };
    let mut cases = Vec::new();
    for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 13, 17, 16], [3, 3, 1, 37], [1, 1, 2, 130]] {
        let rows = shape[..3].iter().product();
        cases.push(Case::new(format!("{}", crate::tensor::Shape::from(shape)), vec![Input::grad(shape)], run).reduction(rows));
    }
    cases.push(Case::new("rows_5x7", vec![Input::grad([5, 7])], run).reduction(5));
    // A mean far above the deviation: a variance from f32 moments would be noise. The f32 differences x - mean bring
    // in the rounding of the mean, 1000 times the deviation's.
    let far = Input::grad([4, 8, 8, 5]).fill(Fill::Uniform { low: 1000.0, high: 1002.0 });
    cases.push(Case::new("mean_1001", vec![far], run).reduction(256).slack(100.0));
    for shape in [[64, 32, 32, 16], [64, 32, 32, 128]] {
        let n: usize = shape.iter().product();
        cases.push(
            Case::new(format!("{}", crate::tensor::Shape::from(shape)), vec![Input::grad(shape)], run)
                .reduction(n / shape[3])
                .cost(3.0 * n as f64, 4.0 * n as f64)
                .bench(),
        );
    }
    cases
}
