//! Folders of image files, without labels: PNG and JPEG.

use super::Dataset;
use crate::{Error, Result};
use image::imageops::{self, FilterType};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Endings of files that are read.
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Lists the image files in `folder` and the folders below it, sorted by path. Links to folders are not followed.
///
/// Errors if a folder cannot be read, or none holds an image file.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(dir) = open.pop() {
        let fail = |e: std::io::Error| Error::file(&dir, format!("cannot be read: {e}"));
        for entry in std::fs::read_dir(&dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
            if entry.file_type().map_err(fail)?.is_dir() {
                open.push(path);
            } else if ending.is_some_and(|e| ENDINGS.contains(&&e[..])) {
                found.push(path);
            }
        }
    }
    if found.is_empty() {
        return Err(Error::file(folder, format!("holds no image files (.{})", ENDINGS.join(", ."))));
    }
    found.sort();
    Ok(found)
}

/// Reads image files as `h w c` pixels each, c = 1 (gray) or 3. An image of another size is resized so that it covers
/// `h` x `w`, and cropped around its centre. The set has no labels: all are 0.
///
/// Errors name the file that is broken, or say that files have no such number of channels.
pub fn read(files: &[PathBuf], [h, w, c]: [usize; 3]) -> Result<Dataset> {
    if c != 1 && c != 3 {
        let detail =
            format!("the network takes {c} channels, and image files have 1 or 3; give a set (idx:IMAGES,LABELS)");
        return Err(Error::config("--images", detail));
    }
    let images: Vec<Vec<u8>> = files.par_iter().map(|path| pixels(path, [h, w, c])).collect::<Result<_>>()?;
    let n = files.len();
    Ok(Dataset { name: "images".into(), images: images.concat(), labels: vec![0; n], n, h, w, c, classes: 1 })
}

/// The pixels of one file, as [`read`] says.
fn pixels(path: &Path, [h, w, c]: [usize; 3]) -> Result<Vec<u8>> {
    let mut reader = image::ImageReader::open(path).map_err(|e| Error::file(path, e))?;
    // A small file may claim to be a large image.
    reader.limits(image::Limits::default());
    let reader = reader.with_guessed_format().map_err(|e| Error::file(path, e))?;
    let image = reader.decode().map_err(|e| Error::file(path, format!("cannot be read as an image: {e}")))?;
    let (height, width) = (image.height() as usize, image.width() as usize);
    // One side fits, the other is as long or longer.
    let (tall, wide) = if height * w <= width * h {
        (h, (width * h).div_ceil(height.max(1)).max(w))
    } else {
        ((height * w).div_ceil(width.max(1)).max(h), w)
    };
    let (top, left) = ((tall - h) / 2, (wide - w) / 2);
    let size = [wide, tall, left, top, w, h].map(|v| v as u32);
    Ok(if c == 1 { covering(image.to_luma8(), size) } else { covering(image.to_rgb8(), size) })
}

/// `image` resized to `wide` x `tall`, of which the part `[left, top, w, h]` is taken.
fn covering<P>(image: image::ImageBuffer<P, Vec<u8>>, [wide, tall, left, top, w, h]: [u32; 6]) -> Vec<u8>
where
    P: image::Pixel<Subpixel = u8> + 'static,
{
    let image = match image.dimensions() {
        size if size == (wide, tall) => image,
        _ => imageops::resize(&image, wide, tall, FilterType::Triangle),
    };
    imageops::crop_imm(&image, left, top, w, h).to_image().into_raw()
}
