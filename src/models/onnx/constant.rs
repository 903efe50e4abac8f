//! Constants of a file.

use super::Outcome;
use crate::tensor::io::HostTensor;
use crate::tensor::onnx::{DataType, TensorProto};
use half::{bf16, f16};

/// The sizes of a tensor of at most four dimensions, none of which is 0. No dimensions: a scalar.
fn dims(t: &TensorProto) -> Outcome<(Vec<usize>, usize)> {
    let wrong = || format!("constant '{}' has shape {:?}; one to four dimensions above 0 are possible", t.name, t.dims);
    if t.dims.len() > 4 {
        return Err(wrong());
    }
    let dims: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok().filter(|d| *d > 0)).collect();
    let dims = dims.ok_or_else(wrong)?;
    let elements = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).ok_or_else(wrong)?;
    if t.data_location != 0 {
        return Err(format!("constant '{}' lies in another file; export the model into one file", t.name));
    }
    Ok((dims, elements))
}

/// `raw` in units of `N` bytes.
fn from_raw<const N: usize, T>(raw: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.chunks_exact(N).map(|b| convert(b.try_into().expect("a chunk of N bytes"))).collect()
}

/// Values of a float tensor, converted to f32. Nothing is allocated that the file does not hold.
pub fn floats(t: &TensorProto) -> Outcome<HostTensor> {
    let (shape, elements) = dims(t)?;
    let raw = &t.raw_data[..];
    let bits = || t.int32_data.iter().map(|&v| v as u16);
    let of = |dtype: DataType| t.data_type == dtype as i32;
    let (held, unit) = if of(DataType::Float) {
        (t.float_data.len(), 4)
    } else if of(DataType::Double) {
        (t.double_data.len(), 8)
    } else if of(DataType::Float16) || of(DataType::Bfloat16) {
        (t.int32_data.len(), 2)
    } else {
        let known = "f32 (1), f16 (10), f64 (11) or bf16 (16)";
        return Err(format!("constant '{}' is of type {}; {known} are expected", t.name, t.data_type));
    };
    let fits = if raw.is_empty() { held == elements } else { elements.checked_mul(unit) == Some(raw.len()) };
    if !fits {
        let found = if raw.is_empty() { format!("{held} values") } else { format!("{} bytes", raw.len()) };
        return Err(format!("constant '{}' of shape {:?} holds {found}, not {elements} values", t.name, t.dims));
    }
    let values = match (raw.is_empty(), unit) {
        (true, 4) => t.float_data.clone(),
        (true, 8) => t.double_data.iter().map(|&v| v as f32).collect(),
        (true, _) if of(DataType::Float16) => bits().map(|b| f16::from_bits(b).to_f32()).collect(),
        (true, _) => bits().map(|b| bf16::from_bits(b).to_f32()).collect(),
        (false, 4) => from_raw(raw, f32::from_le_bytes),
        (false, 8) => from_raw(raw, |b| f64::from_le_bytes(b) as f32),
        (false, _) if of(DataType::Float16) => from_raw(raw, |b| f16::from_le_bytes(b).to_f32()),
        (false, _) => from_raw(raw, |b| bf16::from_le_bytes(b).to_f32()),
    };
    Ok(HostTensor { shape, values })
}

/// Values of an integer tensor: sizes, axes, paddings, of which there are a few.
pub fn integers(t: &TensorProto) -> Outcome<Vec<i64>> {
    const MOST: usize = 16;
    // An empty list has a dimension of 0.
    if t.dims == [0] {
        return Ok(Vec::new());
    }
    let (_, elements) = dims(t)?;
    let raw = &t.raw_data[..];
    let values: Vec<i64> = match t.data_type {
        d if d == DataType::Int64 as i32 && raw.is_empty() => t.int64_data.iter().take(MOST + 1).copied().collect(),
        d if d == DataType::Int64 as i32 => from_raw(&raw[..raw.len().min(8 * (MOST + 1))], i64::from_le_bytes),
        d if d == DataType::Int32 as i32 && raw.is_empty() => {
            t.int32_data.iter().take(MOST + 1).map(|&v| v.into()).collect()
        }
        d if d == DataType::Int32 as i32 => {
            from_raw(&raw[..raw.len().min(4 * (MOST + 1))], |b| i32::from_le_bytes(b).into())
        }
        d => return Err(format!("constant '{}' is of type {d}; i64 (7) or i32 (6) are expected", t.name)),
    };
    if values.len() != elements || elements > MOST {
        return Err(format!("constant '{}' of shape {:?} does not hold 1 to {MOST} sizes", t.name, t.dims));
    }
    Ok(values)
}
