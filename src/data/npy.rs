//! Arrays of f32 in NumPy's files: `.npy` (NEP 1, versions 1 to 3) and `.npz`, a zip archive of them (PKWARE's APPNOTE,
//! entries stored or deflated).

use crate::{Error, Result};
use std::io::Read;
use std::path::Path;

/// Unpacked bytes of an array, at most.
const MOST: u64 = 8 << 30;

/// An array of f32, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

type Outcome<T> = std::result::Result<T, String>;

/// Reads a `.npy` file, or the array `name` of a `.npz` file (told by its content). Errors name the file.
pub fn load(path: &Path, name: &str) -> Result<Array> {
    let data = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    parse(&data, name).map_err(|e| Error::file(path, e))
}

/// Returns the array in the bytes of a `.npy` file, or the array `name` in those of a `.npz` file, or what is wrong with them.
pub fn parse(data: &[u8], name: &str) -> std::result::Result<Array, String> {
    if data.starts_with(b"PK") { array(&member(data, name)?) } else { array(data) }
}

/// The array in the bytes of a `.npy` file.
fn array(data: &[u8]) -> Outcome<Array> {
    let cut = "is cut off";
    let rest = data.strip_prefix(b"\x93NUMPY").ok_or("is neither a .npy nor a .npz file")?;
    let version = *rest.first().ok_or(cut)?;
    let (length, start) = match version {
        1 => (usize::from(number::<2>(rest, 2).map(u16::from_le_bytes)?), 4),
        2 | 3 => (number::<4>(rest, 2).map(u32::from_le_bytes)? as usize, 6),
        _ => return Err(format!("is of .npy version {version}; 1 to 3 are understood")),
    };
    let header = rest.get(start..).and_then(|r| r.get(..length)).ok_or(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| "has a header that is no text")?;
    let after = |key: &str| {
        let found = header.split_once(&format!("'{key}':")).map(|(_, v)| v.trim_start());
        found.ok_or_else(|| format!("has a header without '{key}': {}", header.trim()))
    };
    if !after("descr")?.starts_with("'<f4'") {
        return Err(format!("holds no f32 ('<f4'): {}; save it with .astype(numpy.float32)", header.trim()));
    }
    if !after("fortran_order")?.starts_with("False") {
        return Err("is in Fortran order; save numpy.ascontiguousarray of it".into());
    }
    let dims = after("shape")?.strip_prefix('(').and_then(|s| s.split_once(')'));
    let dims = dims.ok_or_else(|| format!("has a header without a shape: {}", header.trim()))?.0;
    let sizes = dims.split(',').map(str::trim).filter(|d| !d.is_empty());
    let shape: Vec<usize> =
        sizes.map(|d| d.parse().map_err(|_| format!("has a shape of '{d}'"))).collect::<Outcome<_>>()?;
    let bytes = shape.iter().try_fold(4usize, |a, &d| a.checked_mul(d));
    let body = rest.get(start + length..).ok_or(cut)?;
    if bytes != Some(body.len()) {
        return Err(format!("has {} bytes behind its header, which do not fit f32 of shape {shape:?}", body.len()));
    }
    let values = body.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
    Ok(Array { shape, values })
}

/// The `N` bytes at `at`.
fn number<const N: usize>(data: &[u8], at: usize) -> Outcome<[u8; N]> {
    let bytes = at.checked_add(N).and_then(|end| data.get(at..end)).ok_or("is cut off")?;
    Ok(bytes.try_into().expect("N bytes"))
}

/// The content of entry `NAME.npy` of a zip archive.
fn member(zip: &[u8], name: &str) -> Outcome<Vec<u8>> {
    let word = |at: usize| number::<4>(zip, at).map(|b| u32::from_le_bytes(b) as usize);
    let half = |at: usize| number::<2>(zip, at).map(|b| usize::from(u16::from_le_bytes(b)));
    // The record at the end may be followed by a comment of up to 64 KiB.
    let end = (zip.len().saturating_sub(22 + 65_535)..=zip.len().saturating_sub(22)).rev();
    let mut found = end.filter(|&at| zip.get(at..).is_some_and(|r| r.starts_with(b"PK\x05\x06")));
    let end = found.next().ok_or("is a zip archive that is cut off")?;
    let (count, mut at) = (half(end + 10)?, word(end + 16)?);
    let wanted = format!("{name}.npy");
    let mut names = Vec::new();
    for _ in 0..count {
        if word(at)? != 0x0201_4b50 {
            return Err("is a broken zip archive".into());
        }
        let (method, packed, size) = (half(at + 10)?, word(at + 20)?, word(at + 24)?);
        let (length, extra, comment, local) = (half(at + 28)?, half(at + 30)?, half(at + 32)?, word(at + 42)?);
        let file = zip.get(at + 46..).and_then(|r| r.get(..length)).ok_or("is a broken zip archive")?;
        let file = String::from_utf8_lossy(file).into_owned();
        if file == wanted {
            let start = local + 30 + half(local + 26)? + half(local + 28)?;
            let body = zip.get(start..).and_then(|r| r.get(..packed)).ok_or("is a zip archive that is cut off")?;
            return unpack(body, method, size as u64);
        }
        names.push(file);
        at += 46 + length + extra + comment;
    }
    Err(format!("holds no array '{name}', but {}", names.join(", ")))
}

fn unpack(body: &[u8], method: usize, size: u64) -> Outcome<Vec<u8>> {
    match method {
        0 => Ok(body.to_vec()),
        8 if size <= MOST => {
            let mut out = Vec::new();
            let mut limited = flate2::read::DeflateDecoder::new(body).take(size);
            limited.read_to_end(&mut out).map_err(|e| format!("cannot be unpacked: {e}"))?;
            Ok(out)
        }
        8 => Err(format!("unpacks to {size} bytes; {MOST} are read at most")),
        other => Err(format!("is packed by method {other}; save it with numpy.savez or savez_compressed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, values: &[f32]) -> Vec<u8> {
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.as_bytes());
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        file
    }

    /// One stored entry, as `numpy.savez` writes it.
    fn zip(name: &str, content: &[u8]) -> Vec<u8> {
        let (n, size) = ((name.len() as u16).to_le_bytes(), (content.len() as u32).to_le_bytes());
        let shared = [&[0; 14][..], &size, &size, &n].concat();
        let mut file = [&b"PK\x03\x04\x14\x00"[..], &shared[2..], &[0; 2], name.as_bytes(), content].concat();
        let start = file.len() as u32;
        file.extend([&b"PK\x01\x02\x14\x00\x14\x00"[..], &shared[2..], &[0; 16], name.as_bytes()].concat());
        let length = (file.len() as u32 - start).to_le_bytes();
        let counts = [1u16, 1].map(u16::to_le_bytes).concat();
        file.extend([&b"PK\x05\x06\0\0\0\0"[..], &counts, &length, &start.to_le_bytes(), &[0; 2]].concat());
        file
    }

    const HEADER: &str = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";

    #[test]
    fn arrays_are_read_alone_and_from_an_archive() {
        let values = [1.0, -2.5, 3.0, 0.0, 5.0, 6.25];
        let file = npy(HEADER, &values);
        let want = Array { shape: vec![2, 3], values: values.to_vec() };
        assert_eq!(array(&file).unwrap(), want);
        let archive = zip("x.npy", &file);
        assert_eq!(parse(&archive, "x").unwrap(), want);
        assert!(parse(&archive, "y").unwrap_err().contains("x.npy"));
        let scalar = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", &[7.0]);
        assert_eq!(array(&scalar).unwrap().values, [7.0]);
    }

    #[test]
    fn spoiled_files_are_refused() {
        let file = npy(HEADER, &[0.0; 6]);
        let archive = zip("x.npy", &file);
        for cut in 0..archive.len() {
            assert!(parse(&archive[..cut], "x").is_err(), "{cut} bytes were read");
        }
        for cut in 0..file.len() {
            assert!(array(&file[..cut]).is_err(), "{cut} bytes were read");
        }
        for (old, new, word) in [("<f4", "<f8", "f32"), ("False", "True", "Fortran"), ("(2, 3)", "(2, 4)", "[2, 4]")] {
            let message = array(&npy(&HEADER.replace(old, new), &[0.0; 6])).unwrap_err();
            assert!(message.contains(word), "{message}");
        }
        let huge = HEADER.replace("(2, 3)", "(99999999999, 99999999999)");
        assert!(array(&npy(&huge, &[])).is_err());
    }
}
