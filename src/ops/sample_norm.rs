//! Mean over the samples of a batch of their L2 norms: keeps images small (DSG's released PTQ code; DeepInversion).
//!
//! `loss = (1/n) sum_i |x_i|`, gradient `x_i / (n |x_i|)`, 0 for a sample of zeros.

use super::case::{Case, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "sample_norm";

/// The scalar loss `[1]` of `x[n ...]` (rows flattened; F32, F64 on the CPU). Errors on an empty tensor.
pub fn sample_norm(tape: &mut Tape, x: &Var) -> Result<Var> {
    let n = x.shape().first().copied().unwrap_or(0);
    crate::ensure_op!((1..=1 << 30).contains(&x.value.len()), OP, "cannot take norms of {}", x.shape());
    let d = x.value.len() / n;
    let mut slopes = row_loss::slopes(tape, &[x])?;
    let mut loss = Tensor::empty_like(&x.value, [1])?;
    if let Some(gpu) = x.value.gpu() {
        let rows = Tensor::empty(tape.device(), [n], DType::F64)?;
        Launch::new("sample_norm_f32")
            .grid([n as u32, 1, 1])
            .block([256, 1, 1])
            .ptr(x.value.address())
            .ptr(rows.address())
            .ptr(row_loss::address(&slopes[0]))
            .val(d as i32)
            .val(1.0 / n as f64)
            .run(gpu)?;
        row_loss::sum_on_gpu(&rows, &loss)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let x = x.value.host::<T>();
            let sum = row_loss::on_cpu::<T>(n, d, &mut slopes, |i, g| {
                let row = &x[i * d..][..d];
                let norm = row.iter().map(|v| v.f64() * v.f64()).sum::<f64>().sqrt();
                if norm > 0.0 {
                    let slope = 1.0 / (n as f64 * norm);
                    // Without a gradient there is no room for one.
                    g.iter_mut().zip(row).for_each(|(g, v)| *g = v.f64() * slope);
                }
                norm / n as f64
            });
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &[x], slopes, loss))
}

pub fn cases() -> Vec<Case> {
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![sample_norm(t, &v[0])?]);
    let case = |shape: &[usize]| {
        let size: usize = shape.iter().product();
        let name = format!("{}", crate::tensor::Shape::from(shape));
        Case::new(name, vec![Input::grad(shape)], run).reduction(size / shape[0]).cost(2.0 * size as f64, 4.0 * size as f64)
    };
    let mut cases: Vec<Case> = [&[1usize, 1, 1, 1][..], &[3, 5, 7, 11], &[2, 4, 4, 3], &[7, 301]].map(case).into();
    cases.push(case(&[64, 32, 32, 3]).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn lengths_are_averaged_and_zeros_do_not_break_the_gradient() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let x = tape.leaf(Tensor::from_slice(&d, [2, 2], &[3f32, 4.0, 0.0, 0.0]).unwrap());
        let loss = sample_norm(&mut tape, &x).unwrap();
        assert_eq!(loss.value.item().unwrap(), 2.5);
        let g = tape.backward(&loss).unwrap().of(&x).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(g, [0.3, 0.4, 0.0, 0.0]);
    }
}
