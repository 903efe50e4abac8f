//! Predicted classes and the count of right ones, on the host: logits are `[n, c]` and small.

use super::case::{Case, GradCheck, Input};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::tensor::{DType, Tensor};

/// Index of the largest value of each row of `x[rows.., c]`, as `rows` host values. Ties go to the lowest
/// index; a row with a NaN gives the index of its first NaN, as in PyTorch.
pub fn argmax(x: &Tensor) -> Result<Vec<i32>> {
    let [rows, c] = x.shape().rows_cols();
    crate::ensure_op!(rows * c > 0, "argmax", "an empty tensor ({}) has no largest element", x.shape());
    Ok(x.to_f64()?.chunks(c).map(largest).collect())
}

fn largest(row: &[f64]) -> i32 {
    let mut best = 0;
    for (i, v) in row.iter().enumerate() {
        if row[best].is_nan() {
            break;
        }
        if *v > row[best] || v.is_nan() {
            best = i;
        }
    }
    best as i32
}

/// How many rows of `logits[n, c]` have their largest value at `labels[n]` (I32). Waits for the device.
/// A row with a NaN is never right.
pub fn correct(logits: &Tensor, labels: &Tensor) -> Result<usize> {
    let [n, c] = logits.shape().rows_cols();
    let same = labels.dtype() == DType::I32 && labels.len() == n && c > 0;
    let (shape, dtype) = (labels.shape(), labels.dtype());
    crate::ensure_op!(same, "accuracy", "logits {} need I32 labels [{n}], got {dtype:?} {shape}", logits.shape());
    let values = logits.to_f64()?;
    let right = |(row, label): (&[f64], &i32)| !row.iter().any(|v| v.is_nan()) && largest(row) == *label;
    Ok(values.chunks(c).zip(&labels.to_vec::<i32>()?).filter(|&(r, l)| right((r, l))).count())
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for [n, c] in [[1, 1], [7, 3], [31, 10]] {
        let run = |t: &mut Tape, v: &[Var]| {
            let best: Vec<f32> = argmax(&v[0].value)?.iter().map(|&i| i as f32).collect();
            let count = correct(&v[0].value, &v[1].value)? as f32;
            let d = t.device().clone();
            Ok(vec![
                Var::constant(Tensor::from_slice(&d, [best.len()], &best)?),
                Var::constant(Tensor::scalar(&d, count)?),
            ])
        };
        let inputs = vec![Input::plain([n, c]), Input::labels(n, c)];
        cases.push(Case::new(format!("{n}x{c}"), inputs, run).check(GradCheck::None));
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn ties_and_nans() {
        let d = Device::cpu();
        let x = Tensor::from_slice(&d, [4, 3], &[1., 2., 2., 0., f32::NAN, 5., 3., 3., 3., -1., -2., -0.5f32]).unwrap();
        assert_eq!(argmax(&x).unwrap(), [1, 1, 0, 2]);
        let labels = Tensor::from_slice(&d, [4], &[1, 1, 0, 0]).unwrap();
        assert_eq!(correct(&x, &labels).unwrap(), 2);
        assert!(correct(&x, &Tensor::from_slice(&d, [3], &[1, 1, 0]).unwrap()).is_err());
    }
}
