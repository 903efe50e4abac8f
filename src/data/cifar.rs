//! CIFAR binary records: <https://www.cs.toronto.edu/~kriz/cifar.html>.
//!
//! CIFAR-10: 1 label byte; CIFAR-100: coarse label, fine label; then 3072 pixel bytes as planes R, G, B of 32x32.

use super::Dataset;
use crate::{Error, Result};
use std::path::Path;

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

/// Which of the two record formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Cifar10,
    /// The fine label is used.
    Cifar100,
}

impl Kind {
    /// Label bytes before the pixels.
    pub const fn label_bytes(self) -> usize {
        match self {
            Self::Cifar10 => 1,
            Self::Cifar100 => 2,
        }
    }
    pub const fn classes(self) -> usize {
        match self {
            Self::Cifar10 => 10,
            Self::Cifar100 => 100,
        }
    }
    /// Bytes per image.
    pub const fn record(self) -> usize {
        self.label_bytes() + PIXELS
    }
}

/// Reads one file of records; `.gz` is unpacked.
pub fn load(path: impl AsRef<Path>, kind: Kind) -> Result<Dataset> {
    let path = path.as_ref();
    let data = super::read_maybe_gz(path)?;
    let mut set = parse(&data, kind).map_err(|detail| Error::file(path, detail))?;
    set.name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok(set)
}

/// Images (NHWC) and labels of concatenated records, or what is wrong with them.
pub fn parse(data: &[u8], kind: Kind) -> std::result::Result<Dataset, String> {
    let record = kind.record();
    if data.is_empty() {
        return Err("the file is empty; expected CIFAR binary records".into());
    }
    if data.len() % record != 0 {
        return Err(format!(
            "{} bytes are not a whole number of {record}-byte {kind:?} records ({} left over); is it the binary version, \
             complete?",
            data.len(),
            data.len() % record
        ));
    }
    let n = data.len() / record;
    let mut images = Vec::with_capacity(n * PIXELS);
    let mut labels = Vec::with_capacity(n);
    for (i, r) in data.chunks_exact(record).enumerate() {
        let (head, planes) = r.split_at(kind.label_bytes());
        let label = head[head.len() - 1];
        if usize::from(label) >= kind.classes() {
            return Err(format!("record {i}: label {label} is not below {}", kind.classes()));
        }
        labels.push(u32::from(label));
        let (red, rest) = planes.split_at(SIDE * SIDE);
        let (green, blue) = rest.split_at(SIDE * SIDE);
        images.extend(red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]));
    }
    let name = format!("{kind:?}");
    Ok(Dataset { name, images, labels, n, h: SIDE, w: SIDE, c: 3, classes: kind.classes() })
}
