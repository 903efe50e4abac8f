//! Sample images as one PNG.

use crate::data::Normalization;
use crate::tensor::Tensor;
use crate::tensor::io::replace_file;
use crate::{Error, Result};
use image::{ImageFormat, Rgb, RgbImage};
use std::io::Cursor;
use std::path::Path;

/// Pixels between two images.
const GAP: usize = 2;

/// The images of `x` (f32 `[n h w c]`, normalized by `norm`; the first three channels) side by side, `columns` to a row, each pixel
/// drawn as a `scale` x `scale` square. Values beyond the range of a byte are clamped, NaN is black.
pub fn grid(x: &Tensor, norm: &Normalization, columns: usize, scale: usize) -> Result<RgbImage> {
    let shape = x.shape();
    crate::ensure_op!(shape.len() == 4 && !x.is_empty(), "grid", "needs images n h w c, got {shape}");
    crate::ensure_op!(columns > 0 && scale > 0, "grid", "columns {columns} and scale {scale} must be positive");
    let [n, h, w, c] = [shape[0], shape[1], shape[2], shape[3]];
    let values = x.to_f64()?;
    let columns = columns.min(n);
    let side = |cells: usize, size: usize| (cells * (size * scale + GAP) + GAP) as u32;
    let mut out = RgbImage::from_pixel(side(columns, w), side(n.div_ceil(columns), h), Rgb([40, 40, 40]));
    for (i, image) in values.chunks_exact(h * w * c).enumerate() {
        let (left, top) = (GAP + i % columns * (w * scale + GAP), GAP + i / columns * (h * scale + GAP));
        for py in 0..h * scale {
            for px in 0..w * scale {
                let at = (py / scale * w + px / scale) * c;
                let rgb = std::array::from_fn(|k| norm.inverse(image[at + k.min(c - 1)] as f32, k.min(c - 1)));
                out.put_pixel((left + px) as u32, (top + py) as u32, Rgb(rgb));
            }
        }
    }
    Ok(out)
}

/// Writes [`grid`] as a PNG file, eight images to a row, doubled.
pub fn save_grid(path: impl AsRef<Path>, x: &Tensor, norm: &Normalization) -> Result<()> {
    save(path.as_ref(), &grid(x, norm, 8, 2)?)
}

/// Replaces `path` by the image.
pub(super) fn save(path: &Path, image: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(|e| Error::file(path, format!("cannot be encoded: {e}")))?;
    replace_file(path, bytes.get_ref())
}
