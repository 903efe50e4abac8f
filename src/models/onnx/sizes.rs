//! Arithmetic of integers, as exporters write `x.view(x.size(0), -1)` and paddings: computed here, once.

use super::attributes::Attributes;
use super::build::{Build, Form, Value};
use super::{Outcome, constant};
use crate::tensor::onnx::{DataType, NodeProto, TensorProto};

/// An integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Fixed(i64),
    /// Whatever the batch is.
    Batch,
}

/// A list of integers, or a table of `columns` of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    pub values: Vec<Size>,
    columns: Option<usize>,
}

/// Numbers in one value, at most.
const MOST: usize = 16;

impl Sizes {
    pub fn list(values: Vec<Size>) -> Self {
        Self { values, columns: None }
    }
    pub fn fixed(values: &[i64]) -> Self {
        Self::list(values.iter().map(|&v| Size::Fixed(v)).collect())
    }

    /// The numbers, none of which may depend on the batch.
    pub fn numbers(&self) -> Outcome<Vec<i64>> {
        let number = |s: &Size| match s {
            Size::Fixed(v) => Ok(*v),
            Size::Batch => Err("depends on the batch size".to_string()),
        };
        self.values.iter().map(number).collect()
    }

    fn dims(&self) -> Vec<i64> {
        let n = self.values.len();
        self.columns.map_or(vec![n as i64], |c| vec![(n / c) as i64, c as i64])
    }

    /// As one list, or as a table.
    fn reshaped(self, to: &[i64]) -> Outcome<Self> {
        let n = self.values.len() as i64;
        let columns = match to {
            [m] if *m == n || *m == -1 => None,
            [rows, c] if (1..=MOST as i64).contains(c) && n % c == 0 && [n / c, -1].contains(rows) => Some(*c as usize),
            _ => return Err(format!("{n} sizes cannot become {to:?}")),
        };
        Ok(Self { columns, ..self })
    }

    fn transposed(self) -> Self {
        let Some(c) = self.columns else { return self };
        let rows = self.values.len() / c;
        let values = (0..self.values.len()).map(|i| self.values[i % rows * c + i / rows]).collect();
        Self { values, columns: Some(rows.max(1)) }
    }

    /// Rows (of a list: numbers) `start..end` in steps, as slices of Python.
    fn sliced(self, start: i64, end: i64, step: i64) -> Outcome<Self> {
        let c = self.columns.unwrap_or(1);
        let n = (self.values.len() / c) as i64;
        let from_end = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
        let (first, last) = (from_end(start), from_end(end));
        let rows: Vec<i64> = match step {
            1.. => (first.clamp(0, n)..last.clamp(0, n)).step_by(step as usize).collect(),
            ..0 => {
                let down = first.clamp(-1, n - 1) - last.clamp(-1, n - 1);
                (0..down.max(0)).step_by(step.unsigned_abs() as usize).map(|i| first.clamp(-1, n - 1) - i).collect()
            }
            0 => return Err("slices in steps of 0".into()),
        };
        let values = rows.iter().flat_map(|&r| self.values[r as usize * c..][..c].to_vec()).collect();
        Ok(Self { values, ..self })
    }
}

/// Number by number; a single one with all.
fn combined(a: &Sizes, b: &Sizes, op: impl Fn(i64, i64) -> Option<i64>) -> Outcome<Sizes> {
    let (a, b) = (a.numbers()?, b.numbers()?);
    let n = a.len().max(b.len());
    if [&a, &b].iter().any(|v| v.len() != n && v.len() != 1) {
        return Err(format!("{} sizes and {}", a.len(), b.len()));
    }
    let at = |v: &[i64], i: usize| v[i % v.len()];
    let all: Option<Vec<i64>> = (0..n).map(|i| op(at(&a, i), at(&b, i))).collect();
    all.map(|v| Sizes::fixed(&v)).ok_or_else(|| "sizes that cannot be counted".into())
}

fn is_integers(t: &TensorProto) -> bool {
    [DataType::Int64 as i32, DataType::Int32 as i32].contains(&t.data_type)
}

impl<'a> Build<'a> {
    /// The value of a node that computes with integers; `None` if it does not.
    pub(super) fn sizes(&self, node: &NodeProto) -> Outcome<Option<Value<'a>>> {
        let attributes = Attributes(node);
        let op = &node.op_type[..];
        if op == "Shape" {
            let all = match self.sizes_in(node, 0)? {
                Some(sizes) => Sizes::fixed(&sizes.dims()),
                None => Sizes::list(self.shape_of(node)?),
            };
            let (start, end) = (attributes.int("start", 0), attributes.int("end", i64::MAX));
            return Ok(Some(Value::Sizes(all.sliced(start, end, 1)?)));
        }
        let computes = ["Gather", "Unsqueeze", "Squeeze", "Concat", "Cast", "Add", "Sub", "Mul", "Div", "Slice"];
        if !computes.contains(&op) && !["Reshape", "Transpose", "ConstantOfShape"].contains(&op) {
            return Ok(None);
        }
        let Some(first) = self.sizes_in(node, 0)? else { return Ok(None) };
        if first.columns.is_some() && !["Cast", "Reshape", "Slice", "Transpose"].contains(&op) {
            return Err("takes a table of sizes, which is not supported".into());
        }
        let second = || self.sizes_in(node, 1)?.ok_or_else(|| "joins sizes and activations".to_string());
        let found = match op {
            "Gather" => {
                let pick = |i: i64| {
                    let at = if i < 0 { i.saturating_add(first.values.len() as i64) } else { i };
                    usize::try_from(at).ok().and_then(|i| first.values.get(i)).copied()
                };
                let picked: Option<_> = second()?.numbers()?.into_iter().map(pick).collect();
                Sizes::list(picked.ok_or("takes a dimension that is not there")?)
            }
            "Concat" => {
                let mut all = first.values;
                for i in 1..node.input.len() {
                    all.extend(self.sizes_in(node, i)?.ok_or("joins sizes and activations")?.values);
                    if all.len() > MOST {
                        return Err(format!("makes more than {MOST} sizes"));
                    }
                }
                Sizes::list(all)
            }
            "Add" => combined(&first, &second()?, i64::checked_add)?,
            "Sub" => combined(&first, &second()?, i64::checked_sub)?,
            "Mul" => combined(&first, &second()?, i64::checked_mul)?,
            "Div" => combined(&first, &second()?, i64::checked_div)?,
            "ConstantOfShape" => {
                let n = first.numbers()?.iter().try_fold(1i64, |a, d| a.checked_mul(*d));
                let n = n.filter(|n| (0..=MOST as i64).contains(n)).ok_or("makes too many numbers")?;
                let of = attributes.get("value").and_then(|a| a.t.as_ref()).filter(|t| is_integers(t));
                match constant::integers(of.ok_or("makes floats; integers are supported")?)?[..] {
                    [v] => Sizes::fixed(&vec![v; n as usize]),
                    _ => return Err("is not made of one number".into()),
                }
            }
            "Reshape" => first.reshaped(&second()?.numbers()?)?,
            "Transpose" => first.transposed(),
            "Slice" => {
                let one = |i: usize, absent: i64| -> Outcome<i64> {
                    if !self.has(node, i) {
                        return Ok(absent);
                    }
                    match self.integers(node, i)?[..] {
                        [v] => Ok(v),
                        _ => Err("of sizes along several axes is not supported".into()),
                    }
                };
                if self.opset < 10 || one(3, 0)? != 0 {
                    return Err("of sizes along another axis than 0 is not supported".into());
                }
                first.sliced(one(1, 0)?, one(2, i64::MAX)?, one(4, 1)?)?
            }
            _ => first,
        };
        Ok(Some(Value::Sizes(found)))
    }

    /// The `i`-th input if it is integers: computed ones, or a constant.
    pub(super) fn sizes_in(&self, node: &NodeProto, i: usize) -> Outcome<Option<Sizes>> {
        Ok(match self.value(node, i)? {
            Value::Sizes(sizes) => Some(sizes.clone()),
            Value::Constant(t) if is_integers(t) => Some(Sizes::fixed(&constant::integers(t)?)),
            _ => None,
        })
    }

    /// The shape of the first input as the file sees it.
    fn shape_of(&self, node: &NodeProto) -> Outcome<Vec<Size>> {
        let flow = self.raw_flow(node, 0)?;
        let shape = self.shapes[flow.node];
        let sizes: Vec<usize> = match (flow.form, &shape[..]) {
            (Form::Map, &[_, h, w, c]) => vec![c, h, w],
            (Form::Sliced([by_h, by_w]), &[_, h, w, c]) => vec![c, h.div_ceil(by_h), w.div_ceil(by_w)],
            (Form::Pooled, &[_, c]) => vec![c, 1, 1],
            (_, all) => all[1..].to_vec(),
        };
        Ok([Size::Batch].into_iter().chain(sizes.into_iter().map(|s| Size::Fixed(s as i64))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sliced(start: i64, end: i64, step: i64) -> Vec<i64> {
        Sizes::fixed(&[0, 1, 2, 3, 4]).sliced(start, end, step).unwrap().numbers().unwrap()
    }

    #[test]
    fn slices_are_pythons() {
        assert_eq!(sliced(1, i64::MAX, 2), [1, 3]);
        assert_eq!(sliced(-2, 100, 1), [3, 4]);
        assert_eq!(sliced(-1, i64::MIN, -1), [4, 3, 2, 1, 0]);
        assert_eq!(sliced(3, 0, -2), [3, 1]);
        assert!(sliced(4, 2, 1).is_empty());
        assert!(Sizes::fixed(&[]).sliced(i64::MIN, i64::MAX, i64::MAX).unwrap().values.is_empty());
        assert!(Sizes::fixed(&[]).sliced(i64::MAX, i64::MIN, i64::MIN).unwrap().values.is_empty());
        assert!(Sizes::fixed(&[1]).sliced(0, 1, 0).is_err());
    }

    /// As PyTorch's exporter turns its paddings, last dimension first, into those of ONNX.
    #[test]
    fn tables_are_turned_and_turned_around() {
        let pads = Sizes::fixed(&[0, 1, 2, 3, 4, 5, 0, 0]).reshaped(&[-1, 2]).unwrap();
        let turned = pads.sliced(-1, i64::MIN + 1, -1).unwrap().transposed().reshaped(&[-1]).unwrap();
        assert_eq!(turned.numbers().unwrap(), [0, 4, 2, 0, 0, 5, 3, 1]);
    }
}
