//! Tensors whose values lie in a file beside the model, as PyTorch's default exporter writes them.

use super::Outcome;
use crate::tensor::onnx::TensorProto;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// Files beside a model, at most.
const MAX_FILES: usize = 1 << 12;

/// The folder of a model. Only what lies inside it is read.
pub struct Folder {
    root: PathBuf,
    files: RefCell<HashMap<String, (File, u64)>>,
}

impl Folder {
    /// The folder that the model at `path` lies in.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { root: parent.canonicalize()?, files: RefCell::default() })
    }

    /// Bytes of all files that `tensors` refer to; those that cannot be read count as none.
    pub fn bytes<'a>(&self, tensors: impl Iterator<Item = &'a TensorProto>) -> u64 {
        for t in tensors.filter(|t| t.data_location != 0) {
            if let Ok(place) = Place::of(t) {
                let _ = self.open(place.location);
            }
        }
        self.files.borrow().values().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    fn open(&self, location: &str) -> Outcome<u64> {
        if let Some((_, bytes)) = self.files.borrow().get(location) {
            return Ok(*bytes);
        }
        if self.files.borrow().len() >= MAX_FILES {
            return Err(format!("the model refers to more than {MAX_FILES} files"));
        }
        let relative = Path::new(location);
        if location.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        {
            return Err(format!("refers to '{location}'; a file in the model's own folder is expected"));
        }
        let missing = |e: std::io::Error| {
            format!(
                "lies in '{location}', which cannot be read ({e}); keep that file beside the model, under this name"
            )
        };
        let path = self.root.join(relative).canonicalize().map_err(missing)?;
        if !path.starts_with(&self.root) {
            return Err(format!("refers to '{location}', a link that leads out of the model's folder"));
        }
        let file = File::open(&path).map_err(missing)?;
        let about = file.metadata().map_err(missing)?;
        if !about.is_file() {
            return Err(format!("refers to '{location}', which is no file"));
        }
        self.files.borrow_mut().insert(location.into(), (file, about.len()));
        Ok(about.len())
    }

    /// The bytes of `t`, of which there must be `expected`.
    pub fn read(&self, t: &TensorProto, expected: usize) -> Outcome<Vec<u8>> {
        let place = Place::of(t)?;
        let size = self.open(place.location)?;
        let length = place.length.unwrap_or(expected as u64);
        if length != expected as u64 {
            return Err(format!(
                "of shape {:?} takes {expected} bytes, but {length} are said to be in '{}'",
                t.dims, place.location
            ));
        }
        if place.offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(format!(
                "lies at bytes {} to {} of '{}', which has {size}; export the model again",
                place.offset,
                place.offset.saturating_add(length),
                place.location
            ));
        }
        let mut files = self.files.borrow_mut();
        let (file, _) = files.get_mut(place.location).ok_or("lies in a file that is not open")?;
        let mut bytes = vec![0; expected];
        let read = file.seek(SeekFrom::Start(place.offset)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|e| format!("cannot be read from '{}': {e}", place.location))?;
        Ok(bytes)
    }
}

/// Where the values of a tensor lie.
struct Place<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl<'a> Place<'a> {
    fn of(t: &'a TensorProto) -> Outcome<Self> {
        let text = |key: &str| t.external_data.iter().find(|e| e.key == key).map(|e| &e.value[..]);
        let number = |key: &str| {
            let parse = |v: &str| v.parse::<u64>().map_err(|_| format!("has {key} = '{v}' in another file"));
            text(key).map(parse).transpose()
        };
        let location = text("location").ok_or("lies in another file, but does not say in which")?;
        Ok(Self { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}
