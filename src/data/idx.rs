//! idx files (MNIST, Fashion-MNIST): <http://yann.lecun.com/exdb/mnist/>, big-endian.
//!
//! Magic `00 00 08 D` with D dimensions, D u32 sizes, then u8 values.

use super::Dataset;
use crate::{Error, Result};
use std::path::Path;

/// An array of bytes with its dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idx {
    pub dims: Vec<usize>,
    pub values: Vec<u8>,
}

/// Reads one idx file of u8, or says what is wrong with it.
pub fn parse(data: &[u8]) -> std::result::Result<Idx, String> {
    let Some(&[zero0, zero1, dtype, rank]) = data.first_chunk::<4>() else {
        return Err(format!("{} bytes cannot hold an idx header", data.len()));
    };
    if (zero0, zero1) != (0, 0) {
        return Err(format!("starts with {:02x?}, not with 00 00: no idx file", &data[..4]));
    }
    if dtype != 0x08 {
        return Err(format!("element type 0x{dtype:02x}; only 0x08 (u8) is supported"));
    }
    if !(1..=4).contains(&rank) {
        return Err(format!("{rank} dimensions; expected 1 to 4"));
    }
    let start = 4 + 4 * usize::from(rank);
    let Some(sizes) = data.get(4..start) else {
        return Err(format!("{} bytes end inside the {start}-byte header", data.len()));
    };
    let dims: Vec<usize> =
        sizes.chunks_exact(4).map(|b| u32::from_be_bytes(b.try_into().expect("4 bytes")) as usize).collect();
    let elements = dims.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
    let values = &data[start..];
    if elements != Some(values.len()) {
        let want = elements.map_or("more bytes than can be counted".into(), |e| format!("{e} bytes"));
        return Err(format!("dimensions {dims:?} need {want}, the file has {} after its header", values.len()));
    }
    Ok(Idx { dims, values: values.to_vec() })
}

/// Joins an image array `[n h w]` or `[n h w c]` and a label array `[n]`. `classes` is the largest label + 1.
pub fn join(images: Idx, labels: Idx) -> std::result::Result<Dataset, String> {
    let (n, h, w, c) = match images.dims[..] {
        [n, h, w] => (n, h, w, 1),
        [n, h, w, c] => (n, h, w, c),
        _ => return Err(format!("images have dimensions {:?}; expected n h w or n h w c", images.dims)),
    };
    if n == 0 || h == 0 || w == 0 || c == 0 {
        return Err(format!("images have dimensions {:?}: no pixels", images.dims));
    }
    if labels.dims != [n] {
        return Err(format!("labels have dimensions {:?}, but there are {n} images", labels.dims));
    }
    let classes = labels.values.iter().max().map_or(0, |&m| usize::from(m) + 1);
    let labels = labels.values.into_iter().map(u32::from).collect();
    Ok(Dataset { name: "idx".into(), images: images.values, labels, n, h, w, c, classes })
}

/// Reads an image file and its label file; `.gz` is unpacked.
pub fn load(images: impl AsRef<Path>, labels: impl AsRef<Path>) -> Result<Dataset> {
    let read = |path: &Path| -> Result<Idx> {
        parse(&super::read_maybe_gz(path)?).map_err(|detail| Error::file(path, detail))
    };
    let (images, labels) = (images.as_ref(), labels.as_ref());
    let (pixels, classes) = (read(images)?, read(labels)?);
    let mut set = join(pixels, classes).map_err(|d| Error::file(images, format!("with {}: {d}", labels.display())))?;
    set.name = images.file_name().unwrap_or(images.as_os_str()).to_string_lossy().into_owned();
    Ok(set)
}
