//! Decodes the tensors of a file.

use super::Outcome;
use super::external::Folder;
use super::host::{Host, Kind, MAX_INTEGERS, MAX_RANK, Size, Values};
use crate::tensor::onnx::TensorProto;
use half::{bf16, f16};
use std::borrow::Cow;

/// The dimensions of a tensor, and their product. No dimensions: a scalar.
pub fn dims(t: &TensorProto) -> Outcome<(Vec<usize>, usize)> {
    let wrong = || {
        format!(
            "constant '{}' has shape {:?}; up to {MAX_RANK} dimensions that can be counted are possible",
            t.name, t.dims
        )
    };
    if t.dims.len() > MAX_RANK {
        return Err(wrong());
    }
    let dims: Option<Vec<usize>> = t.dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let dims = dims.ok_or_else(wrong)?;
    let elements = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).ok_or_else(wrong)?;
    Ok((dims, elements))
}

/// `raw` in units of `N` bytes.
fn from_raw<const N: usize, T>(raw: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.chunks_exact(N).map(|b| convert(b.try_into().expect("a chunk of N bytes"))).collect()
}

/// The values of `t`, from `folder` if they lie in another file. Nothing is allocated that the files do not hold.
pub fn decode(t: &TensorProto, folder: Option<&Folder>) -> Outcome<Host> {
    let (dims, elements) = dims(t)?;
    let kind = Kind::of(t.data_type).map_err(|e| format!("constant '{}' {e}", t.name))?;
    let unit = match kind {
        Kind::F64 | Kind::I64 => 8,
        Kind::F32 | Kind::I32 => 4,
        Kind::F16 | Kind::Bf16 => 2,
        Kind::I8 | Kind::U8 | Kind::Bool => 1,
    };
    let bytes = elements.checked_mul(unit);
    let raw: Cow<[u8]> = match (t.data_location, folder) {
        (0, _) => Cow::Borrowed(&t.raw_data),
        (_, None) => {
            return Err(format!(
                "constant '{}' lies in another file, and there is no folder to look in; export the model into one file \
                 (PyTorch: external_data=False with dynamo=True)",
                t.name
            ));
        }
        (_, Some(folder)) => {
            let read = bytes.ok_or("has too many values".into()).and_then(|n| folder.read(t, n));
            Cow::Owned(read.map_err(|e| format!("constant '{}' {e}", t.name))?)
        }
    };
    let held = match kind {
        Kind::F32 => t.float_data.len(),
        Kind::F64 => t.double_data.len(),
        Kind::I64 => t.int64_data.len(),
        _ => t.int32_data.len(),
    };
    let in_raw = !raw.is_empty() || elements == 0;
    let fits = if in_raw { bytes == Some(raw.len()) } else { held == elements };
    if !fits {
        let found = if in_raw { format!("{} bytes", raw.len()) } else { format!("{held} values") };
        return Err(format!("constant '{}' of shape {:?} holds {found}, not {elements} values", t.name, t.dims));
    }
    if !kind.is_float() && elements > MAX_INTEGERS {
        return Err(format!("constant '{}' holds {elements} integers; at most {MAX_INTEGERS} are possible", t.name));
    }
    let bits = || t.int32_data.iter().map(|&v| v as u16);
    let fixed = |v: Vec<i64>| Values::Integers(v.into_iter().map(Size::Fixed).collect());
    let values = match (kind, in_raw) {
        (Kind::F32, true) => Values::Floats(from_raw(&raw, f32::from_le_bytes)),
        (Kind::F32, false) => Values::Floats(t.float_data.clone()),
        (Kind::F64, true) => Values::Floats(from_raw(&raw, |b| f64::from_le_bytes(b) as f32)),
        (Kind::F64, false) => Values::Floats(t.double_data.iter().map(|&v| v as f32).collect()),
        (Kind::F16, true) => Values::Floats(from_raw(&raw, |b| f16::from_le_bytes(b).to_f32())),
        (Kind::F16, false) => Values::Floats(bits().map(|b| f16::from_bits(b).to_f32()).collect()),
        (Kind::Bf16, true) => Values::Floats(from_raw(&raw, |b| bf16::from_le_bytes(b).to_f32())),
        (Kind::Bf16, false) => Values::Floats(bits().map(|b| bf16::from_bits(b).to_f32()).collect()),
        (Kind::I64, true) => fixed(from_raw(&raw, i64::from_le_bytes)),
        (Kind::I64, false) => fixed(t.int64_data.clone()),
        (Kind::I32, true) => fixed(from_raw(&raw, |b| i32::from_le_bytes(b).into())),
        (Kind::I8, true) => fixed(from_raw(&raw, |b| i8::from_le_bytes(b).into())),
        (Kind::U8 | Kind::Bool, true) => fixed(from_raw(&raw, |b| u8::from_le_bytes(b).into())),
        (Kind::I32 | Kind::I8 | Kind::U8 | Kind::Bool, false) => {
            fixed(t.int32_data.iter().map(|&v| v.into()).collect())
        }
    };
    Ok(Host { kind, dims, values })
}
