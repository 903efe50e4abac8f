//! Typed tensors on the host, on which the importer evaluates the constant part of a file.

use super::Outcome;
use crate::tensor::onnx::DataType;
use half::{bf16, f16};

/// Dimensions of a constant, at most.
pub const MAX_RANK: usize = 8;
/// Integers in one constant, at most: shapes, paddings and indices are short.
pub const MAX_INTEGERS: usize = 1 << 12;

/// An integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    Fixed(i64),
    /// So many times the batch size, which the graph leaves open.
    Batch(i64),
}

impl Size {
    /// The number; an error if it depends on the batch.
    pub fn number(self) -> Outcome<i64> {
        match self {
            Self::Fixed(v) => Ok(v),
            Self::Batch(_) => Err("depends on the batch size".into()),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(v) => write!(f, "{v}"),
            Self::Batch(1) => write!(f, "batch"),
            Self::Batch(k) => write!(f, "{k} batch"),
        }
    }
}

/// Writes sizes as `[batch, 3, 8]`.
pub fn listed(sizes: &[Size]) -> String {
    let all: Vec<String> = sizes.iter().map(Size::to_string).collect();
    format!("[{}]", all.join(", "))
}

/// Element types that are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F64,
    F16,
    Bf16,
    I64,
    I32,
    I8,
    U8,
    Bool,
}

impl Kind {
    /// The kind of ONNX's `TensorProto.DataType`.
    pub fn of(data_type: i32) -> Outcome<Self> {
        const ALL: [(DataType, Kind); 9] = [
            (DataType::Float, Kind::F32),
            (DataType::Double, Kind::F64),
            (DataType::Float16, Kind::F16),
            (DataType::Bfloat16, Kind::Bf16),
            (DataType::Int64, Kind::I64),
            (DataType::Int32, Kind::I32),
            (DataType::Int8, Kind::I8),
            (DataType::Uint8, Kind::U8),
            (DataType::Bool, Kind::Bool),
        ];
        let found = ALL.iter().find(|(d, _)| *d as i32 == data_type).map(|(_, k)| *k);
        found.ok_or_else(|| {
            format!(
                "is of type {data_type}; f32 (1), u8 (2), i8 (3), i32 (6), i64 (7), bool (9), f16 (10), f64 (11) and bf16 \
                 (16) are understood"
            )
        })
    }

    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64 | Self::F16 | Self::Bf16)
    }

    /// Rounds to what the type holds. Doubles are held as f32 too: parameters are f32 in the end.
    pub fn round(self, v: f64) -> f32 {
        match self {
            Self::F16 => f16::from_f64(v).to_f32(),
            Self::Bf16 => bf16::from_f64(v).to_f32(),
            _ => v as f32,
        }
    }
}

/// One value per element in row-major order, or a single one that all elements share.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    Floats(Vec<f32>),
    Integers(Vec<Size>),
}

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    pub kind: Kind,
    pub dims: Vec<usize>,
    pub values: Values,
}

/// Product of `dims`; an error if it cannot be counted.
pub fn count(dims: &[usize]) -> Outcome<usize> {
    let n = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).filter(|n| *n <= 1 << 40);
    n.filter(|_| dims.len() <= MAX_RANK).ok_or_else(|| {
        format!("makes a tensor of shape {dims:?}; up to {MAX_RANK} dimensions and 2^40 numbers are possible")
    })
}

/// Elements that evaluation may still write.
pub struct Budget {
    rest: usize,
}

impl Budget {
    pub fn new(elements: usize) -> Self {
        Self { rest: elements }
    }
    /// Takes `n` elements; an error if there are not so many left.
    pub fn take(&mut self, n: usize) -> Outcome<()> {
        self.rest = self.rest.checked_sub(n).ok_or("makes too many numbers of constants for a file of this size")?;
        Ok(())
    }
}

impl Host {
    /// A list of 64-bit integers.
    pub fn list(values: Vec<Size>) -> Self {
        Self { kind: Kind::I64, dims: vec![values.len()], values: Values::Integers(values) }
    }
    pub fn fixed(values: &[i64]) -> Self {
        Self::list(values.iter().map(|&v| Size::Fixed(v)).collect())
    }
    pub fn integers(kind: Kind, dims: Vec<usize>, values: Vec<Size>) -> Self {
        Self { kind, dims, values: Values::Integers(values) }
    }
    pub fn floats(kind: Kind, dims: Vec<usize>, values: Vec<f32>) -> Self {
        Self { kind, dims, values: Values::Floats(values) }
    }

    pub fn elements(&self) -> Outcome<usize> {
        count(&self.dims)
    }

    /// How many values are stored.
    pub fn held(&self) -> usize {
        match &self.values {
            Values::Floats(v) => v.len(),
            Values::Integers(v) => v.len(),
        }
    }

    /// Whether one value stands for all.
    pub fn uniform(&self) -> bool {
        self.held() == 1
    }

    /// All integers, none of which may depend on the batch.
    pub fn numbers(&self) -> Outcome<Vec<i64>> {
        self.sizes()?.into_iter().map(Size::number).collect()
    }

    /// All integers.
    pub fn sizes(&self) -> Outcome<Vec<Size>> {
        let Values::Integers(values) = &self.values else { return Err("is a float; integers are expected".into()) };
        let n = self.elements()?;
        if n > MAX_INTEGERS {
            return Err(format!("holds {n} integers; at most {MAX_INTEGERS} are possible"));
        }
        Ok(if values.len() == n { values.clone() } else { vec![values[0]; n] })
    }

    /// The one number that it holds, whatever its type.
    pub fn single(&self) -> Outcome<f64> {
        match (&self.values, self.elements()?) {
            (Values::Floats(v), 1) => Ok(v[0].into()),
            (Values::Integers(v), 1) => Ok(v[0].number()? as f64),
            (_, n) => Err(format!("holds {n} numbers; one is expected")),
        }
    }

    /// The elements at `at`, in this order, as a tensor of `dims`.
    pub fn picked(&self, dims: Vec<usize>, at: impl Iterator<Item = usize>, budget: &mut Budget) -> Outcome<Self> {
        let n = count(&dims)?;
        if self.uniform() && n > 0 {
            return Ok(Self { dims, ..self.clone() });
        }
        budget.take(n)?;
        let values = match &self.values {
            Values::Floats(v) => Values::Floats(at.map(|i| v[i]).collect()),
            Values::Integers(v) => {
                if n > MAX_INTEGERS {
                    return Err(format!("makes {n} integers; at most {MAX_INTEGERS} are possible"));
                }
                Values::Integers(at.map(|i| v[i]).collect())
            }
        };
        Ok(Self { kind: self.kind, dims, values })
    }

    /// The strided view `dims` of its elements that begins at `offset`.
    pub fn viewed(&self, dims: Vec<usize>, strides: Vec<isize>, offset: usize, budget: &mut Budget) -> Outcome<Self> {
        let walk = Walk::new(&dims, strides, offset)?;
        self.picked(dims, walk, budget)
    }

    /// Row-major strides.
    pub fn strides(&self) -> Vec<isize> {
        strides(&self.dims)
    }

    /// Returns its elements under other dimensions.
    pub fn reshaped(self, dims: Vec<usize>) -> Outcome<Self> {
        if count(&dims)? != self.elements()? {
            return Err(format!("{:?} cannot become {dims:?}", self.dims));
        }
        Ok(Self { dims, ..self })
    }
}

/// Row-major strides of `dims`.
pub fn strides(dims: &[usize]) -> Vec<isize> {
    let mut all = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        all[i - 1] = all[i] * dims[i] as isize;
    }
    all
}

/// Offsets of a strided view's elements, the last dimension fastest.
pub struct Walk {
    dims: Vec<usize>,
    strides: Vec<isize>,
    index: Vec<usize>,
    at: isize,
    rest: usize,
}

impl Walk {
    pub fn new(dims: &[usize], strides: Vec<isize>, offset: usize) -> Outcome<Self> {
        let rest = count(dims)?;
        Ok(Self { dims: dims.to_vec(), strides, index: vec![0; dims.len()], at: offset as isize, rest })
    }
}

impl Iterator for Walk {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.rest = self.rest.checked_sub(1)?;
        let found = self.at as usize;
        for axis in (0..self.dims.len()).rev() {
            self.index[axis] += 1;
            self.at += self.strides[axis];
            if self.index[axis] < self.dims[axis] {
                break;
            }
            self.at -= self.strides[axis] * self.dims[axis] as isize;
            self.index[axis] = 0;
        }
        Some(found)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.rest, Some(self.rest))
    }
}

/// An axis counted from the end if negative, as an index below `rank`.
pub fn axis(axis: i64, rank: usize) -> Outcome<usize> {
    let at = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    usize::try_from(at).ok().filter(|a| *a < rank).ok_or_else(|| format!("axis {axis} is not one of {rank} dimensions"))
}

/// `axes` as increasing indices below `rank`; an error if one appears twice.
pub fn axes(list: &[i64], rank: usize) -> Outcome<Vec<usize>> {
    let mut all: Vec<usize> = list.iter().map(|&a| axis(a, rank)).collect::<Outcome<_>>()?;
    all.sort_unstable();
    match all.windows(2).all(|w| w[0] < w[1]) {
        true => Ok(all),
        false => Err(format!("axes {list:?} name one twice")),
    }
}

/// Elements `start..end` in steps, as ONNX and Python slice `size` of them: the first index and how many.
pub fn slice(size: usize, start: i64, end: i64, step: i64) -> Outcome<(usize, usize)> {
    let n = size as i64;
    let from_end = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let (first, last) = (from_end(start), from_end(end));
    let (first, span) = match step {
        1.. => {
            let first = first.clamp(0, n);
            (first, last.clamp(0, n) - first)
        }
        ..0 => {
            let first = first.clamp(-1, n - 1);
            (first, first - last.clamp(-1, n - 1))
        }
        0 => return Err("slices in steps of 0".into()),
    };
    let many = (span.max(0) as u64).div_ceil(step.unsigned_abs());
    Ok((if many == 0 { 0 } else { first as usize }, many as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sliced(start: i64, end: i64, step: i64) -> Vec<i64> {
        let (first, many) = slice(5, start, end, step).unwrap();
        (0..many as i64).map(|i| first as i64 + i * step).collect()
    }

    #[test]
    fn slices_are_pythons() {
        assert_eq!(sliced(1, i64::MAX, 2), [1, 3]);
        assert_eq!(sliced(-2, 100, 1), [3, 4]);
        assert_eq!(sliced(-1, i64::MIN, -1), [4, 3, 2, 1, 0]);
        assert_eq!(sliced(3, 0, -2), [3, 1]);
        assert!(sliced(4, 2, 1).is_empty());
        assert_eq!(slice(0, i64::MIN, i64::MAX, i64::MAX), Ok((0, 0)));
        assert_eq!(slice(0, i64::MAX, i64::MIN, i64::MIN), Ok((0, 0)));
        assert!(slice(1, 0, 1, 0).is_err());
    }

    #[test]
    fn views_walk_in_row_major_order() {
        let t = Host::integers(Kind::I64, vec![2, 3], (0..6).map(Size::Fixed).collect());
        let turned = t.viewed(vec![3, 2], vec![1, 3], 0, &mut Budget::new(6)).unwrap();
        assert_eq!(turned.numbers().unwrap(), [0, 3, 1, 4, 2, 5]);
        assert!(t.viewed(vec![3, 2], vec![1, 3], 0, &mut Budget::new(5)).is_err());
        let backwards = t.viewed(vec![6], vec![-1], 5, &mut Budget::new(6)).unwrap();
        assert_eq!(backwards.numbers().unwrap(), [5, 4, 3, 2, 1, 0]);
    }
}
