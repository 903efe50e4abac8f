//! Mean and biased variance per sample and channel, over the pixels: the per-sample form of `channel_stats`.
//!
//! With `m = h w` pixels: `mean = sum(x) / m`, `var = sum((x - mean)^2) / m`; backward
//! `dx = dmean / m + dvar * 2 (x - mean) / m`. What losses on single samples match (ZeroQ, Cai et al. 2020; DSG, Zhang et
//! al. 2021) and class centres are made of (ClusterQ).

use super::case::{Case, Fill, Input};
use super::channel_stats::Stages;
use super::columns::Columns;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

const OP: &str = "sample_stats";

/// Mean and biased variance `[n, c]` each of `x[n, h, w, c]`. F32 (F64 on the CPU). Saves `x` and the mean. Errors on
/// another rank, an empty tensor or more than 65535 samples (one row of blocks each).
pub fn sample_stats(tape: &mut Tape, x: &Var) -> Result<(Var, Var)> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    let size = n * h * w * c;
    crate::ensure_op!((1..=1 << 30).contains(&size) && n < 1 << 16, OP, "cannot take statistics of {}", x.shape());
    let pixels = h * w;
    let mut mean = Tensor::empty_like(&x.value, [n, c])?;
    let mut var = Tensor::empty_like(&x.value, [n, c])?;
    if let Some(gpu) = x.value.gpu() {
        let plan = Stages::of_chunks(n, pixels, c);
        plan.first("sample_stats_fwd_f32")
            .ptr(x.value.address())
            .ptr(mean.address())
            .ptr(var.address())
            .val(plan.params())
            .run(gpu)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let columns = Columns::new(c);
            let rows = mean.host_mut::<T>().par_chunks_mut(c).zip(var.host_mut::<T>().par_chunks_mut(c));
            rows.zip(x.value.host::<T>().par_chunks(pixels * c)).for_each(|((mean, var), x)| {
                // In f64 the difference of the two moments loses nothing that f32 data could show.
                let [sum, square] = columns.sums::<T>(x, x, #[inline(always)] |x, _| (x, x * x));
                for i in 0..c {
                    let centre = sum[i] / pixels as f64;
                    mean[i] = T::of(centre);
                    // Not `max`, which would turn NaN into 0.
                    let v = square[i] / pixels as f64 - centre * centre;
                    var[i] = T::of(if v < 0.0 { 0.0 } else { v });
                }
            });
            Ok(())
        })?;
    }
    let op = SampleStatsOp { x: x.value.clone(), mean: mean.clone() };
    let vars = tape.record(op, &[x], vec![mean, var]);
    let [mean, var]: [Var; 2] = vars.try_into().expect("two outputs were recorded");
    Ok((mean, var))
}

struct SampleStatsOp {
    x: Tensor,
    mean: Tensor,
}

impl Op for SampleStatsOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let (dmean, dvar) = (cx.grad(0), cx.grad(1));
        let x = &self.x;
        let [_, h, w, c] = x.shape().nhwc(OP)?;
        let pixels = h * w;
        let mut dx = Tensor::empty_like(x, x.shape())?;
        if let Some(gpu) = x.gpu() {
            Launch::over("sample_stats_bwd_f32", x.len(), 256)
                .ptr(x.address())
                .ptr(self.mean.address())
                .ptr(dmean.as_ref().map_or(0, Tensor::address))
                .ptr(dvar.as_ref().map_or(0, Tensor::address))
                .ptr(dx.address())
                .val(x.len() as i32)
                .val(pixels as i32)
                .val(c as i32)
                .run(gpu)?;
        } else {
            crate::for_real!(OP, x.dtype(), T => {
                let columns = Columns::new(c);
                let m = T::of(pixels as f64);
                let of = |t: &Option<Tensor>, i: usize| t.as_ref().map_or(T::of(0.0), |t| t.host::<T>()[i]);
                let samples = dx.host_mut::<T>().par_chunks_mut(pixels * c).zip(x.host::<T>().par_chunks(pixels * c));
                samples.enumerate().for_each(|(b, (dx, x))| {
                    let mean = columns.table(|i| self.mean.host::<T>()[b * c + i]);
                    let offset = columns.table(|i| of(&dmean, b * c + i) / m);
                    let slope = columns.table(|i| T::of(2.0) * of(&dvar, b * c + i) / m);
                    columns.map(dx, x, x, [&mean, &offset, &slope],
                        #[inline(always)] |x, _, [mean, offset, slope]| offset + slope * (x - mean));
                });
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| {
        let (mean, var) = sample_stats(t, &v[0])?;
        Ok(vec![mean, var])
    };
    let name = |shape: [usize; 4]| format!("{}", crate::tensor::Shape::from(shape));
    let mut cases = Vec::new();
    for shape in
        [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 13, 17, 16], [5, 3, 1, 37], [7, 1, 1, 5], [1, 1, 2, 130]]
    {
        cases.push(Case::new(name(shape), vec![Input::grad(shape)], run).reduction(shape[1] * shape[2]));
    }
    // One output only: nothing flows back to the other.
    let only = |t: &mut Tape, v: &[Var]| Ok(vec![sample_stats(t, &v[0])?.1]);
    cases.push(Case::new("var_only", vec![Input::grad([2, 3, 3, 5])], only).reduction(9));
    // A mean far above the deviation: see channel_stats.
    let far = Input::grad([3, 8, 8, 5]).fill(Fill::Uniform { low: 1000.0, high: 1002.0 });
    cases.push(Case::new("mean_1001", vec![far], run).reduction(64).slack(100.0));
    for shape in [[64, 32, 32, 16], [64, 8, 8, 64]] {
        let size: usize = shape.iter().product();
        let case = Case::new(name(shape), vec![Input::grad(shape)], run).reduction(shape[1] * shape[2]);
        cases.push(case.cost(3.0 * size as f64, 4.0 * size as f64).bench());
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn samples_do_not_mix_and_wrong_shapes_are_errors() {
        let d = Device::cpu();
        let mut tape = Tape::inference(&d);
        let x = Tensor::from_slice(&d, [2, 1, 2, 1], &[1f32, 3.0, 10.0, 10.0]).unwrap();
        let (mean, var) = sample_stats(&mut tape, &Var::constant(x)).unwrap();
        assert_eq!(mean.value.to_vec::<f32>().unwrap(), [2.0, 10.0]);
        assert_eq!(var.value.to_vec::<f32>().unwrap(), [1.0, 0.0]);
        let flat = Var::constant(Tensor::zeros(&d, [2, 3], crate::tensor::DType::F32).unwrap());
        assert!(sample_stats(&mut tape, &flat).is_err());
    }
}
