//! Boxes and flips drawn as random-resized crop draws them.

use super::OP;
use crate::Result;
use crate::device::Device;
use crate::ops::random::uniform;
use crate::tensor::Tensor;

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropSpec {
    /// Range of the box's share of the image's area, within `0..=1`, low first: ClusterQ `[0.8, 1]`, IntraQ `[0.5, 1]`.
    pub scale: [f32; 2],
    /// Range of width / height, drawn evenly in its logarithm.
    pub ratio: [f32; 2],
    /// Probability that an image is flipped.
    pub flip: f32,
}

impl CropSpec {
    /// Ratios from 3/4 to 4/3 and flips of every second image, as is usual.
    pub fn new(scale: [f32; 2]) -> Self {
        Self { scale, ratio: [3.0 / 4.0, 4.0 / 3.0], flip: 0.5 }
    }
}

/// Draws before the fallback.
const ATTEMPTS: usize = 10;
/// Random numbers of one image: area, ratio, top, left of each attempt, flip.
const NUMBERS: usize = 4 * ATTEMPTS + 1;

/// One box (y0, x0, height, width, whole input pixels inside the image) and flip per image: `boxes[n 4]`, F32, and
/// `flips[n]`, I32, 0 or 1, for [`super::crop_flip`].
///
/// Per image: an area `scale * h * w` and a ratio give a height and width, rounded; if they fit in the image, so does a
/// place, evenly. After ten misses the middle of the image is taken, as large as the ratio range allows (Inception's
/// crop, Szegedy et al. 2015, as PyTorch's RandomResizedCrop draws it). All numbers are [`uniform`] ones of `seed` and
/// `stream`, so image `i` gets the same box whatever `n` is, on all devices. Errors on an empty image, on ranges that are not
/// positive and in order, on an area above 1 and on a probability outside `0..=1`.
pub fn draw_crops(
    device: &Device,
    [n, h, w]: [usize; 3],
    spec: CropSpec,
    seed: u64,
    stream: u64,
) -> Result<(Tensor, Tensor)> {
    let CropSpec { scale, ratio, flip } = spec;
    let ordered = |[low, high]: [f32; 2]| 0.0 < low && low <= high && high.is_finite();
    crate::ensure_op!(
        n * h * w > 0 && ordered(scale) && scale[1] <= 1.0 && ordered(ratio) && (0.0..=1.0).contains(&flip),
        OP,
        "cannot draw {n} crops of {h}x{w} images as {spec:?}"
    );
    let numbers = uniform(&Device::cpu(), [n, NUMBERS], seed, stream)?;
    let numbers = numbers.host::<f32>();
    let boxes: Vec<f32> = numbers.chunks_exact(NUMBERS).flat_map(|u| one(u, h, w, spec)).collect();
    let flips: Vec<i32> = numbers.chunks_exact(NUMBERS).map(|u| i32::from(u[NUMBERS - 1] < flip)).collect();
    Ok((Tensor::from_slice(device, [n, 4], &boxes)?, Tensor::from_slice(device, [n], &flips)?))
}

/// The box that the numbers `u` draw.
fn one(u: &[f32], h: usize, w: usize, spec: CropSpec) -> [f32; 4] {
    let [low, high] = spec.ratio.map(f64::from);
    let [least, most] = spec.scale.map(f64::from);
    let (tall, wide) = (h as f64, w as f64);
    for u in u[..4 * ATTEMPTS].chunks_exact(4) {
        let [area, ratio, top, left] = [u[0], u[1], u[2], u[3]].map(f64::from);
        let area = tall * wide * (least + (most - least) * area);
        let ratio = (low.ln() + (high.ln() - low.ln()) * ratio).exp();
        let (height, width) = ((area / ratio).sqrt().round(), (area * ratio).sqrt().round());
        if 0.0 < height && height <= tall && 0.0 < width && width <= wide {
            let place = |u: f64, room: f64| (u * (room + 1.0)).floor();
            return [place(top, tall - height), place(left, wide - width), height, width].map(|v| v as f32);
        }
    }
    let (height, width) = match wide / tall {
        r if r < low => ((wide / low).round().clamp(1.0, tall), wide),
        r if r > high => (tall, (tall * high).round().clamp(1.0, wide)),
        _ => (tall, wide),
    };
    [((tall - height) / 2.0).floor(), ((wide - width) / 2.0).floor(), height, width].map(|v| v as f32)
}
