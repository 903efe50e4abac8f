//! Checkpoints: safetensors reading and writing, and the one way files are replaced.
//!
//! Format: <https://github.com/huggingface/safetensors> (8-byte little-endian header length, JSON header, data).
//! The crate parses and validates; the header is written here, in sorted order, so that equal checkpoints are equal
//! files.

use crate::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

/// A float tensor on the host: `values` in row-major order of `shape` (an empty shape is a scalar).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostTensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Integer types of [`RawTensor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RawType {
    U8,
    I8,
    I32,
    U32,
    I64,
    U64,
}

impl RawType {
    const ALL: [Self; 6] = [Self::U8, Self::I8, Self::I32, Self::U32, Self::I64, Self::U64];

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 => 8,
        }
    }
    const fn name(self) -> &'static str {
        match self {
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }
    fn of(dtype: Dtype) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == format!("{dtype:?}"))
    }
}

/// An integer tensor as little-endian bytes: packed codes, counters, random states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTensor {
    pub dtype: RawType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// One dimension of bytes.
    pub fn u8(values: &[u8]) -> Self {
        Self { dtype: RawType::U8, shape: vec![values.len()], bytes: values.to_vec() }
    }
    /// One dimension of i32.
    pub fn i32(values: &[i32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: RawType::I32, shape: vec![values.len()], bytes }
    }
    /// One dimension of u64.
    pub fn u64(values: &[u64]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: RawType::U64, shape: vec![values.len()], bytes }
    }
    /// The values of a u64 tensor; `None` for another type.
    pub fn to_u64(&self) -> Option<Vec<u64>> {
        (self.dtype == RawType::U64)
            .then(|| self.bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes"))).collect())
    }
    /// The values of an i32 tensor; `None` for another type.
    pub fn to_i32(&self) -> Option<Vec<i32>> {
        (self.dtype == RawType::I32)
            .then(|| self.bytes.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().expect("4 bytes"))).collect())
    }
}

/// Named tensors and text metadata of one safetensors file.
///
/// Float tensors (F32; F16, BF16 and F64 are converted on loading) are in `tensors`; integer tensors, which a network
/// does not need (`num_batches_tracked`) and a resumed run does, in `bytes`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    pub tensors: BTreeMap<String, HostTensor>,
    pub bytes: BTreeMap<String, RawTensor>,
    pub metadata: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Reads a file. Errors name the file, and the tensor where one is at fault; values are not judged (see
    /// [`Self::validate`]).
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let data = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        Self::parse(&data).map_err(|detail| Error::file(path, detail))
    }

    /// The contents of a safetensors file, or what is wrong with it. Allocates no more than a few times `data`.
    pub fn parse(data: &[u8]) -> std::result::Result<Self, String> {
        const REMEDY: &str = "the file is damaged or no safetensors file; export or download it again";
        let length = data.get(..8).map(|b| u64::from_le_bytes(b.try_into().expect("8 bytes")));
        let Some(length) = length else {
            return Err(format!("{} bytes cannot hold the 8-byte header length; {REMEDY}", data.len()));
        };
        let rest = data.len() as u64 - 8;
        if length > rest {
            return Err(format!("the header claims {length} bytes but only {rest} follow; {REMEDY}"));
        }
        let header = &data[8..8 + length as usize];
        serde_json::from_slice::<UniqueNames>(header).map_err(|e| format!("header: {e}; {REMEDY}"))?;
        let file = SafeTensors::deserialize(data).map_err(|e| format!("header: {e}; {REMEDY}"))?;
        let (_, header) = SafeTensors::read_metadata(data).map_err(|e| format!("header: {e}; {REMEDY}"))?;
        let metadata = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut out = Self { metadata, ..Self::default() };
        for (name, view) in file.iter() {
            let (shape, bytes) = (view.shape().to_vec(), view.data());
            let values: Vec<f32> = match view.dtype() {
                Dtype::F32 => from_le(bytes, f32::from_le_bytes),
                Dtype::F64 => from_le(bytes, |b| f64::from_le_bytes(b) as f32),
                Dtype::F16 => from_le(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
                Dtype::BF16 => from_le(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
                other => {
                    let Some(dtype) = RawType::of(other) else {
                        return Err(format!(
                            "tensor {name}: dtype {other:?} is not supported; store it as F32, F16, BF16, F64, U8, I8, I32, \
                             U32, I64 or U64"
                        ));
                    };
                    out.bytes.insert(name.to_string(), RawTensor { dtype, shape, bytes: bytes.to_vec() });
                    continue;
                }
            };
            out.tensors.insert(name.to_string(), HostTensor { shape, values });
        }
        Ok(out)
    }

    /// The tensor `name`, checked for its shape. `path` is for the message.
    pub fn get(&self, path: impl AsRef<Path>, name: &str, shape: &[usize]) -> Result<&HostTensor> {
        let Some(t) = self.tensors.get(name) else {
            let has: Vec<_> = self.tensors.keys().take(8).map(String::as_str).collect();
            return Err(Error::file(path, format!("tensor {name} is missing; the file has {} ...", has.join(", "))));
        };
        if t.shape != shape {
            return Err(Error::file(path, format!("tensor {name} has shape {:?}, expected {shape:?}", t.shape)));
        }
        Ok(t)
    }

    /// Rejects weights that cannot be meant: NaN or infinite values anywhere, negative values in a `*var` tensor.
    /// `path` is for the message, which names the tensor and the flat index.
    pub fn validate(&self, path: impl AsRef<Path>) -> Result<()> {
        for (name, t) in &self.tensors {
            let variance = name.ends_with("var") || name.ends_with("variance");
            let Some(i) = t.values.iter().position(|v| !v.is_finite() || (variance && *v < 0.0)) else { continue };
            let v = t.values[i];
            let what = if v.is_finite() { "a variance must not be negative" } else { "weights must be finite" };
            let detail =
                format!("tensor {name}, element {i} of {}: {v}; {what}, train or export it again", t.values.len());
            return Err(Error::file(path, detail));
        }
        Ok(())
    }

    /// Replaces `path` by this checkpoint, whole or not at all (see [`replace_file`]).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let data = self.serialize().map_err(|detail| Error::file(path, detail))?;
        replace_file(path, &data)
    }

    /// The bytes of the file: equal checkpoints give equal bytes. Fails if a shape does not match its values or a name
    /// is used twice.
    pub fn serialize(&self) -> std::result::Result<Vec<u8>, String> {
        let floats = self.tensors.iter().map(|(n, t)| (n, "F32", 4, &t.shape, Source::Floats(&t.values)));
        let raws = self.bytes.iter().map(|(n, t)| (n, t.dtype.name(), t.dtype.size(), &t.shape, Source::Raw(&t.bytes)));
        let mut entries: Vec<_> = floats.chain(raws).collect();
        // Widest elements first keeps all of them aligned, as the format asks.
        entries.sort_by_key(|e| (std::cmp::Reverse(e.2), e.0.clone()));
        let mut header = serde_json::Map::new();
        if !self.metadata.is_empty() {
            header.insert("__metadata__".into(), serde_json::json!(self.metadata));
        }
        let mut offset = 0;
        for (name, dtype, size, shape, source) in &entries {
            let bytes = shape.iter().try_fold(*size, |a, &d| a.checked_mul(d));
            if bytes != Some(source.len()) {
                return Err(format!("tensor {name}: shape {shape:?} does not hold {} bytes of {dtype}", source.len()));
            }
            let end = offset + source.len();
            let info = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] });
            if header.insert(name.to_string(), info).is_some() {
                return Err(format!("tensor name {name} is used twice"));
            }
            offset = end;
        }
        let mut header = serde_json::to_vec(&header).map_err(|e| e.to_string())?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut out = Vec::with_capacity(8 + header.len() + offset);
        out.extend((header.len() as u64).to_le_bytes());
        out.extend(header);
        for (.., source) in &entries {
            match source {
                Source::Floats(v) => out.extend(v.iter().flat_map(|x| x.to_le_bytes())),
                Source::Raw(b) => out.extend_from_slice(b),
            }
        }
        Ok(out)
    }
}

/// Data of a tensor on its way into a file.
enum Source<'a> {
    Floats(&'a [f32]),
    Raw(&'a [u8]),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Floats(v) => 4 * v.len(),
            Self::Raw(b) => b.len(),
        }
    }
}

fn from_le<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.chunks_exact(N).map(|b| convert(b.try_into().expect("a chunk of N bytes"))).collect()
}

/// A file that cannot be written, with what to do about it.
fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    use std::io::ErrorKind::{
        FileTooLarge, IsADirectory, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    let remedy = match e.kind() {
        StorageFull | QuotaExceeded => "free some space or choose another disk",
        FileTooLarge => "raise the limit on file sizes (ulimit -f) or choose another disk",
        PermissionDenied | ReadOnlyFilesystem => "choose a directory that you may write to",
        NotFound | NotADirectory => "create the directory first",
        IsADirectory => "name a file, not a directory",
        _ => "check the path and the disk",
    };
    Error::file(path, format!("cannot be written: {e}; {remedy} (any earlier file is unchanged)"))
}

/// A temporary file in the directory of `path`; gone when dropped.
fn temporary_beside(path: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-");
    // The default of 0600 is for secrets; results are like any other file of this user.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    builder.tempfile_in(directory_of(path))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Fails like [`replace_file`] would for want of a directory or of permission: to be asked before hours of work.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    if path.is_dir() {
        return Err(unwritable(path, &std::io::ErrorKind::IsADirectory.into()));
    }
    temporary_beside(path).map(drop).map_err(|e| unwritable(path, &e))
}

/// Replaces `path` by `data`: written to a temporary file beside it, flushed to the disk, then renamed over it. Whatever
/// happens, the file holds either all of the old or all of the new contents.
pub fn replace_file(path: impl AsRef<Path>, data: &[u8]) -> Result<()> {
    let path = path.as_ref();
    let fail = |e: std::io::Error| unwritable(path, &e);
    let mut file = temporary_beside(path).map_err(fail)?;
    file.write_all(data).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(path).map_err(|e| fail(e.error))?;
    // Makes the rename itself durable; a file system that cannot do it has still renamed.
    if let Ok(d) = std::fs::File::open(directory_of(path)) {
        let _ = d.sync_all();
    }
    Ok(())
}

/// A JSON object that is only checked for repeated keys, which JSON parsers let pass.
struct UniqueNames;

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = UniqueNames;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<UniqueNames, A::Error> {
                let mut seen = BTreeSet::new();
                while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    if let Some(key) = seen.replace(key) {
                        return Err(serde::de::Error::custom(format!("tensor name {key} appears twice")));
                    }
                }
                Ok(UniqueNames)
            }
        }
        d.deserialize_map(Keys)
    }
}
